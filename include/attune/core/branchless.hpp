// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <limits>

#include <attune/core/host_device.hpp>

/// The two functions under every logistic loss, on the intervals where such a loss needs them, as straight lines of
/// arithmetic: a loop over them turns into vector instructions at -O3, and gives on every machine with the same
/// rounding of a multiplication and addition the same bits, which a system's own exp and log1p promise nowhere. Not for
/// -ffast-math.
namespace attune {

/// e^x within two units in the last place; 0 below -708, where a double's precision begins to fade, infinite above
/// 709.78, where its range ends. NaN for NaN.
[[nodiscard]] ATTUNE_HOST_DEVICE inline double exp_plain(double x) noexcept {
  // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 2^52 rounds to a whole number and leaves it in the last bits.
  constexpr double shift = 0x1.8p52;
  constexpr double lowest = -708.0, highest = 709.782712893384;
  double const floored = x < lowest ? lowest : x;
  double const bounded = floored > highest ? highest : floored;
  double const shifted = bounded * 0x1.71547652b82fep0 + shift;
  double const n = shifted - shift;
  double const r = (bounded - n * 0x1.62e42fefa38p-1) - n * 0x1.ef35793c7673p-45;
  // Taylor's series: its 14th term is 4e-18 at the interval's end.
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  double const scaled = __builtin_bit_cast(
      double, __builtin_bit_cast(std::uint64_t, p) + (__builtin_bit_cast(std::uint64_t, shifted) << 52));
  double const inside = x > highest ? std::numeric_limits<double>::infinity() : scaled;
  return x < lowest ? 0.0 : x != x ? x : inside;
}

/// log(1 + e) for e in [0, 1], within two units in the last place. NaN for NaN.
[[nodiscard]] ATTUNE_HOST_DEVICE inline double log1p_unit(double e) noexcept {
  // log(1 + f) with f = e, or f = (e - 1) / 2 and ln 2 beside it, so that |f| <= 0.4143: 2 atanh(s) with s =
  // f / (2 + f), put as f less what f is too large by, since f itself is exact.
  bool const upper = e > 0.41421356237309503;
  double const f = upper ? 0.5 * (e - 1.0) : e;
  double const s = f / (2.0 + f);
  double const q = s * s;
  double p = 2.0 / 23.0;
  p = p * q + 2.0 / 21.0;
  p = p * q + 2.0 / 19.0;
  p = p * q + 2.0 / 17.0;
  p = p * q + 2.0 / 15.0;
  p = p * q + 2.0 / 13.0;
  p = p * q + 2.0 / 11.0;
  p = p * q + 2.0 / 9.0;
  p = p * q + 2.0 / 7.0;
  p = p * q + 2.0 / 5.0;
  p = p * q + 2.0 / 3.0;
  double const half_square = 0.5 * f * f;
  double const excess = half_square - s * (half_square + q * p);
  return upper ? 0.6931471805599453 - (excess - f) : f - excess;
}

}  // namespace attune
