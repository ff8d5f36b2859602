// SPDX-License-Identifier: MIT
#include <attune/eval/pairwise_accuracy.hpp>

#include "support/small_world.hpp"

#include <attune/model/frozen.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace attune;

TEST_CASE("pairwise accuracy: it counts the pairs whose chosen response scores strictly higher") {
  auto const pairs = test::random_pairs(101, 6, 5);
  auto score = [](sequences_view s, std::span<double> out) {  // the longer, the better
    for (std::size_t b = 0; b < s.size(); ++b) out[b] = static_cast<double>(completion_tokens(s.sequence_mask(b)));
  };
  std::size_t longer = 0, ties = 0;
  for (auto const& row : pairs.rows) {
    longer += row.chosen.size() > row.rejected.size();
    ties += row.chosen.size() == row.rejected.size();
  }
  REQUIRE(ties > 0);
  for (std::size_t const budget : {0u, 1u, 40u}) {  // batching changes nothing
    proportion const p = pairwise_accuracy(score, pairs, budget);
    CHECK(p.hits == longer);
    CHECK(p.trials == 101);
    CHECK(p.low < p.value);
    CHECK(p.value < p.high);
    CHECK(p.low == wilson_interval(longer, 101).low);
  }
}

TEST_CASE("pairwise accuracy: a model that cannot tell is at 0, not at 1/2") {
  auto const pairs = test::random_pairs(10, 6, 5);
  auto constant = [](sequences_view, std::span<double> out) { std::fill(out.begin(), out.end(), 1.0); };
  CHECK(pairwise_accuracy(constant, pairs).value == 0.0);
}

TEST_CASE("pairwise accuracy: a policy judges by its log-probability, in sum or per token") {
  tabular_policy<double> const uniform({.vocabulary = 4});
  test::pair_list const pairs{{{{0}, {1}, {2, 3}}, {{0}, {1, 1, 1}, {2}}}};
  log_prob_score sum(uniform), mean(uniform, true);
  CHECK(pairwise_accuracy(sum, pairs).hits == 1);   // the shorter is the more probable
  CHECK(pairwise_accuracy(mean, pairs).hits == 0);  // per token all are alike
}

TEST_CASE("pairwise accuracy: the implicit reward is beta times the log-ratio") {
  auto const policy = test::random_tabular<double>({.vocabulary = 4}, 1);
  auto const reference = test::random_tabular<double>({.vocabulary = 4}, 2);
  implicit_reward reward(policy, reference, 0.5);
  sequences s;
  s.push_back(test::token_list{0}, test::token_list{1, 2});
  std::vector<double> score(1), p(3), r(3);
  reward(s, score);
  policy.log_probs(s, p);
  reference.log_probs(s, r);
  CHECK(score[0] == doctest::Approx(0.5 * (p[1] + p[2] - r[1] - r[2])).epsilon(1e-14));
  CHECK_THROWS_AS(implicit_reward(policy, reference, 0.0), contract_violation);
}

TEST_CASE("pairwise accuracy: no pairs, or a score that is not finite, are refused") {
  auto broken = [](sequences_view s, std::span<double> out) {
    for (std::size_t b = 0; b < s.size(); ++b) out[b] = s.sequence(b).front() == 3 ? std::nan("") : 1.0;
  };
  test::pair_list pairs;
  CHECK_THROWS_AS(static_cast<void>(pairwise_accuracy(broken, pairs)), contract_violation);
  pairs.rows = {{{0}, {1}, {2}}, {{3}, {1}, {2}}};
  CHECK_THROWS_WITH_AS(static_cast<void>(pairwise_accuracy(broken, pairs)),
                       "pairwise_accuracy: the scores of pair 1 are not finite", contract_violation);
}
