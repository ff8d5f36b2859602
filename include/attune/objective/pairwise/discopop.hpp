// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// The log-ratio modulated loss (Lu et al. 2024, "Discovering preference optimization algorithms with and for large
/// language models", eq. 5): logistic below a margin of 0, exponential above. Not convex.
namespace attune {

struct discopop_options {
  static constexpr std::string_view name = "discopop";
  double beta = 0.05;  ///< scale of the implied reward; > 0
  double tau = 0.05;   ///< width in the margin of the passage from one loss to the other; > 0 (TRL: discopop_tau)

  static constexpr pair_inputs reads() noexcept { return {.divergence = true}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(discopop_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest, "discopop_options.beta > 0 and finite", o.beta);
  expects(o.tau > 0.0 && o.tau <= largest && 1.0 / o.tau <= largest,
          "discopop_options.tau > 0 and finite, as is 1 / tau", o.tau);
}

/// (1 - m) (-log s(z)) + m e^-z with z = beta (chosen - rejected) and m = s(z / tau). The exponential never stands
/// alone: m e^-z is exp(log m - z), which stays small below 0 as long as tau < 1.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         discopop_options o) noexcept {
  using std::exp;
  T const z = pair_margin(p.chosen, p.rejected, o.beta);
  T const a = saturate_cast<T>(z / T(o.tau));
  T const rest = sigmoid(-a);  // 1 - m
  T const log_m = log_sigmoid(a);
  value_and_slope<T> const logistic = negative_log_sigmoid(z);
  T const exponential = saturate_cast<T>(exp(saturate_cast<T>(log_m - z)));  // m e^-z
  T const passage = saturate_cast<T>((rest * exponential - rest * exp(log_m) * logistic.value) / T(o.tau));
  return through_margin<T>({rest * logistic.value + exponential,
                            saturate_cast<T>(passage + rest * logistic.slope - exponential)}, o.beta);
}

}  // namespace attune
