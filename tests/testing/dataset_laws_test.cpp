// SPDX-License-Identifier: MIT
#include <attune/testing/dataset_laws.hpp>

#include "support/small_world.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <vector>

using namespace attune;
using namespace attune::testing;

TEST_CASE("dataset laws: lists in memory keep them") {
  expect_laws(check_dataset_laws(test::random_pairs(20, 5, 1)));
  expect_laws(check_dataset_laws(test::random_demonstrations(20, 5, 1)));
  expect_laws(check_dataset_laws(test::pair_list{}));
}

TEST_CASE("dataset laws: prompts alone keep them, and an empty one is named") {
  struct prompt_row {
    test::token_list prompt;
  };
  std::vector<prompt_row> prompts{{{1, 2}}, {{3}}, {{4, 0}}};
  expect_laws(check_dataset_laws(prompts));
  prompts[1].prompt.clear();
  auto const broken = check_dataset_laws(prompts);
  REQUIRE(breaks(broken, "not empty"));
  CHECK(broken[0].evidence == "row 1: the prompt has no token");
}

TEST_CASE("dataset laws: an empty prompt or completion and a margin of NaN are named by row") {
  auto pairs = test::random_pairs(5, 5, 1);
  pairs.rows[3].rejected.clear();
  auto const broken = check_dataset_laws(pairs);
  REQUIRE(breaks(broken, "not empty"));
  CHECK(broken[0].evidence == "row 3: a completion has no token");
  pairs = test::random_pairs(5, 5, 1);
  pairs.rows[1].prompt.clear();
  CHECK(breaks(check_dataset_laws(pairs), "not empty"));
  pairs = test::random_pairs(5, 5, 1);
  pairs.rows[1].margin = std::numeric_limits<double>::quiet_NaN();
  CHECK(breaks(check_dataset_laws(pairs), "finite margin"));
}

TEST_CASE("dataset laws: a dataset that depends on what was read before breaks them") {
  struct drifting {
    test::demonstration_list list = test::random_demonstrations(6, 5, 1);
    mutable std::size_t reads = 0;
    std::size_t size() const { return 6; }
    demonstration operator[](std::size_t i) const { return list[(i + reads++ / 6) % 6]; }
  };
  CHECK(breaks(check_dataset_laws(drifting{}), "repeatable"));
  struct growing {
    test::demonstration_list list = test::random_demonstrations(60, 5, 1);
    mutable std::size_t asked = 5;
    std::size_t size() const { return asked++; }
    demonstration operator[](std::size_t i) const { return list[i]; }
  };
  CHECK(breaks(check_dataset_laws(growing{}), "constant size"));
}

TEST_CASE("dataset laws: feedback and solutions in steps keep them; a weight or steps that cannot be are named") {
  expect_laws(check_dataset_laws(test::random_feedback(20, 5, 1)));
  expect_laws(check_dataset_laws(test::random_solutions(20, 5, 1)));
  for (double const weight : {-1.0, std::numeric_limits<double>::infinity()}) {
    auto feedback = test::random_feedback(5, 5, 1);
    feedback.rows[2].weight = weight;
    CHECK(breaks(check_dataset_laws(feedback), "finite weight"));
  }
  auto const broken = [](auto change) {
    auto solutions = test::random_solutions(5, 5, 1);
    change(solutions.rows[3]);
    return breaks(check_dataset_laws(solutions), "steps");
  };
  CHECK(broken([](auto& row) { row.step_ends.clear(), row.labels.clear(); }));
  CHECK(broken([](auto& row) { row.step_ends[0] = 0; }));
  CHECK(broken([](auto& row) { row.step_ends.back() = row.completion.size() + 1; }));
  CHECK(broken([](auto& row) { row.step_ends = {1, 1}, row.labels = {0, 0}; }));
  CHECK(broken([](auto& row) { row.labels.push_back(0); }));
  CHECK(broken([](auto& row) { row.labels[0] = 2; }));
  auto feedback = test::random_feedback(5, 5, 1);
  feedback.rows[4].completion.clear();
  CHECK(breaks(check_dataset_laws(feedback), "not empty"));
}

TEST_CASE("dataset laws: a judgement that changes between reads breaks them") {
  struct fickle {
    test::feedback_list list = test::random_feedback(6, 5, 1);
    mutable std::size_t reads = 0;
    std::size_t size() const { return 6; }
    judged_completion operator[](std::size_t i) const {
      judged_completion row = list[i];
      row.desirable = reads++ % 2 == 0;
      return row;
    }
  };
  CHECK(breaks(check_dataset_laws(fickle{}), "repeatable"));
}
