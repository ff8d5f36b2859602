// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <attune/core/contract.hpp>

namespace attune {

/// A mean in the making: sum of weight * value, and sum of weights. Double, summed in the order of the calls.
struct metric_sum {
  double sum = 0.0;
  double weight = 0.0;

  void add(double value, double with_weight = 1.0) noexcept {
    sum += value * with_weight;
    weight += with_weight;
  }
  void add(metric_sum const& other) noexcept {
    sum += other.sum;
    weight += other.weight;
  }
  /// Of what was added; 0/0 is NaN, so ask only where weight > 0.
  double mean() const noexcept { return sum / weight; }
};

/// A share of a whole, and the interval that holds the true probability with the stated confidence.
struct proportion {
  std::size_t hits = 0;
  std::size_t trials = 0;
  double value = 0.0;  ///< hits / trials
  double low = 0.0;
  double high = 1.0;
};

/// Wilson's score interval (Wilson 1927, eq. 4). Unlike the normal approximation it stays inside [0, 1] and is honest
/// for few trials and for shares near 0 or 1. `z` is the normal quantile: 1.96 gives 95 %. Expects trials >= 1.
[[nodiscard]] inline proportion wilson_interval(std::size_t hits, std::size_t trials, double z = 1.959963984540054) {
  expects(trials >= 1, "wilson_interval: trials >= 1", trials);
  expects(hits <= trials, "wilson_interval: hits <= trials", hits);
  double const n = static_cast<double>(trials);
  double const p = static_cast<double>(hits) / n;
  double const shrink = 1.0 + z * z / n;
  double const centre = (p + z * z / (2.0 * n)) / shrink;
  double const half = z * std::sqrt(p * (1.0 - p) / n + z * z / (4.0 * n * n)) / shrink;
  // At the ends the exact bound is 0 or 1; rounding must not move it.
  return {hits, trials, p, hits == 0 ? 0.0 : (std::max)(0.0, centre - half),
          hits == trials ? 1.0 : (std::min)(1.0, centre + half)};
}

}  // namespace attune
