// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <span>

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
/// serves both.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_and_slope<T> negative_log_sigmoid(T z) noexcept {
  using std::exp;
  bool const positive = real_part(z) > 0;
  T const e = exp(positive ? -z : z);  // in [0, 1]
  T const l = log_one_plus(e);
  if (positive) return {l, -e / (T(1) + e)};
  return {l - z, T(-1) / (T(1) + e)};
}

}  // namespace attune
