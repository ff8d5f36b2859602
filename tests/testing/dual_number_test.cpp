// SPDX-License-Identifier: MIT
#include <attune/testing/dual_number.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace attune::testing;

TEST_CASE("dual_number: every operation differentiates as the textbook says") {
  double const x = 0.7;
  auto const check = [&](auto f, double value, double slope) {
    auto const y = f(dual_number<double>(x, 1));
    CHECK(y.value == doctest::Approx(value).epsilon(1e-15));
    CHECK(y.derivative == doctest::Approx(slope).epsilon(1e-15));
    CHECK(derivative(f, x) == y.derivative);
  };
  check([](auto z) { return z * z * z; }, x * x * x, 3 * x * x);
  check([](auto z) { return 1.0 / z; }, 1 / x, -1 / (x * x));
  check([](auto z) { return z / (z + 1.0); }, x / (x + 1), 1 / ((x + 1) * (x + 1)));
  check([](auto z) { return 3.0 - z; }, 3 - x, -1.0);
  check([](auto z) { return -z + z * 2.0; }, x, 1.0);
  check([](auto z) { return exp(z); }, std::exp(x), std::exp(x));
  check([](auto z) { return expm1(z); }, std::expm1(x), std::exp(x));
  check([](auto z) { return log(z); }, std::log(x), 1 / x);
  check([](auto z) { return log1p(z); }, std::log1p(x), 1 / (1 + x));
  check([](auto z) { return sqrt(z); }, std::sqrt(x), 0.5 / std::sqrt(x));
  check([](auto z) { return tanh(z); }, std::tanh(x), 1 - std::tanh(x) * std::tanh(x));
  check(
      [](auto z) {
        z += 2.0;
        z *= z;
        z -= 1.0;
        z /= 2.0;
        return z;
      },
      ((x + 2) * (x + 2) - 1) / 2, x + 2);
  check([](auto z) { return exp(log(z) * 3.0); }, x * x * x, 3 * x * x);
}

TEST_CASE("dual_number: compares by value alone, and constants have no slope") {
  dual_number<double> const a(1.0, 5.0), b(2.0, -5.0);
  CHECK(a < b);
  CHECK(b >= a);
  CHECK(a == dual_number<double>(1.0));
  CHECK(a != b);
  CHECK(a.real() == 1.0);
  CHECK(derivative([](auto) { return dual_number<double>(4.0); }, 1.0) == 0.0);
}
