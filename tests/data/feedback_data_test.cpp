// SPDX-License-Identifier: MIT
#include <attune/data/feedback_data.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <attune/data/preference_data.hpp>
#include <attune/testing/dataset_laws.hpp>

using namespace attune;

namespace {
using ids = std::vector<token_id>;
bool same(std::span<token_id const> a, ids const& b) { return ids(a.begin(), a.end()) == b; }

template <class T>
concept HasView = requires(T&& data) {
  { unpaired(std::forward<T>(data)) } -> FeedbackDataset;
};
}  // namespace

TEST_CASE("feedback_data: rows come back as they were put in, weights from where the first one is not 1") {
  feedback_data data;
  for (token_id i = 1; i < 300; ++i)
    data.push_back({ids(static_cast<std::size_t>(i), i), ids(static_cast<std::size_t>(300 - i), -i), i % 3 == 0,
                    i < 100 ? 1.0 : 0.5 * i});
  REQUIRE(data.size() == 299);
  for (token_id i = 299; i >= 1; --i) {
    judged_completion const row = data[static_cast<std::size_t>(i - 1)];
    CHECK(same(row.prompt, ids(static_cast<std::size_t>(i), i)));
    CHECK(same(row.completion, ids(static_cast<std::size_t>(300 - i), -i)));
    CHECK(row.desirable == (i % 3 == 0));
    CHECK(row.weight == (i < 100 ? 1.0 : 0.5 * i));
  }
  CHECK(data.total_tokens() == 299 * 300);
  testing::expect_laws(testing::check_dataset_laws(data));
}

TEST_CASE("feedback_data: an empty prompt or completion and a weight that cannot be are refused") {
  feedback_data data;
  ids const one{1};
  CHECK_THROWS_AS(data.push_back({{}, one, true}), contract_violation);
  CHECK_THROWS_AS(data.push_back({one, {}, true}), contract_violation);
  for (double const weight : {-0.5, std::nan(""), HUGE_VAL})
    CHECK_THROWS_AS(data.push_back({one, one, true, weight}), contract_violation);
  CHECK(data.size() == 0);
}

TEST_CASE("unpaired: chosen as desirable and rejected as undesirable, in the pairs' order, without a copy") {
  preference_data pairs;
  pairs.push_back({ids{1, 2}, ids{3}, ids{4, 5}, 0.0});
  pairs.push_back({ids{6}, ids{7}, ids{8}, 0.0});
  auto const feedback = unpaired(pairs);
  static_assert(FeedbackDataset<decltype(feedback)>);
  static_assert(HasView<preference_data&>);
  static_assert(!HasView<preference_data>);  // the data would be gone
  REQUIRE(feedback.size() == 4);
  CHECK(same(feedback[0].prompt, {1, 2}));
  CHECK(same(feedback[0].completion, {3}));
  CHECK(feedback[0].desirable);
  CHECK(same(feedback[1].prompt, {1, 2}));
  CHECK(same(feedback[1].completion, {4, 5}));
  CHECK(!feedback[1].desirable);
  CHECK(same(feedback[2].completion, {7}));
  CHECK(same(feedback[3].completion, {8}));
  CHECK(feedback[3].weight == 1.0);
  CHECK(feedback[1].prompt.data() == pairs[0].prompt.data());
  testing::expect_laws(testing::check_dataset_laws(feedback));
}
