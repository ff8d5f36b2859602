// SPDX-License-Identifier: MIT
#include <attune/testing/broken_law.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace attune::testing;

TEST_CASE("laws: unbroken laws pass, broken ones are thrown with name and evidence") {
  CHECK_NOTHROW(expect_laws({}));
  CHECK_THROWS_WITH_AS(expect_laws({{"pure", "a"}, {"local", "b"}}), "pure: a; local: b", law_violation);
}

TEST_CASE("laws: a book keeps the first evidence of each law") {
  law_book book;
  book.expect(true, "pure", "never");
  book.expect(false, "local", "first");
  book.expect(false, "local", "second");
  auto const broken = std::move(book).broken();
  CHECK(broken.size() == 1);
  CHECK(broken[0].evidence == "first");
  CHECK(breaks(broken, "local"));
  CHECK(!breaks(broken, "pure"));
}

TEST_CASE("laws: NaN is never close to anything, but has equal bits with itself") {
  std::vector<double> const a{1.0, std::nan("")}, b{1.0, 2.0}, shorter{1.0};
  auto const view = [](std::vector<double> const& v) { return std::span<double const>(v); };
  CHECK(std::isinf(largest_difference(view(a), view(b))));
  CHECK(std::isinf(largest_difference(view(a), view(a))));
  CHECK(std::isinf(largest_difference(view(b), view(shorter))));
  CHECK(largest_difference(view(b), view(b)) == 0.0);
  CHECK(same_bits(view(a), view(a)));
  std::vector<double> const zero{0.0}, minus_zero{-0.0};
  CHECK(!same_bits(view(zero), view(minus_zero)));
  CHECK(largest_difference(view(zero), view(minus_zero)) == 0.0);
}
