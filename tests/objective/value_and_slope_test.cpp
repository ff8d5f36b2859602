// SPDX-License-Identifier: MIT
#include <attune/objective/value_and_slope.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <vector>

#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

using namespace attune;

TEST_CASE("negative_log_sigmoid: at 0 it is log 2 with slope -1/2") {
  auto const at_zero = negative_log_sigmoid(0.0);
  CHECK(at_zero.value == std::numbers::ln2);
  CHECK(at_zero.slope == -0.5);
}

TEST_CASE("negative_log_sigmoid: value and slope are softplus(-z) and -sigmoid(-z) to the last bits, far out too") {
  using dual = testing::dual_number<double>;
  double const least = 1e-292;  // beyond z = 708 it is 0, where e^-z has lost digits of its own
  for (double z = -800.0; z <= 800.0; z += 0.37) {
    auto const ours = negative_log_sigmoid(z);
    CHECK(testing::relative_error(ours.value, softplus(-z), least) <= 1e-15);
    CHECK(testing::relative_error(ours.slope, -sigmoid(-z), least) <= 1e-15);
    CHECK(testing::relative_error(ours.slope, negative_log_sigmoid(dual(z, 1)).value.derivative, least) <= 1e-13);
    CHECK(testing::relative_error(ours.slope, negative_log_sigmoid(dual(z, 1)).slope.value, least) <= 1e-15);
    float const slope = negative_log_sigmoid(static_cast<float>(z)).slope;
    double const rounded = static_cast<double>(static_cast<float>(z));
    CHECK(testing::relative_error(static_cast<double>(slope), -sigmoid(-rounded), 1e-30) <= 3e-7);
  }
}

TEST_CASE("negative_log_sigmoids: of many, each is that of one, bit for bit") {
  std::vector<double> z{0.0, -0.0, 800.0, -800.0, 1e308, -1e308};
  for (double x = -40.0; x <= 40.0; x += 0.37) z.push_back(x);
  for (std::size_t const count : {std::size_t{0}, std::size_t{1}, z.size()}) {
    std::vector<double> value(z.size(), 7.0), slope(z.size(), 7.0);
    negative_log_sigmoids(z.data(), count, value.data(), slope.data());
    for (std::size_t k = 0; k < z.size(); ++k) {
      CHECK(value[k] == (k < count ? negative_log_sigmoid(z[k]).value : 7.0));
      CHECK(slope[k] == (k < count ? negative_log_sigmoid(z[k]).slope : 7.0));
    }
  }
}

TEST_CASE("negative_log_sigmoid: total, infinities and NaN included") {
  double const inf = std::numeric_limits<double>::infinity();
  CHECK(negative_log_sigmoid(inf).value == 0.0);
  CHECK(negative_log_sigmoid(inf).slope == 0.0);
  CHECK(negative_log_sigmoid(-inf).value == inf);
  CHECK(negative_log_sigmoid(-inf).slope == -1.0);
  CHECK(std::isnan(negative_log_sigmoid(std::nan("")).value));
  CHECK(std::isnan(negative_log_sigmoid(std::nan("")).slope));
}

TEST_CASE("negative_log_sigmoid: in float and with numbers that carry a derivative it is the same function") {
  using dual = testing::dual_number<double>;
  for (double z = -80.0; z <= 80.0; z += 0.37) {
    auto const exact = negative_log_sigmoid(z);
    auto const single = negative_log_sigmoid(static_cast<float>(z));
    auto const at = negative_log_sigmoid(static_cast<double>(static_cast<float>(z)));
    CHECK(testing::relative_error(static_cast<double>(single.value), at.value, 1e-35) <= 4e-7);
    CHECK(testing::relative_error(static_cast<double>(single.slope), at.slope, 1e-35) <= 4e-7);
    auto const with_derivative = negative_log_sigmoid(dual(z, 1));
    CHECK(testing::relative_error(with_derivative.value.real(), exact.value) <= 1e-15);
    CHECK(testing::relative_error(with_derivative.slope.real(), exact.slope) <= 1e-15);
    double const step = 1e-5;
    double const bend = (negative_log_sigmoid(z + step).slope - negative_log_sigmoid(z - step).slope) / (2 * step);
    CHECK(testing::relative_error(with_derivative.slope.derivative, bend, 1e-6) <= 1e-4);
  }
}

TEST_CASE("negative_log_sigmoids: many at once are one after the other") {
  std::vector<double> z, value(401), slope(401);
  for (int i = -200; i <= 200; ++i) z.push_back(4.01 * i);
  negative_log_sigmoids(z.data(), z.size(), value.data(), slope.data());
  for (std::size_t i = 0; i < z.size(); ++i) {
    CHECK(value[i] == negative_log_sigmoid(z[i]).value);
    CHECK(slope[i] == negative_log_sigmoid(z[i]).slope);
  }
}
