// SPDX-License-Identifier: MIT
#pragma once

#include <attune/core/contract.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/sequence_sums.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace attune::test {

/// Two pairs of short responses with log-probabilities, and a way to put an objective over tokens to them.
struct two_pairs {
  sequences text;
  std::vector<double> logps, slopes;

  two_pairs() {
    std::vector<token_id> const prompt{1, 2}, reply{3, 4, 5};
    for (std::size_t length : {3u, 1u, 2u, 2u}) text.push_back(prompt, std::span<token_id const>(reply).first(length));
    random_stream stream(3);
    for (std::uint8_t const m : text.view().mask) logps.push_back(m != 0 ? -4.0 * stream.uniform() : 0.0);
    slopes.assign(logps.size(), 0.0);
  }
  std::vector<double> sums() const {
    std::vector<double> result(text.size());
    sequence_sums<double>(logps, text, result);
    return result;
  }
  template <class Objective>
  double ask(Objective&& objective) {
    return objective(text.view(), std::span<double const>(logps), std::span<double>(slopes));
  }
  template <class Objective>
  std::string message_of(Objective&& objective) {
    try {
      ask(objective);
    } catch (contract_violation const& e) {
      return e.what();
    }
    return "no error";
  }
};

}  // namespace attune::test
