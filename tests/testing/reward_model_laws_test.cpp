// SPDX-License-Identifier: MIT
#include <attune/testing/reward_model_laws.hpp>

#include "support/small_world.hpp"

#include <doctest/doctest.h>

#include <cmath>

using namespace attune;
using namespace attune::testing;

TEST_CASE("reward model laws: a weight per token keeps them, as does a plain function") {
  test::token_score<double> model(5);
  auto const weights = model.parameters();
  for (std::size_t v = 0; v < 5; ++v) weights[0].value[v] = 0.1 * static_cast<double>(v) - 0.2;
  expect_laws(check_trainable_reward_model_laws(model, 5));
  test::token_score<float> single(5);
  expect_laws(check_trainable_reward_model_laws(single, 5));
  auto length = [](sequences_view s, std::span<double> out) {
    for (std::size_t b = 0; b < s.size(); ++b) out[b] = static_cast<double>(s.length(b));
  };
  expect_laws(check_reward_model_laws(length, 5));
}

TEST_CASE("reward model laws: impure, neighbour-dependent and infinite scores are named") {
  auto impure = [calls = 0](sequences_view, std::span<double> out) mutable {
    ++calls;
    for (double& x : out) x = calls;
  };
  CHECK(breaks(check_reward_model_laws(impure, 5), "pure"));
  auto ranked = [](sequences_view s, std::span<double> out) {
    for (std::size_t b = 0; b < s.size(); ++b) out[b] = static_cast<double>(b);
  };
  CHECK(breaks(check_reward_model_laws(ranked, 5), "local"));
  auto infinite = [](sequences_view, std::span<double> out) { std::fill(out.begin(), out.end(), -INFINITY); };
  CHECK(breaks(check_reward_model_laws(infinite, 5), "finite"));
}

TEST_CASE("reward model laws: a gradient that is off, and scores that disagree, are named") {
  struct wrong_gradient : test::token_score<double> {
    using test::token_score<double>::token_score;
    void accumulate_score_gradient(sequences_view s, score_slopes_of<double> ask) {
      test::token_score<double>::accumulate_score_gradient(s, [&](std::span<double const> scores, std::span<double> slopes) {
        ask(scores, slopes);
        for (double& x : slopes) x = -x;
      });
    }
  } wrong(5);
  CHECK(breaks(check_trainable_reward_model_laws(wrong, 5), "exact"));
  struct two_minds : test::token_score<double> {
    using test::token_score<double>::token_score;
    void operator()(sequences_view, std::span<double> out) const { std::fill(out.begin(), out.end(), 3.0); }
  } divided(5);
  CHECK(breaks(check_trainable_reward_model_laws(divided, 5), "consistent"));
}
