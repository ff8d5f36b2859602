// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>

/// Forward-mode differentiation, exact to rounding: run the same template on a dual number and read the derivative off.
/// For tests; an independent method to hold a hand-written derivative against.
///
///   double const d = testing::derivative([](auto x) { return softplus(x); }, 0.3);   // sigmoid(0.3)
namespace attune::testing {

/// value + derivative * h with h^2 = 0. Comparisons look at the value alone, as branches do.
template <class T>
struct dual_number {
  T value{};
  T derivative{};

  constexpr dual_number() = default;
  constexpr dual_number(T v) : value(v) {}  // implicit: constants mix with variables
  constexpr dual_number(T v, T d) : value(v), derivative(d) {}

  constexpr T real() const { return value; }

  friend constexpr dual_number operator-(dual_number a) { return {-a.value, -a.derivative}; }
  friend constexpr dual_number operator+(dual_number a, dual_number b) {
    return {a.value + b.value, a.derivative + b.derivative};
  }
  friend constexpr dual_number operator-(dual_number a, dual_number b) {
    return {a.value - b.value, a.derivative - b.derivative};
  }
  friend constexpr dual_number operator*(dual_number a, dual_number b) {
    return {a.value * b.value, a.derivative * b.value + a.value * b.derivative};
  }
  friend constexpr dual_number operator/(dual_number a, dual_number b) {
    T const quotient = a.value / b.value;
    return {quotient, (a.derivative - quotient * b.derivative) / b.value};
  }
  constexpr dual_number& operator+=(dual_number b) { return *this = *this + b; }
  constexpr dual_number& operator-=(dual_number b) { return *this = *this - b; }
  constexpr dual_number& operator*=(dual_number b) { return *this = *this * b; }
  constexpr dual_number& operator/=(dual_number b) { return *this = *this / b; }

  friend constexpr bool operator==(dual_number a, dual_number b) { return a.value == b.value; }
  friend constexpr auto operator<=>(dual_number a, dual_number b) { return a.value <=> b.value; }

  friend dual_number exp(dual_number x) {
    T const e = std::exp(x.value);
    return {e, e * x.derivative};
  }
  friend dual_number expm1(dual_number x) { return {std::expm1(x.value), std::exp(x.value) * x.derivative}; }
  friend dual_number log(dual_number x) { return {std::log(x.value), x.derivative / x.value}; }
  friend dual_number log1p(dual_number x) { return {std::log1p(x.value), x.derivative / (T(1) + x.value)}; }
  friend dual_number sqrt(dual_number x) {
    T const root = std::sqrt(x.value);
    return {root, x.derivative / (T(2) * root)};
  }
  friend dual_number tanh(dual_number x) {
    T const t = std::tanh(x.value);
    return {t, (T(1) - t * t) * x.derivative};
  }
};

/// df/dx for an f that takes and returns the number type it is given.
template <class F, class T>
[[nodiscard]] T derivative(F&& f, T x) {
  return f(dual_number<T>(x, T(1))).derivative;
}

}  // namespace attune::testing
