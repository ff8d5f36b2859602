// SPDX-License-Identifier: MIT
#include <attune/testing/worst_case_book.hpp>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

using attune::testing::broken_law;
using attune::testing::tried_law;
using attune::testing::worst_case_book;

namespace {
double const infinity = std::numeric_limits<double>::infinity();
double const not_a_number = std::numeric_limits<double>::quiet_NaN();
}  // namespace

TEST_CASE("worst_case_book: of each law the case that misses by the largest factor is kept") {
  worst_case_book book;
  book.compare("a", "fine", 1.0, 1.1L, 0.2);
  book.compare("a", "off by 2 tolerances", 1.0, 1.2L, 0.1);
  book.compare("a", "off by 50 tolerances", 1.0, 1.05L, 0.001);
  book.compare("a", "off by 3 tolerances", 1.0, 4.0L, 1.0);
  book.require("b", "said so", false);
  book.require("c", "never", true);
  std::vector<broken_law> const broken = std::move(book).broken();
  REQUIRE(broken.size() == 2);
  CHECK(broken[0].name == "a");
  CHECK(broken[0].evidence.find("off by 50 tolerances: expected 1.05, got 1") == 0);
  CHECK(broken[1].name == "b");
  CHECK(broken[1].evidence == "said so");
}

TEST_CASE("worst_case_book: NaN and infinity agree with themselves alone, within no tolerance") {
  worst_case_book agree;
  agree.compare("special", "", not_a_number, static_cast<long double>(not_a_number), 0.0);
  agree.compare("special", "", infinity, static_cast<long double>(infinity), 0.0);
  CHECK(std::move(agree).broken().empty());
  double const pairs[][2] = {
      {not_a_number, 1.0}, {1.0, not_a_number}, {infinity, 1.0}, {1.0, infinity}, {infinity, -infinity}};
  for (auto const& p : pairs) {
    worst_case_book differ;
    differ.compare("special", "", p[0], static_cast<long double>(p[1]), 1e300);
    CHECK(std::move(differ).broken().size() == 1);
  }
}

TEST_CASE("worst_case_book: a law that is kept has its worst case too, measured by what it was allowed") {
  worst_case_book book;
  book.compare("a", "exact", 1.0, 1.0L, 0.0);
  book.compare("a", "a tenth", 1.0, 1.5L, 5.0);
  book.compare("a", "a half", 1.0, 1.25L, 0.5);
  book.require("b", "true", true);
  std::vector<tried_law> const laws = book.laws();
  REQUIRE(laws.size() == 2);
  CHECK(laws[0].name == "a");
  CHECK(laws[0].comparisons == 3);
  CHECK(laws[0].error == 0.25);
  CHECK(laws[0].bound == 0.5);
  CHECK(laws[0].holds());
  CHECK(laws[0].evidence.find("a half: expected 1.25, got 1") == 0);
  CHECK(laws[1].holds());
  CHECK(laws[1].error == 0.0);
  CHECK(laws[1].evidence.empty());
  CHECK(attune::testing::broken_of(laws).empty());
  book.require("b", "false", false);
  CHECK(!book.laws()[1].holds());
  CHECK(book.laws()[1].comparisons == 2);
}
