// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/policy_gradient.hpp>

/// Soft adaptive policy optimisation (Gao et al. 2025, eq. 5 and 6): in place of PPO's bounds a gate that closes
/// smoothly on both sides of r = 1,
///
///   loss of a token = -A 4 / tau sigmoid(tau (r - 1))        slope = -A r sech^2(tau (r - 1) / 2)
///
/// with tau_pos where A > 0 and the larger tau_neg elsewhere: a negative advantage lifts every token that was not
/// drawn, and is let go of sooner. At r = 1 the slope is -A and the value -2 A / tau. As tau goes to 0 the slope
/// becomes -A r, the plain policy gradient; as it grows only r = 1 has one.
namespace attune {

struct sapo_options {
  double sapo_temperature_pos = 1.0;   ///< tau where the advantage is > 0; > 0
  double sapo_temperature_neg = 1.05;  ///< tau elsewhere; > 0

  static constexpr loss_aggregation paper_aggregation = loss_aggregation::sequence_mean;
};

/// Throws contract_violation naming the field and its value.
inline void validate(sapo_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.sapo_temperature_pos > 0.0 && o.sapo_temperature_pos <= largest,
          "sapo_options.sapo_temperature_pos > 0 and finite", o.sapo_temperature_pos);
  expects(o.sapo_temperature_neg > 0.0 && o.sapo_temperature_neg <= largest,
          "sapo_options.sapo_temperature_neg > 0 and finite", o.sapo_temperature_neg);
}

/// One token, r = exp(logp - old_logp). Nothing is ever clipped. Finite for every finite input: what lies beyond T's
/// range is T's largest number. Expects valid options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE policy_gradient_value_and_slope<T> sapo_objective(T logp, T old_logp, T advantage,
                                                                                   sapo_options o = {}) noexcept {
  T const ratio = saturate_cast<T>(exponential(saturate_cast<T>(logp - old_logp)));
  T const tau = T(real_part(advantage) > 0 ? o.sapo_temperature_pos : o.sapo_temperature_neg);
  T const x = saturate_cast<T>(tau * (ratio - T(1)));
  T const e = exp(real_part(x) > 0 ? -x : x);  // in [0, 1]: sigmoid's derivative is even, and 0 far out, not 0 / 0
  T const one_plus = T(1) + e;
  T const gate = T(4) * e / (one_plus * one_plus);  // sech^2(x / 2)
  T const value = saturate_cast<T>(-advantage * saturate_cast<T>(T(4) / tau * sigmoid(x)));
  return {value, saturate_cast<T>(-advantage * saturate_cast<T>(ratio * gate)), ratio, false, false};
}

constexpr ratio_level ratio_level_of(sapo_options const&) noexcept { return ratio_level::token; }

template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE policy_gradient_value_and_slope<T> policy_gradient_objective(
    T logp, T old_logp, T advantage, sapo_options const& o) noexcept {
  return sapo_objective(logp, old_logp, advantage, o);
}

/// policy_gradient_loss with this surrogate: see there.
template <class T>
T sapo_loss(policy_gradient_tokens<T> of, sequences_view batch, std::span<T> slopes, aggregation_totals totals,
            loss_aggregation aggregation = sapo_options::paper_aggregation, sapo_options options = {},
            policy_gradient_statistics* statistics = nullptr, kl_loss_options kl_loss = {}) {
  return policy_gradient_loss<T>(of, batch, slopes, totals, aggregation, options, statistics, kl_loss);
}

template <class T>
using sapo_on_tokens = policy_gradient_on_tokens<T, sapo_options>;

}  // namespace attune
