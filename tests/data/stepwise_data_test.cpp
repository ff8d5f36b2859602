// SPDX-License-Identifier: MIT
#include <attune/data/stepwise_data.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include <attune/testing/dataset_laws.hpp>

#include "support/small_world.hpp"

using namespace attune;

TEST_CASE("stepwise_data: rows come back as they were put in") {
  auto const rows = test::random_solutions(300, 9, 1);
  stepwise_data data;
  std::size_t tokens = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) data.push_back(rows[i]);
  REQUIRE(data.size() == 300);
  for (std::size_t i = 300; i-- > 0;) {
    stepwise_completion const row = data[i];
    CHECK(std::ranges::equal(row.prompt, rows.rows[i].prompt));
    CHECK(std::ranges::equal(row.completion, rows.rows[i].completion));
    CHECK(std::ranges::equal(row.step_ends, rows.rows[i].step_ends));
    CHECK(std::ranges::equal(row.labels, rows.rows[i].labels));
    tokens += row.prompt.size() + row.completion.size();
  }
  CHECK(data.total_tokens() == tokens);
  testing::expect_laws(testing::check_dataset_laws(data));
}

TEST_CASE("stepwise_data: a row without a token, or with steps that cannot be, is refused") {
  stepwise_data data;
  test::token_list const some{1, 2, 3}, none;
  auto const refused = [&](test::token_list const& prompt, test::token_list const& completion,
                           std::vector<std::size_t> const& ends, std::vector<std::uint8_t> const& labels) {
    CHECK_THROWS_AS(data.push_back({prompt, completion, ends, labels}), contract_violation);
  };
  refused(none, some, {1}, {1});
  refused(some, none, {1}, {1});
  refused(some, some, {}, {});
  refused(some, some, {1, 2}, {1});
  refused(some, some, {0}, {1});
  refused(some, some, {2, 2}, {1, 1});
  refused(some, some, {4}, {1});
  refused(some, some, {3}, {2});
  CHECK(data.size() == 0);
}
