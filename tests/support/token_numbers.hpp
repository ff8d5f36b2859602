// SPDX-License-Identifier: MIT
#pragma once

#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>

#include "support/random_sequences.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace attune::test {

/// A number per token in float, and the same in double: NaN where the mask is 0, which nobody is to read.
struct token_numbers {
  std::vector<float> narrow;
  std::vector<double> wide;

  token_numbers(sequences_view batch, double mean, double deviation, std::uint64_t seed) {
    random_stream random(seed);
    for (std::uint8_t const m : batch.mask) {
      double const x = mean + deviation * random.normal();
      narrow.push_back(m != 0 ? static_cast<float>(x) : std::numeric_limits<float>::quiet_NaN());
    }
    wide.assign(narrow.begin(), narrow.end());
  }
};

/// Eight sequences, longer than a warp and of a token or two, with gaps in some completions.
struct token_batch {
  std::vector<token_id> tokens;
  std::vector<std::size_t> offsets;
  std::vector<std::uint8_t> mask;

  explicit token_batch(std::size_t vocabulary, std::uint64_t seed = 3) {
    sequences const text = random_sequences({40, 2, 150, 9, 33, 34, 65, 5}, vocabulary, seed);
    sequences_view const all = text.view();
    tokens.assign(all.tokens.begin(), all.tokens.end());
    offsets.assign(all.offsets.begin(), all.offsets.end());
    mask.assign(all.mask.begin(), all.mask.end());
    for (std::size_t t = 30; t < 230; t += 7) mask[t] = 0;
    mask[41] = 1;  // the only token of its completion
  }
  sequences_view view() const { return {.tokens = tokens, .offsets = offsets, .mask = mask}; }
};

}  // namespace attune::test
