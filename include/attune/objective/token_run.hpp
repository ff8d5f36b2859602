// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <attune/core/branchless.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/kl.hpp>

/// Some completion tokens side by side, in double: what the policy gradient losses run over, since a compiler makes
/// vectors of plain loops over numbers that alias nothing and of no others.
namespace attune {

struct token_run {
  static constexpr std::size_t size = 128;
  double logp[size], old_logp[size], advantage[size];
  double value[size], slope[size], ratio[size];   ///< of a surrogate
  double clipped[size], dual_clipped[size];       ///< 0 or 1
  double approxkl[size], ratio_squared[size];     ///< (logp - old_logp)^2 / 2, ratio^2
  double log_ratio[size], kl[size], kl_slope[size];  ///< to the reference
};

/// x[0] + ... + x[count - 1] in eight partial sums, a fixed tree whatever the machine.
[[nodiscard]] inline double sum_of_run(double const* x, std::size_t count) noexcept {
  double part[8] = {};
  std::size_t const whole = count - count % 8;
  for (std::size_t k = 0; k < whole; k += 8)
    for (std::size_t j = 0; j < 8; ++j) part[j] += x[k + j];
  for (std::size_t k = whole; k < count; ++k) part[k - whole] += x[k];
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

/// kl_estimate of every log_ratio, by the same arithmetic but for the exponential's last digit.
[[gnu::noinline]] inline void kl_estimates(token_run& run, std::size_t count, kl_estimator estimator) noexcept {
  for (std::size_t k = 0; k < count; ++k) run.kl[k] = saturate_cast<double>(run.log_ratio[k] * run.log_ratio[k] * 0.5);
  for (std::size_t k = 0; k < count; ++k) run.kl_slope[k] = run.log_ratio[k];
  if (estimator != kl_estimator::k3) return;
  for (std::size_t k = 0; k < count; ++k) {
    double const d = run.log_ratio[k];
    double const q = d * d;  // e^-d - 1 + d = d^2 (1/2! - d/3! + d^2/4! - ...), in two chains
    double even = 1.0 / 20922789888000.0;
    even = even * q + 1.0 / 87178291200.0;
    even = even * q + 1.0 / 479001600.0;
    even = even * q + 1.0 / 3628800.0;
    even = even * q + 1.0 / 40320.0;
    even = even * q + 1.0 / 720.0;
    even = even * q + 1.0 / 24.0;
    even = even * q + 0.5;
    double odd = 1.0 / 1307674368000.0;
    odd = odd * q + 1.0 / 6227020800.0;
    odd = odd * q + 1.0 / 39916800.0;
    odd = odd * q + 1.0 / 362880.0;
    odd = odd * q + 1.0 / 5040.0;
    odd = odd * q + 1.0 / 120.0;
    odd = odd * q + 1.0 / 6.0;
    double const close = q * (even - d * odd);
    double const inverse = exp_plain(-d);
    double const away = saturate_cast<double>(inverse - 1.0 + d);
    double const away_slope = saturate_cast<double>(1.0 - inverse);
    bool const is_close = q < 0.25;
    run.kl[k] = is_close ? close : away;
    run.kl_slope[k] = is_close ? d - close : away_slope;
  }
}

}  // namespace attune
