// SPDX-License-Identifier: MIT
#pragma once

#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>

#include <cstdint>
#include <initializer_list>
#include <vector>

namespace attune::test {

/// Sequences of the given lengths with uniform tokens, the first third of each (one token at least) a prompt.
inline sequences random_sequences(std::initializer_list<std::size_t> lengths, std::size_t vocabulary, std::uint64_t seed) {
  random_stream random(seed);
  sequences out;
  for (std::size_t const length : lengths) {
    std::vector<token_id> tokens(length);
    for (token_id& t : tokens) t = static_cast<token_id>(random.below(vocabulary));
    std::size_t const prompt = length == 0 ? 0 : 1 + (length - 1) / 3;
    std::span<token_id const> const all(tokens);
    out.push_back(all.first(prompt), all.subspan(prompt));
  }
  return out;
}

}  // namespace attune::test
