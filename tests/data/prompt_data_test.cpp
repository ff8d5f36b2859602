// SPDX-License-Identifier: MIT
#include <attune/data/prompt_data.hpp>

#include <doctest/doctest.h>

#include <vector>

#include <attune/core/fingerprint.hpp>
#include <attune/testing/dataset_laws.hpp>

using namespace attune;

namespace {
using ids = std::vector<token_id>;
}  // namespace

static_assert(!DemonstrationDataset<prompt_data> && !PreferenceDataset<prompt_data>);

TEST_CASE("prompt_data: rows come back as they were put in, in any order of calls") {
  prompt_data data;
  for (token_id i = 1; i < 2000; ++i) data.push_back(ids(static_cast<std::size_t>(i), i));
  REQUIRE(data.size() == 1999);
  std::size_t wrong = 0;
  for (std::size_t i = data.size(); i-- > 0;)
    wrong += ids(data[i].prompt.begin(), data[i].prompt.end()) != ids(i + 1, static_cast<token_id>(i + 1));
  CHECK(wrong == 0);
  CHECK(data.total_tokens() == 1999 * 1000);
  CHECK(testing::check_dataset_laws(data).empty());
}

TEST_CASE("prompt_data: the fingerprint tells prompts apart") {
  prompt_data a, b, c;
  for (prompt_data* const data : {&a, &b}) data->push_back(ids{1, 2}), data->push_back(ids{3});
  c.push_back(ids{1});
  c.push_back(ids{2, 3});
  CHECK(fingerprint(a) == fingerprint(b));
  CHECK(fingerprint(a) != fingerprint(c));
}

TEST_CASE("prompt_data: an empty prompt is refused") {
  prompt_data data;
  CHECK_THROWS_AS(data.push_back({}), contract_violation);
  CHECK(data.size() == 0);
}
