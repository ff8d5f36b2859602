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

/// CISPO, clipped importance sampling policy optimisation (MiniMax-M1, Chen et al. 2025, eq. 4 and 5): REINFORCE whose
/// importance weight is bounded and not differentiated,
///
///   loss of a token = -A sg(min(r, epsilon_high)) log pi        slope = -A min(r, epsilon_high)
///
/// so that no token is ever without a gradient, however far its ratio has gone; PPO gives those at a bound none, which
/// are the rare ones that turn a line of reasoning. The value is not a number to watch: it is the loss whose derivative
/// is wanted where the weight is held, and grows with -log pi. No lower bound, as in the paper's runs.
namespace attune {

struct cispo_options {
  double epsilon_high = 5.0;  ///< bound on the weight itself, not its room above 1: TRL's and ScaleRL's epsilon_max
                              ///< (Khatri et al. 2025: 5); the paper writes 1 + epsilon_high. >= 1

  static constexpr loss_aggregation paper_aggregation = loss_aggregation::token_mean;
};

/// Throws contract_violation naming the field and its value.
inline void validate(cispo_options const& o) {
  expects(o.epsilon_high >= 1.0 && o.epsilon_high <= (std::numeric_limits<double>::max)(),
          "cispo_options.epsilon_high >= 1 and finite", o.epsilon_high);
}

/// One token, r = exp(logp - old_logp). `clipped`: the weight is at its bound and the advantage is not 0; TRL counts
/// these among positive advantages alone. A dual or complex number leaves the weight as a constant, which is what sg
/// means. Finite for every finite input: what lies beyond T's range is T's largest number. Expects valid options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE policy_gradient_value_and_slope<T> cispo_objective(T logp, T old_logp, T advantage,
                                                                                    cispo_options o = {}) noexcept {
  T const ratio = saturate_cast<T>(exponential(saturate_cast<T>(logp - old_logp)));
  bool const bounded = real_part(ratio) > real_part(T(o.epsilon_high));
  T const weight = bounded ? T(o.epsilon_high) : T(real_part(ratio));
  T const slope = saturate_cast<T>(-advantage * weight);
  return {saturate_cast<T>(slope * logp), slope, ratio, bounded && real_part(advantage) != 0, false};
}

constexpr ratio_level ratio_level_of(cispo_options const&) noexcept { return ratio_level::token; }

template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE policy_gradient_value_and_slope<T> policy_gradient_objective(
    T logp, T old_logp, T advantage, cispo_options const& o) noexcept {
  return cispo_objective(logp, old_logp, advantage, o);
}

/// policy_gradient_loss with this surrogate: see there.
template <class T>
T cispo_loss(policy_gradient_tokens<T> of, sequences_view batch, std::span<T> slopes, aggregation_totals totals,
             loss_aggregation aggregation = cispo_options::paper_aggregation, cispo_options options = {},
             policy_gradient_statistics* statistics = nullptr, kl_loss_options kl_loss = {}) {
  return policy_gradient_loss<T>(of, batch, slopes, totals, aggregation, options, statistics, kl_loss);
}

template <class T>
using cispo_on_tokens = policy_gradient_on_tokens<T, cispo_options>;

}  // namespace attune
