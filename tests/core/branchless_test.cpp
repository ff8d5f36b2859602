// SPDX-License-Identifier: MIT
#include <attune/core/branchless.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include <attune/core/random.hpp>

using namespace attune;

namespace {

// Distance in units in the last place of the exact value, whose rounding is within half of one.
double ulps(double got, long double exact) {
  double const unit = std::nextafter(std::abs(static_cast<double>(exact)), std::numeric_limits<double>::infinity()) -
                      std::abs(static_cast<double>(exact));
  return static_cast<double>(std::abs(static_cast<long double>(got) - exact) / static_cast<long double>(unit));
}

}  // namespace

TEST_CASE("branchless: e^x is within two units in the last place wherever a double's precision holds it") {
  random_stream stream(1);
  double worst = 0.0;
  for (std::size_t i = 0; i < 200000; ++i) {
    double const u = stream.uniform();
    double const x = i % 3 == 0 ? -708.0 * u : i % 3 == 1 ? -2.0 * u : -std::exp(-40.0 * u);
    worst = std::max(worst, ulps(exp_plain(x), std::exp(static_cast<long double>(x))));
    worst = std::max(worst, ulps(exp_plain(-x), std::exp(-static_cast<long double>(x))));
  }
  for (int n = 0; n < 1021; ++n)  // where the whole number changes
    for (double const side : {-1e-12, 0.0, 1e-12}) {
      double const x = -(n + 0.5) * 0.6931471805599453 + side;
      worst = std::max(worst, ulps(exp_plain(x), std::exp(static_cast<long double>(x))));
      worst = std::max(worst, ulps(exp_plain(-x), std::exp(-static_cast<long double>(x))));
    }
  CHECK(worst <= 2.0);
  CHECK(exp_plain(0.0) == 1.0);
  CHECK(exp_plain(-0.0) == 1.0);
}

TEST_CASE("branchless: log(1 + e) is within two units in the last place on [0, 1]") {
  random_stream stream(2);
  double worst = 0.0;
  for (std::size_t i = 0; i < 200000; ++i) {
    double const u = stream.uniform();
    double const e = i % 2 == 0 ? u : std::exp(-700.0 * u);
    worst = std::max(worst, ulps(log1p_unit(e), std::log1p(static_cast<long double>(e))));
  }
  CHECK(worst <= 2.0);
  CHECK(log1p_unit(0.0) == 0.0);
  CHECK(log1p_unit(1.0) == doctest::Approx(0.6931471805599453).epsilon(1e-16));
  CHECK(log1p_unit(5e-324) == 5e-324);
}

TEST_CASE("branchless: far below 0 there is 0, and NaN stays NaN") {
  double const inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(exp_plain(-708.5) == 0.0);
  CHECK(exp_plain(-1e4) == 0.0);
  CHECK(exp_plain(-std::numeric_limits<double>::max()) == 0.0);
  CHECK(exp_plain(-inf) == 0.0);
  CHECK(exp_plain(-707.9) > 0.0);
  CHECK(exp_plain(-5e-324) == 1.0);
  CHECK(exp_plain(709.7827) < inf);
  CHECK(exp_plain(709.79) == inf);
  CHECK(exp_plain(1e308) == inf);
  CHECK(exp_plain(inf) == inf);
  CHECK(std::isnan(exp_plain(nan)));
  CHECK(std::isnan(log1p_unit(nan)));
}
