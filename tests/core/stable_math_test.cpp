// SPDX-License-Identifier: MIT
#include <attune/core/stable_math.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <cstddef>
#include <limits>

#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/golden_file.hpp"

using namespace attune;
using testing::relative_error;

namespace {
double const inf = std::numeric_limits<double>::infinity();
double const not_a_number = std::numeric_limits<double>::quiet_NaN();
using dual = testing::dual_number<double>;
using complex = std::complex<double>;
}  // namespace

TEST_CASE("stable_math: every function gives the exact value to the last bits") {
  auto const cases = read_golden("stable_math.txt");
  REQUIRE(cases.size() == 3);
  for (std::size_t i = 0; i < cases[0]["x"].size(); ++i) {
    double const x = cases[0]["x"][i];
    CAPTURE(x);
    CHECK(relative_error(sigmoid(x), cases[0]["sigmoid"][i]) <= 4e-16);
    CHECK(relative_error(softplus(x), cases[0]["softplus"][i]) <= 4e-16);
    CHECK(relative_error(log_sigmoid(x), cases[0]["log_sigmoid"][i]) <= 4e-16);
  }
  for (std::size_t i = 0; i < cases[1]["x"].size(); ++i) {
    CAPTURE(cases[1]["x"][i]);
    CHECK(relative_error(log1mexp(cases[1]["x"][i]), cases[1]["log1mexp"][i]) <= 4e-16);
  }
  for (std::size_t i = 0; i < cases[2]["a"].size(); ++i) {
    CAPTURE(cases[2]["a"][i]);
    CAPTURE(cases[2]["b"][i]);
    CHECK(relative_error(log_add_exp(cases[2]["a"][i], cases[2]["b"][i]), cases[2]["log_add_exp"][i]) <= 4e-16);
  }
}

TEST_CASE_TEMPLATE("stable_math: finite for every finite number", T, float, double) {
  T const largest = std::numeric_limits<T>::max();
  for (T const x : {T(0), std::numeric_limits<T>::denorm_min(), T(-1e4), T(1e4), largest, -largest}) {
    CHECK(std::isfinite(sigmoid(x)));
    CHECK(std::isfinite(softplus(x)));
    CHECK(std::isfinite(log_sigmoid(x)));
    CHECK(std::isfinite(log_add_exp(x, -x)));
    CHECK(std::isfinite(log_add_exp(x, x)));
    if (x < 0) CHECK(std::isfinite(log1mexp(x)));
  }
}

TEST_CASE("stable_math: infinities have their limits, and NaN stays NaN") {
  CHECK(sigmoid(inf) == 1.0);
  CHECK(sigmoid(-inf) == 0.0);
  CHECK(softplus(inf) == inf);
  CHECK(softplus(-inf) == 0.0);
  CHECK(log_sigmoid(inf) == 0.0);
  CHECK(log_sigmoid(-inf) == -inf);
  CHECK(log1mexp(0.0) == -inf);
  CHECK(log1mexp(-inf) == 0.0);
  CHECK(std::isnan(log1mexp(0.1)));
  CHECK(log_add_exp(-inf, -inf) == -inf);
  CHECK(log_add_exp(inf, inf) == inf);
  CHECK(log_add_exp(-inf, 3.0) == 3.0);
  CHECK(log_add_exp(3.0, -inf) == 3.0);
  CHECK(log_add_exp(inf, -inf) == inf);
  for (double const y :
       {sigmoid(not_a_number), softplus(not_a_number), log_sigmoid(not_a_number), log1mexp(not_a_number),
        log_add_exp(not_a_number, 0.0), log_add_exp(0.0, not_a_number), saturate_cast<double>(not_a_number)})
    CHECK(std::isnan(y));
}

TEST_CASE("stable_math: derivatives pass through dual and complex numbers, at the seams of the branches too") {
  for (double const x : {-400.0, -30.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 30.0, 400.0}) {
    CAPTURE(x);
    double const s = sigmoid(x);
    CHECK(relative_error(testing::derivative([](auto z) { return softplus(z); }, x), s) <= 1e-15);
    CHECK(relative_error(testing::derivative([](auto z) { return log_sigmoid(z); }, x), sigmoid(-x)) <= 1e-15);
    CHECK(relative_error(testing::derivative([](auto z) { return sigmoid(z); }, x), s * sigmoid(-x)) <= 1e-14);
    CHECK(relative_error(softplus(complex(x, 1e-100)).imag() * 1e100, s) <= 1e-14);
    CHECK(relative_error(log_sigmoid(complex(x, 1e-100)).imag() * 1e100, sigmoid(-x)) <= 1e-14);
    CHECK(relative_error(sigmoid(complex(x, 1e-100)).imag() * 1e100, s * sigmoid(-x)) <= 1e-14);
    double const weight = sigmoid(x - 0.5);
    CHECK(relative_error(log_add_exp(dual(x, 1), dual(0.5)).derivative, weight) <= 1e-13);
    CHECK(relative_error(log_add_exp(dual(0.5), dual(x, 1)).derivative, weight) <= 1e-13);
    if (x < 0) {
      double const expected = std::exp(x) / std::expm1(x);
      CHECK(relative_error(testing::derivative([](auto z) { return log1mexp(z); }, x), expected) <= 1e-14);
    }
  }
}

TEST_CASE("stable_math: log_one_plus of a complex number keeps small real and imaginary parts") {
  complex const z = log_one_plus(complex(1e-18, 1e-20));
  CHECK(z.real() == 1e-18);
  CHECK(z.imag() == 1e-20);
  complex const w = log_one_plus(complex(0.5, -2.0)), expected = std::log(complex(1.5, -2.0));
  CHECK(std::abs(w - expected) <= 1e-15);
}

TEST_CASE("stable_math: exp_minus_one of a complex number keeps small parts, and is e^z - 1 elsewhere") {
  complex const z = exp_minus_one(complex(1e-18, 1e-20));
  CHECK(z.real() == 1e-18);
  CHECK(z.imag() == 1e-20);
  CHECK(relative_error(exp_minus_one(complex(0.0, 1e-8)).real(), -5e-17) <= 4e-16);  // cos b - 1, 0 if computed so
  complex const w = exp_minus_one(complex(0.5, -2.0)), expected = std::exp(complex(0.5, -2.0)) - 1.0;
  CHECK(std::abs(w - expected) <= 1e-15);
}

TEST_CASE("saturate_cast: gives the largest finite number of the sign beyond a type's range, and else converts") {
  float const largest = std::numeric_limits<float>::max();
  CHECK(saturate_cast<float>(1e39) == largest);
  CHECK(saturate_cast<float>(-inf) == -largest);
  CHECK(saturate_cast<double>(inf) == std::numeric_limits<double>::max());
  CHECK(saturate_cast<float>(0.1) == 0.1f);
  CHECK(saturate_cast<double>(-2.5f) == -2.5);
  CHECK(saturate_cast<dual>(dual(2.0, 3.0)).derivative == 3.0);
  CHECK(saturate_cast<dual>(dual(inf, 3.0)).value == std::numeric_limits<double>::max());
  CHECK(saturate_cast<dual>(dual(-inf, 3.0)).value == std::numeric_limits<double>::lowest());
  CHECK(saturate_cast<complex>(complex(-inf, 1.0)) == complex(std::numeric_limits<double>::lowest()));
}

TEST_CASE("real_part: is the number itself, or what branches of a richer number compare") {
  CHECK(real_part(2.5f) == 2.5f);
  CHECK(real_part(complex(1.0, 2.0)) == 1.0);
  CHECK(real_part(dual(3.0, 4.0)) == 3.0);
}
