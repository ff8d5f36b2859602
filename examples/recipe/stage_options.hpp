// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include <attune/train/loop_options.hpp>

namespace recipe {

/// What differs from stage to stage; the rest of the loop's options is the same for all.
struct stage_options {
  double learning_rate;           ///< peak; > 0
  std::size_t batch_size;         ///< examples or pairs per step
  double epochs = 1.0;            ///< passes over the data
  std::size_t warmup_steps = 50;  ///< of rising learning rate
};

/// Where a run keeps its checkpoints, and whether it goes on from them.
struct checkpoint_place {
  std::string folder = {};  ///< of the run, with a folder for every stage in it; empty: none are made
  bool resume = false;
};

inline attune::loop_options loop_of(stage_options const& o, std::size_t examples, std::uint64_t seed,
                                    checkpoint_place const& place, std::string const& stage) {
  double const steps = o.epochs * static_cast<double>(examples) / static_cast<double>(o.batch_size);
  auto const share = [&](double parts) { return std::max<std::size_t>(1, static_cast<std::size_t>(steps / parts)); };
  return {.learning_rate = o.learning_rate,
          .schedule = attune::learning_rate_schedule::linear,
          .warmup_steps = std::min(o.warmup_steps, static_cast<std::size_t>(steps / 10.0)),
          .epochs = o.epochs,
          .batch_size = o.batch_size,
          .seed = seed,
          .logging_steps = share(50.0),
          .save_steps = place.folder.empty() ? 0 : share(5.0),
          .checkpoint_folder = place.folder.empty() ? std::string() : place.folder + "/" + stage,
          .resume = place.resume};
}

}  // namespace recipe
