// SPDX-License-Identifier: MIT
#include <attune/objective/expects_finite.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace attune;

TEST_CASE("expects_finite: names the first element that is not finite, and its value") {
  std::vector<float> values{1.0f, -3e38f, 0.0f};
  CHECK_NOTHROW(expects_finite<float>(values, "f: x"));
  values[2] = -HUGE_VALF;
  CHECK_THROWS_WITH_AS(expects_finite<float>(values, "f: x"), "expected f: x[2] finite, got -inf", contract_violation);
  values[1] = HUGE_VALF;
  CHECK_THROWS_WITH_AS(expects_finite<float>(values, "f: x"), "expected f: x[1] finite, got inf", contract_violation);
  values[0] = -std::nanf("");
  CHECK_THROWS_WITH_AS(expects_finite<float>(values, "f: x"), "expected f: x[0] finite, got nan", contract_violation);
  CHECK_NOTHROW(expects_finite<float>({}, "f: x"));
}
