// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>

#include <attune/model/decoder.hpp>
#include <attune/model/scalar_head.hpp>

#include "training_program.hpp"

namespace programs {

/// A reward model as the program reward_model writes it, for responses of `policy`. data_error names the file and what is
/// wrong with it.
inline attune::scalar_head<float> read_reward_model(std::string const& file, attune::decoder<float> const& policy) {
  std::map<std::string, std::string> metadata = attune::read_metadata(file);
  auto const refuse = [&](std::string const& reason) { throw attune::data_error(file + ": " + reason); };
  if (metadata["head"] != "score") refuse("no reward model, as the program reward_model writes it");
  attune::decoder_options const shape = shape_of(file, metadata);
  std::size_t const window = policy.options().window;
  if (shape.window < window)
    refuse("its window is " + std::to_string(shape.window) + ", the policy's " + std::to_string(window));
  std::optional<attune::score_pooling> const pooling = attune::score_pooling_of(metadata["pooling"]);
  if (!pooling) refuse("unknown pooling \"" + metadata["pooling"] + "\"");
  attune::scalar_head<float> model(shape, 0, policy.trunk().shared_pool(), *pooling);
  attune::load_parameters(file, model.parameters());
  return model;
}

}  // namespace programs
