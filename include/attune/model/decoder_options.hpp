// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <cstddef>
#include <map>
#include <string>

#include <attune/core/contract.hpp>

namespace attune {

/// The shape of a Llama-family decoder. Defaults make a small byte-level model.
struct decoder_options {
  std::size_t vocabulary = 0;    ///< token ids lie in [0, vocabulary); must be set
  std::size_t dim = 128;         ///< width of the residual stream; a multiple of 2 * heads
  std::size_t layers = 4;        ///< >= 1
  std::size_t heads = 4;         ///< query heads; divides dim
  std::size_t kv_heads = 4;      ///< key/value heads; divides heads (grouped-query attention)
  std::size_t hidden = 344;      ///< width of the feed-forward layer; by custom about 8/3 dim
  std::size_t window = 512;      ///< longest sequence, in tokens
  double rope_theta = 10000.0;   ///< base of the rotary frequencies; > 0
  double norm_epsilon = 1e-5;    ///< added to the mean square in RMSNorm; > 0
  bool tied = true;              ///< the output matrix is the token embedding

  friend bool operator==(decoder_options const&, decoder_options const&) = default;
};

inline void validate(decoder_options const& o) {
  expects(o.vocabulary >= 1, "decoder_options.vocabulary >= 1", o.vocabulary);
  expects(o.layers >= 1, "decoder_options.layers >= 1", o.layers);
  expects(o.heads >= 1 && o.dim % (2 * o.heads) == 0 && o.dim > 0, "decoder_options.dim a multiple of 2 * heads",
          o.dim);
  expects(o.kv_heads >= 1 && o.heads % o.kv_heads == 0, "decoder_options.kv_heads divides heads", o.kv_heads);
  expects(o.hidden >= 1, "decoder_options.hidden >= 1", o.hidden);
  expects(o.window >= 2, "decoder_options.window >= 2", o.window);
  expects(o.rope_theta > 0.0, "decoder_options.rope_theta > 0", o.rope_theta);
  expects(o.norm_epsilon > 0.0, "decoder_options.norm_epsilon > 0", o.norm_epsilon);
}

/// The options as text, for a model file's metadata; numbers round-trip exactly.
[[nodiscard]] inline std::map<std::string, std::string> to_metadata(decoder_options const& o) {
  auto const text = [](auto value) {
    char buffer[64];
    auto const end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
    return std::string(buffer, end);
  };
  return {{"architecture", "attune.decoder"},
          {"vocabulary", text(o.vocabulary)},
          {"dim", text(o.dim)},
          {"layers", text(o.layers)},
          {"heads", text(o.heads)},
          {"kv_heads", text(o.kv_heads)},
          {"hidden", text(o.hidden)},
          {"window", text(o.window)},
          {"rope_theta", text(o.rope_theta)},
          {"norm_epsilon", text(o.norm_epsilon)},
          {"tied", o.tied ? "true" : "false"}};
}

/// The inverse. Throws data_error naming the field that is missing or malformed.
[[nodiscard]] inline decoder_options decoder_options_from(std::map<std::string, std::string> const& metadata) {
  auto const field = [&](char const* name) -> std::string const& {
    auto const found = metadata.find(name);
    if (found == metadata.end()) throw data_error(std::string("model metadata: field \"") + name + "\" is missing");
    return found->second;
  };
  auto const read = [&](char const* name, auto& value) {
    std::string const& text = field(name);
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size())
      throw data_error(std::string("model metadata: field \"") + name + "\" is not a number: \"" + text + "\"");
  };
  if (field("architecture") != "attune.decoder")
    throw data_error("model metadata: architecture \"" + field("architecture") + "\" is not \"attune.decoder\"");
  decoder_options o;
  read("vocabulary", o.vocabulary);
  read("dim", o.dim);
  read("layers", o.layers);
  read("heads", o.heads);
  read("kv_heads", o.kv_heads);
  read("hidden", o.hidden);
  read("window", o.window);
  read("rope_theta", o.rope_theta);
  read("norm_epsilon", o.norm_epsilon);
  std::string const& tied = field("tied");
  if (tied != "true" && tied != "false")
    throw data_error("model metadata: field \"tied\" is not true or false: \"" + tied + "\"");
  o.tied = tied == "true";
  validate(o);
  return o;
}

}  // namespace attune
