// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/reward_model.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/testing/broken_law.hpp>
#include <attune/testing/differentiable_laws.hpp>
#include <attune/testing/policy_laws.hpp>

namespace attune::testing {

/// Laws of RewardModel: "finite", "pure", "local" (a score does not depend on the neighbours nor on their order).
template <RewardModel M>
[[nodiscard]] std::vector<broken_law> check_reward_model_laws(M& model, std::size_t vocabulary,
                                                              policy_law_options o = {}) {
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<float>;
  law_book book;
  random_stream random(o.seed, 4);
  sequences const batch = law_sequences(vocabulary, o, random);
  sequences_view const s = batch;
  auto const scores = [&](sequences_view v) {
    std::vector<double> out(v.size(), 77.0);
    model(v, std::span<double>(out));
    return out;
  };
  std::vector<double> const first = scores(s);
  book.expect(same_bits(std::span<double const>(first), std::span<double const>(scores(s))), "pure",
              "a second call wrote other bits");
  sequences reversed;
  for (std::size_t b = s.size(); b-- > 0;) reversed.push_back_masked(s.sequence(b), s.sequence_mask(b));
  std::vector<double> backwards = scores(reversed);
  std::reverse(backwards.begin(), backwards.end());
  for (std::size_t b = 0; b < s.size(); ++b) {
    std::string const which = "sequence " + std::to_string(b) + ": " + std::to_string(first[b]);
    sequences alone;
    alone.push_back_masked(s.sequence(b), s.sequence_mask(b));
    double const by_itself = scores(alone)[0];
    double const allowed = tolerance * (1.0 + std::abs(first[b]));
    book.expect(std::isfinite(first[b]), "finite", which);
    book.expect(std::abs(by_itself - first[b]) <= allowed, "local", which + ", alone " + std::to_string(by_itself));
    book.expect(std::abs(backwards[b] - first[b]) <= allowed, "local",
                which + ", in a reversed batch " + std::to_string(backwards[b]));
  }
  return std::move(book).broken();
}

/// Laws of TrainableRewardModel: RewardModel's, and "consistent" (scores, operator() and ask agree), "asks once",
/// "linear", "exact", "accumulates", "stable", "ask throws". Parameters are moved and put back.
template <TrainableRewardModel M>
[[nodiscard]] std::vector<broken_law> check_trainable_reward_model_laws(M& model, std::size_t vocabulary,
                                                                        policy_law_options o = {}) {
  using T = typename M::scalar;
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>;
  law_book book;
  for (broken_law const& law : check_reward_model_laws(model, vocabulary, o))
    book.expect(false, law.name.c_str(), law.evidence);
  random_stream random(o.seed, 5);
  sequences const batch = law_sequences(vocabulary, o, random);
  sequences_view const s = batch;
  auto const outputs = [&] {
    std::vector<T> out(s.size());
    static_cast<M const&>(model).scores(s, std::span<T>(out));
    return out;
  };
  std::vector<T> const expected = outputs();
  std::vector<double> called(s.size());
  model(s, std::span<double>(called));
  for (std::size_t b = 0; b < s.size(); ++b)
    book.expect(std::abs(called[b] - static_cast<double>(expected[b])) <= tolerance * (1.0 + std::abs(called[b])),
                "consistent",
                "scores says " + std::to_string(expected[b]) + ", the call operator " + std::to_string(called[b]));
  std::size_t asked = 0;
  model.accumulate_score_gradient(s, [&](std::span<T const> scores, std::span<T> ask) {
    ++asked;
    double const off = largest_difference(scores, std::span<T const>(expected));
    book.expect(off <= tolerance, "consistent", "ask sees scores off by " + std::to_string(off));
    std::fill(ask.begin(), ask.end(), T(0));
  });
  book.expect(asked == 1, "asks once", "ask was called " + std::to_string(asked) + " times");
  std::vector<T> slopes(s.size());
  for (T& slope : slopes) slope = static_cast<T>(0.5 + random.uniform());
  check_differentiable_laws(
      book, model, slopes, random, tolerance, outputs,
      [&](std::vector<T> const& given) {
        model.accumulate_score_gradient(
            s, [&](std::span<T const>, std::span<T> ask) { std::copy(given.begin(), given.end(), ask.begin()); });
      },
      [&] {
        model.accumulate_score_gradient(s, [](std::span<T const>, std::span<T>) { throw law_violation("on purpose"); });
      });
  return std::move(book).broken();
}

}  // namespace attune::testing
