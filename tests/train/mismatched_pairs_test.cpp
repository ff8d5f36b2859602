// SPDX-License-Identifier: MIT
#include <attune/train/mismatched_pairs.hpp>

#include "support/small_world.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

using namespace attune;
using attune::test::token_list;

namespace {

step_batches step_of(test::feedback_list const& rows, std::vector<std::size_t> const& order, std::size_t budget) {
  step_batches step(budget);
  for (std::size_t const i : order) step.push_back(rows[i], i);
  return step;
}

std::string refusal(step_batches const& step, std::size_t max_length = 0) {
  step_batches out(0);
  try {
    mismatched_pairs(step, out, max_length);
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE(
    "mismatched pairs: every prompt meets the next example's completion, the last the first's, however the step is "
    "cut") {
  auto const rows = test::random_feedback(9, 6, 1);
  std::vector<std::size_t> const order{4, 0, 8, 2, 7, 1};
  for (std::size_t const budget : {0u, 1u, 17u}) {
    step_batches const step = step_of(rows, order, budget);
    step_batches out(budget);
    for (int round = 0; round < 2; ++round) mismatched_pairs(step, out);  // what was in it is gone
    CHECK(out.examples() == order.size());
    std::size_t next = 0;
    for (std::size_t i = 0; i < out.size(); ++i)
      for (std::size_t b = 0; b < out[i].sequences.size(); ++b, ++next) {
        auto const& mine = rows.rows[order[next]];
        auto const& other = rows.rows[order[(next + 1) % order.size()]];
        token_list expected = mine.prompt;
        expected.insert(expected.end(), other.completion.begin(), other.completion.end());
        CHECK(std::ranges::equal(out[i].sequences.sequence(b), expected));
        CHECK(completion_tokens(out[i].sequences.sequence_mask(b)) == other.completion.size());
        CHECK(out[i].examples[b] == order[next]);
      }
    CHECK(next == order.size());
    if (budget == 1) CHECK(out.size() == order.size());
  }
}

TEST_CASE("mismatched pairs: max_length cuts completions at their end, and is refused where a prompt fills it") {
  test::feedback_list const rows{{{{1, 2, 3}, {4}, true}, {{5}, {6, 7, 8, 9}, false}}};
  step_batches const step = step_of(rows, {0, 1}, 0);
  step_batches out(0);
  mismatched_pairs(step, out, 5);
  CHECK(std::ranges::equal(out[0].sequences.sequence(0), token_list{1, 2, 3, 6, 7}));
  CHECK(std::ranges::equal(out[0].sequences.sequence(1), token_list{5, 4}));
  CHECK(refusal(step, 4) == "no error");
  CHECK(refusal(step, 3) ==
        "example 0: its prompt has 3 tokens, which leaves none of max_length 3 for a mismatched completion");
}

TEST_CASE("mismatched pairs: a single example and a step of pairs are refused") {
  auto const rows = test::random_feedback(3, 6, 1);
  CHECK(refusal(step_of(rows, {2}, 0)) ==
        "expected mismatched_pairs: a step of two examples or more; a single one has no other completion, got 1");
  CHECK(refusal(step_batches(0)) ==
        "expected mismatched_pairs: a step of two examples or more; a single one has no other completion, got 0");
  auto const pairs = test::random_pairs(3, 6, 1);
  step_batches step(0);
  for (std::size_t i = 0; i < 3; ++i) step.push_back(pairs[i], i);
  CHECK(refusal(step) == "expected mismatched_pairs: one sequence per example, got 6");
}
