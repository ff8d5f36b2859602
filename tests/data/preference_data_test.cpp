// SPDX-License-Identifier: MIT
#include <attune/data/preference_data.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <vector>

#include <attune/core/fingerprint.hpp>
#include <attune/core/random.hpp>

using namespace attune;

namespace {

using ids = std::vector<token_id>;
struct owned {
  ids prompt, chosen, rejected;
  double margin = 0.0;
};

bool same(std::span<token_id const> a, ids const& b) { return ids(a.begin(), a.end()) == b; }

}  // namespace

TEST_CASE("preference_data: rows come back as they were put in, in any order of calls, margins too") {
  random_stream random(5);
  std::vector<owned> rows;
  preference_data data;
  for (int i = 0; i < 3000; ++i) {
    owned row;
    for (ids* part : {&row.prompt, &row.chosen, &row.rejected})
      for (std::uint64_t n = 1 + random.below(300); n > 0; --n)
        part->push_back(static_cast<token_id>(random.below(1000)));
    if (i >= 1000 && i % 3 == 0) row.margin = random.uniform();  // margins may begin late
    data.push_back({row.prompt, row.chosen, row.rejected, row.margin});
    rows.push_back(std::move(row));
  }
  REQUIRE(data.size() == rows.size());
  std::size_t wrong = 0;
  for (std::size_t i = rows.size(); i-- > 0;) {
    preference_pair const pair = data[i];
    wrong += !same(pair.prompt, rows[i].prompt) || !same(pair.chosen, rows[i].chosen) ||
             !same(pair.rejected, rows[i].rejected) || pair.margin != rows[i].margin;
  }
  CHECK(wrong == 0);
  CHECK(fingerprint(data) == fingerprint(rows));
}

TEST_CASE("preference_data: what breaks the laws of a dataset is refused") {
  preference_data data;
  ids const one{1};
  CHECK_THROWS_AS(data.push_back({{}, one, one, 0.0}), contract_violation);
  CHECK_THROWS_AS(data.push_back({one, {}, one, 0.0}), contract_violation);
  CHECK_THROWS_AS(data.push_back({one, one, {}, 0.0}), contract_violation);
  CHECK_THROWS_AS(data.push_back({one, one, one, std::numeric_limits<double>::infinity()}), contract_violation);
  CHECK_THROWS_AS(data.push_back({one, one, one, std::numeric_limits<double>::quiet_NaN()}), contract_violation);
  CHECK(data.size() == 0);
  CHECK(data.total_tokens() == 0);
}
