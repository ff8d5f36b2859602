// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/testing/broken_law.hpp>
#include <attune/testing/policy_laws.hpp>
#include <attune/testing/termed_policy_laws.hpp>

namespace attune::testing {

/// Laws of TemperedPolicy: the distribution at a temperature is that at 1 to the power of its inverse ("tempered"),
/// bits return with 1 ("restored"), what is no temperature is refused ("refuses"), a copy has the original's
/// ("copied"); and of a Policy all laws hold at another temperature, each under its own name.
template <TemperedPolicy P>
[[nodiscard]] std::vector<broken_law> check_tempered_policy_laws(P& policy, std::size_t vocabulary,
                                                                 policy_law_options o = {}) {
  using T = typename P::scalar;
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>;
  law_book book;
  random_stream random(o.seed, 9);
  double const before = policy.temperature();
  policy.set_temperature(1.0);
  sequences const batch = law_sequences(vocabulary, o, random);
  sequences every;  // all last tokens after the first sequence's beginning
  for (std::size_t v = 0; v < vocabulary; ++v) {
    token_id const next = static_cast<token_id>(v);
    every.push_back(batch.view().sequence(0).first(2), std::span(&next, std::size_t{1}));
  }
  auto const log_probs = [&](P const& p) {
    std::vector<T> out(every.total_tokens());
    p.log_probs(every, std::span<T>(out));
    return out;
  };
  std::vector<T> const plain = log_probs(policy);
  for (double const temperature : {0.5, 3.0}) {
    policy.set_temperature(temperature);
    book.expect(policy.temperature() == temperature, "tempered", "temperature() is not what was set");
    std::vector<T> const tempered = log_probs(policy);
    double sum = 0.0;
    for (std::size_t t = 2; t < plain.size(); t += 3) sum += std::exp(static_cast<double>(plain[t]) / temperature);
    for (std::size_t t = 2; t < plain.size(); t += 3) {
      double const expected = static_cast<double>(plain[t]) / temperature - std::log(sum);
      book.expect(std::abs(static_cast<double>(tempered[t]) - expected) <= tolerance * (1.0 + std::abs(expected)),
                  "tempered",
                  "at " + std::to_string(temperature) + " a log-probability is " + std::to_string(tempered[t]) +
                      ", expected " + std::to_string(expected));
    }
    if constexpr (std::copy_constructible<P>) {
      P const copy = policy;
      book.expect(copy.temperature() == temperature &&
                      same_bits(std::span<T const>(log_probs(copy)), std::span<T const>(tempered)),
                  "copied", "a copy has another temperature");
    }
  }
  for (double const wrong :
       {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    bool refused = false;
    try {
      policy.set_temperature(wrong);
    } catch (contract_violation const&) {
      refused = policy.temperature() == 3.0;
    }
    book.expect(refused, "refuses",
                "a temperature of " + std::to_string(wrong) + " was not, or changed the one there was");
  }
  if constexpr (Policy<P>) {
    policy.set_temperature(0.7);
    for (broken_law const& law : check_policy_laws(policy, vocabulary, o))
      book.expect(false, law.name.c_str(), law.evidence);
    if constexpr (TermedPolicy<P>)
      for (broken_law const& law : check_termed_policy_laws(policy, vocabulary, o))
        book.expect(false, law.name.c_str(), law.evidence);
  }
  policy.set_temperature(1.0);
  book.expect(same_bits(std::span<T const>(log_probs(policy)), std::span<T const>(plain)), "restored",
              "temperature 1 does not bring the bits back");
  policy.set_temperature(before);
  return std::move(book).broken();
}

}  // namespace attune::testing
