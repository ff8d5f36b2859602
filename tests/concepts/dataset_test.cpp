// SPDX-License-Identifier: MIT
#include <attune/concepts/dataset.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

using namespace attune;

namespace {

struct demonstrations_archetype {
  std::size_t size() const { return 0; }
  demonstration operator[](std::size_t) const { return {}; }
};
struct pairs_archetype {
  std::size_t size() const { return 0; }
  preference_pair operator[](std::size_t) const { return {}; }
};
// A row of one's own that converts.
struct own_row {
  std::vector<token_id> text;
  operator preference_pair() const { return {text, text, text, 0.0}; }
};
struct own_rows {
  std::vector<own_row> rows;
  int size() const { return static_cast<int>(rows.size()); }
  own_row const& operator[](std::size_t i) const { return rows[i]; }
};

struct no_size {
  preference_pair operator[](std::size_t) const { return {}; }
};
struct no_random_access {
  std::size_t size() const { return 0; }
  preference_pair next() { return {}; }
};
struct access_not_const {
  std::size_t size() const { return 0; }
  preference_pair operator[](std::size_t) { return {}; }
};
struct rows_of_text {
  std::size_t size() const { return 0; }
  char const* operator[](std::size_t) const { return ""; }
};

}  // namespace

static_assert(DemonstrationDataset<demonstrations_archetype> && !PreferenceDataset<demonstrations_archetype>);
static_assert(PreferenceDataset<pairs_archetype> && !DemonstrationDataset<pairs_archetype>);
static_assert(PreferenceDataset<own_rows>);
static_assert(PreferenceDataset<std::vector<preference_pair>>, "a vector will do");
static_assert(!PreferenceDataset<no_size>);
static_assert(!PreferenceDataset<no_random_access>);
static_assert(!PreferenceDataset<access_not_const>);
static_assert(!PreferenceDataset<rows_of_text> && !DemonstrationDataset<rows_of_text>);

TEST_CASE("dataset: rows of one's own are read through their conversion") {
  own_rows const data{{{{1, 2}}}};
  preference_pair const p = data[0];
  CHECK(p.chosen.size() == 2);
  CHECK(p.margin == 0.0);
}
