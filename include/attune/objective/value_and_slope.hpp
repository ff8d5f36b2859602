// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <span>

#include <attune/core/branchless.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>

/// What a scalar objective returns: its value and its derivative, together, since they share their arithmetic.
namespace attune {

template <class T>
struct value_and_slope {
  T value;
  T slope;  ///< d value / d argument
};

/// Of an objective of two numbers, one for the chosen and one for the rejected response.
template <class T>
struct pair_value_and_slopes {
  T value;
  T chosen;    ///< d value / d chosen
  T rejected;  ///< d value / d rejected
};

/// Where a batch loss over pairs writes dL/d(its arguments). Both spans are overwritten.
template <class T>
struct pair_slopes {
  std::span<T> chosen;    // (pairs)
  std::span<T> rejected;  // (pairs)
};

/// -log sigmoid(z) and its derivative -sigmoid(-z): the logistic loss under every preference objective. One exponential
/// serves both. In double without a branch, so that a loop over pairs runs on vectors.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_and_slope<T> negative_log_sigmoid(T z) noexcept {
  bool const positive = real_part(z) > 0;
  T const distance = positive ? -z : z;
  if constexpr (std::same_as<T, double>) {
    double const e = exp_plain(distance);  // in [0, 1]
    return {log1p_unit(e) + (positive ? 0.0 : -z), (positive ? -e : -1.0) / (1.0 + e)};
  } else {
    using std::exp;
    T const e = exp(distance);
    T const l = log_one_plus(e);
    if (positive) return {l, -e / (T(1) + e)};
    return {l - z, T(-1) / (T(1) + e)};
  }
}

/// The same of `count` numbers, by the same arithmetic. Three plain loops and a function of its own: what g++ 12 makes
/// vectors of, where the loop around a whole objective stays scalar. No aliasing.
[[gnu::noinline]] inline void negative_log_sigmoids(double const* z, std::size_t count, double* value,
                                                    double* slope) noexcept {
  for (std::size_t k = 0; k < count; ++k) slope[k] = exp_plain(z[k] > 0 ? -z[k] : z[k]);
  for (std::size_t k = 0; k < count; ++k) value[k] = log1p_unit(slope[k]) + (z[k] > 0 ? 0.0 : -z[k]);
  for (std::size_t k = 0; k < count; ++k) slope[k] = (z[k] > 0 ? -slope[k] : -1.0) / (1.0 + slope[k]);
}

}  // namespace attune
