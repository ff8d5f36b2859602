// SPDX-License-Identifier: MIT
#include <attune/testing/gradient_check.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace attune::testing;

TEST_CASE("relative_error: is relative to the larger, absolute below the floor, and NaN for NaN") {
  CHECK(relative_error(1.0, 1.0) == 0.0);
  CHECK(relative_error(0.0, 0.0) == 0.0);
  CHECK(relative_error(2.0, 1.0) == 0.5);
  CHECK(relative_error(1e-200, 2e-200) == 0.5);
  CHECK(relative_error(1e-9, 0.0, 1.0) == doctest::Approx(1e-9));
  CHECK(relative_error(-1.0, 1.0) == 2.0);
  CHECK(std::isnan(relative_error(1.0, std::nan(""))));
}

TEST_CASE("central_difference: differentiates, and puts the variable back to the bit") {
  double x = 0.1;
  double const slope = central_difference([&] { return std::exp(3 * x); }, x);
  CHECK(slope == doctest::Approx(3 * std::exp(0.3)).epsilon(1e-9));
  CHECK(x == 0.1);
}

TEST_CASE("check_gradient: passes a right gradient and names the worst element of a wrong one") {
  std::vector<double> x{0.5, -1.0, 2.0};
  auto const f = [&] { return x[0] * x[1] + std::sin(x[2]); };
  std::vector<double> gradient{-1.0, 0.5, std::cos(2.0)};
  CHECK(check_gradient(f, x, gradient).worst_error <= 1e-9);
  gradient[1] = 0.6;
  auto const report = check_gradient(f, x, gradient);
  CHECK(report.worst_error == doctest::Approx(1.0 / 6).epsilon(1e-6));
  CHECK(report.worst_index == 1);
  CHECK(report.expected == doctest::Approx(0.5));
  CHECK(report.actual == 0.6);
}

TEST_CASE("check_gradient: NaN in a gradient is the worst error there is") {
  std::vector<double> x{1.0}, gradient{std::nan("")};
  CHECK(check_gradient([&] { return x[0]; }, x, gradient).worst_error == std::numeric_limits<double>::infinity());
}
