// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>

#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/value_and_slope.hpp>

/// Estimators of KL(pi || ref) in nats from samples of pi, each a function of one log-ratio d = log pi(y) - log ref(y)
/// (Schulman 2020, "Approximating KL divergence").
///
/// What an estimator is as a number to report, and what it is as a loss, whose gradient flows through log pi alone
/// while the samples stay put, are two questions:
///
///   |    | value        | as a value                    | slope    | as a loss, its expected gradient is        |
///   |----|--------------|-------------------------------|----------|--------------------------------------------|
///   | k1 | d            | unbiased, much variance       | 1        | 0: it pulls nowhere                        |
///   | k2 | d^2 / 2      | biased, >= 0, little variance | d        | that of KL(pi || ref)                      |
///   | k3 | e^-d - 1 + d | unbiased, >= 0, little        | 1 - e^-d | that of KL(ref || pi), the other way round |
///
/// In a reward the score-function gradient leaves out what the estimate itself owes to pi, the last column: nothing
/// under k1, whose gradient there is that of KL(pi || ref); under k3 it becomes that of KL(pi || ref) - KL(ref || pi).
/// The last column speaks of one token given those before it: a loss over the tokens of a response leaves out what a
/// token owes to the KL of later ones, which a reward does not, so that with longer responses only the reward's optimum
/// is that of KL(pi || ref) over whole responses.
/// Times pi / pi_old, differentiated as well (kl_loss_options.bias_correction), k3 as a loss has the gradient of
/// KL(pi || ref), over an older policy's samples too; on fresh ones its slope is then d, k2's.
/// So: k1 in a reward, k2 in a loss, k1 and k3 in a report. Unbiased holds where ref is 0 nowhere that pi is not, and
/// for samples of pi itself and not of an older policy. (e^d - 1 - d, k3 with its sign lost, estimates
/// chi^2(pi || ref) - KL(pi || ref).)
namespace attune {

enum class kl_estimator { k1, k2, k3 };

/// The estimate from one log-ratio and its derivative with respect to log pi. Finite for every finite input: what lies
/// beyond T's range is T's largest number. Accurate next to 0, where the terms of k3 cancel.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_and_slope<T> kl_estimate(T log_ratio, kl_estimator estimator) noexcept {
  if (estimator == kl_estimator::k1) return {log_ratio, T(1)};
  T const half_square = saturate_cast<T>(log_ratio * log_ratio * T(0.5));
  if (estimator == kl_estimator::k2) return {half_square, log_ratio};
  using std::exp;
  auto const d = real_part(log_ratio);
  if (d > -0.5 && d < 0.5) {
    // e^-d - 1 + d = d^2/2 (1 - d/3 (1 - d/4 (1 - ...))); the 15th factor is below double's rounding.
    T tail(1);
    for (int k = 16; k >= 3; --k) tail = T(1) - log_ratio * T(1.0 / k) * tail;
    T const value = half_square * tail;
    return {value, log_ratio - value};
  }
  T const inverse_ratio = exp(-log_ratio);
  return {saturate_cast<T>(inverse_ratio - T(1) + log_ratio), saturate_cast<T>(T(1) - inverse_ratio)};
}

}  // namespace attune
