// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <limits>

#include <attune/core/branchless.hpp>
#include <attune/core/host_device.hpp>

/// Functions of one number that the textbook formula would overflow or cancel in. Total: finite for every finite input
/// unless said otherwise; NaN in gives NaN out.
///
/// T is float or double, or any number that carries a derivative along: a dual number (testing/dual_number.hpp), or
/// std::complex with a tiny imaginary part. Branches look at the real part alone, and both sides of a branch are the
/// same analytic function, so the derivative is right on either side and at the seam.
namespace attune {

/// What branches compare: x itself, or x.real() where x is more than one number.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE constexpr auto real_part(T const& x) noexcept {
  if constexpr (requires { x.real(); })
    return x.real();
  else
    return x;
}

/// e^x. In double the one that loops over vectors have (core/branchless.hpp), so that a number has the same e^x
/// everywhere.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T exponential(T x) noexcept {
  if constexpr (std::same_as<T, double>) {
    return exp_plain(x);
  } else {
    using std::exp;
    return exp(x);
  }
}

/// log(1 + x), accurate for small x; also for complex numbers, which std::log1p leaves out.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T log_one_plus(T x) noexcept {
  using std::log1p;
  if constexpr (requires { log1p(x); }) {
    return log1p(x);
  } else {
    using std::atan2;
    auto const a = x.real();
    auto const b = x.imag();
    return T(log1p(a * (2 + a) + b * b) / 2, atan2(b, 1 + a));
  }
}

/// e^x - 1, accurate for small x; also for complex numbers, which std::expm1 leaves out.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T exp_minus_one(T x) noexcept {
  using std::expm1;
  if constexpr (requires { expm1(x); }) {
    return expm1(x);
  } else {
    using std::exp;
    using std::sin;
    auto const half = sin(x.imag() / 2);  // cos b - 1 = -2 sin^2(b / 2)
    auto const cosine_less_one = -2 * half * half;
    auto const real = expm1(x.real());
    return T(real + real * cosine_less_one + cosine_less_one, exp(x.real()) * sin(x.imag()));
  }
}

/// 1 / (1 + e^-x).
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T sigmoid(T x) noexcept {
  using std::exp;
  if (real_part(x) > 0) return T(1) / (T(1) + exp(-x));
  T const e = exp(x);
  return e / (T(1) + e);
}

/// log(1 + e^x).
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T softplus(T x) noexcept {
  using std::exp;
  return real_part(x) > 0 ? x + log_one_plus(exp(-x)) : log_one_plus(exp(x));
}

/// log(sigmoid(x)); never computed as the log of a sigmoid, which is log(0) below x = -745.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T log_sigmoid(T x) noexcept {
  return -softplus(-x);
}

/// log(1 - e^x) for x <= 0: the log-probability of "not", from that of "yes". -inf at 0, NaN above. Maechler 2012,
/// "Accurately computing log(1 - exp(-|a|))", eq. 7: expm1 next to 0, log1p further down.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T log1mexp(T x) noexcept {
  using std::exp;
  using std::log;
  if (real_part(x) > -0.6931471805599453) return log(-exp_minus_one(x));
  return log_one_plus(-exp(x));
}

/// log(e^a + e^b); -inf is log(0), so two of them give -inf.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T log_add_exp(T a, T b) noexcept {
  auto const ra = real_part(a);
  if (ra == real_part(b) && ra - ra != 0) return a;  // infinities of one sign, whose difference is NaN
  return real_part(a) > real_part(b) ? a + softplus(b - a) : b + softplus(a - b);
}

/// A variable, because device code may read it without a compiler flag and may not call numeric_limits.
template <class T>
inline constexpr T largest_finite = (std::numeric_limits<T>::max)();

/// x as a To; the largest finite To of its sign where x lies beyond it. NaN stays NaN.
template <class To, class From>
[[nodiscard]] ATTUNE_HOST_DEVICE To saturate_cast(From x) noexcept {
  if constexpr (std::floating_point<To> && std::floating_point<From>) {  // without a branch, for loops over vectors
    To const y = static_cast<To>(x);  // infinite where it is too large for a To
    To const low = y < -largest_finite<To> ? -largest_finite<To> : y;
    return low > largest_finite<To> ? largest_finite<To> : low;
  } else {
    constexpr auto largest = largest_finite<decltype(real_part(To()))>;
    if (real_part(x) > largest) return To(largest);
    if (real_part(x) < -largest) return To(-largest);
    return To(x);
  }
}

}  // namespace attune
