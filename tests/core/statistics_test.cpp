// SPDX-License-Identifier: MIT
#include <attune/core/statistics.hpp>

#include <doctest/doctest.h>

using namespace attune;

TEST_CASE("statistics: a metric sum is a weighted mean, however it was put together") {
  metric_sum a, b;
  a.add(2.0);
  a.add(5.0, 3.0);
  CHECK(a.mean() == 17.0 / 4.0);
  b.add(1.0, 4.0);
  a.add(b);
  CHECK(a.mean() == 21.0 / 8.0);
}

TEST_CASE("statistics: Wilson's interval meets published values") {
  // Newcombe 1998, table I (method 3, score): 81/263, 15/148, 0/20, 1/29.
  auto const check = [](std::size_t hits, std::size_t trials, double low, double high) {
    proportion const p = wilson_interval(hits, trials);
    CHECK(p.low == doctest::Approx(low).epsilon(5e-4));
    CHECK(p.high == doctest::Approx(high).epsilon(5e-4));
    CHECK(p.value == static_cast<double>(hits) / static_cast<double>(trials));
  };
  check(81, 263, 0.2553, 0.3662);
  check(15, 148, 0.0624, 0.1605);
  check(1, 29, 0.0061, 0.1718);
  proportion const none = wilson_interval(0, 20);
  CHECK(none.low == 0.0);
  CHECK(none.high == doctest::Approx(0.1611).epsilon(5e-4));
  CHECK(wilson_interval(20, 20).high == 1.0);
}

TEST_CASE("statistics: an interval of no trials, or of more hits than trials, is refused") {
  CHECK_THROWS_AS(static_cast<void>(wilson_interval(0, 0)), contract_violation);
  CHECK_THROWS_AS(static_cast<void>(wilson_interval(3, 2)), contract_violation);
}
