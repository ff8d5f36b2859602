// SPDX-License-Identifier: MIT
#include <attune/data/demonstration_data.hpp>

#include <doctest/doctest.h>

#include <concepts>
#include <vector>

#include <attune/data/preference_data.hpp>

using namespace attune;

namespace {
using ids = std::vector<token_id>;
bool same(std::span<token_id const> a, ids const& b) { return ids(a.begin(), a.end()) == b; }

template <class T>
concept HasView = requires(T&& data) {
  { demonstrations_of(std::forward<T>(data)) } -> DemonstrationDataset;
};
}  // namespace

TEST_CASE("demonstration_data: rows come back as they were put in") {
  demonstration_data data;
  for (token_id i = 1; i < 500; ++i)
    data.push_back({ids(static_cast<std::size_t>(i), i), ids(static_cast<std::size_t>(500 - i), -i)});
  REQUIRE(data.size() == 499);
  for (token_id i = 499; i >= 1; --i) {
    demonstration const row = data[static_cast<std::size_t>(i - 1)];
    CHECK(same(row.prompt, ids(static_cast<std::size_t>(i), i)));
    CHECK(same(row.completion, ids(static_cast<std::size_t>(500 - i), -i)));
  }
  CHECK(data.total_tokens() == 499 * 500);
}

TEST_CASE("demonstration_data: an empty prompt or completion is refused") {
  demonstration_data data;
  ids const one{1};
  CHECK_THROWS_AS(data.push_back({{}, one}), contract_violation);
  CHECK_THROWS_AS(data.push_back({one, {}}), contract_violation);
  CHECK(data.size() == 0);
}

TEST_CASE("demonstrations_of: the chosen replies of a preference dataset, without a copy") {
  preference_data pairs;
  pairs.push_back({ids{1, 2}, ids{3}, ids{4, 5}, 0.0});
  auto const demonstrations = demonstrations_of(pairs);
  static_assert(DemonstrationDataset<decltype(demonstrations)>);
  static_assert(HasView<preference_data&>);
  static_assert(!HasView<preference_data>);  // the data would be gone
  REQUIRE(demonstrations.size() == 1);
  CHECK(same(demonstrations[0].prompt, {1, 2}));
  CHECK(same(demonstrations[0].completion, {3}));
  CHECK(demonstrations[0].prompt.data() == pairs[0].prompt.data());
}
