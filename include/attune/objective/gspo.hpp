// SPDX-License-Identifier: MIT
#pragma once

#include <span>

#include <limits>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/policy_gradient.hpp>
#include <attune/objective/ppo.hpp>

/// Group sequence policy optimisation (Zheng et al. 2025, eq. 5 and 7): PPO's clipped surrogate with one ratio for the
/// whole response, the geometric mean of its tokens' ratios,
///
///   s = exp(mean over tokens of logp - old_logp)        loss of a response = -min(s A, clip(s) A)
///
/// so that a response is bounded as a whole, and the ratio's scale does not hang on its length: the room is thousands
/// of times narrower than PPO's. Under sequence_mean, the paper's aggregation, a response of n tokens among N gives
/// each of them the slope -A s / (n N), or 0 at a bound. TRL: importance_sampling_level "sequence" with loss_type
/// "grpo"; its "luspo" is this under sequence_sum.
///
/// A response has one advantage there. Where tokens have their own (gae), the loss of a response is the mean of its
/// tokens' losses under the one ratio, which every token moves alike; as TRL does it.
namespace attune {

struct gspo_options {
  double cliprange = 3e-4;        ///< the sequence ratio's room below 1 (section 5.1); (0, 1]
  double cliprange_high = 4e-4;   ///< its room above 1; > 0, or 0: as cliprange
  bool token_advantages = false;  ///< GSPO-token (eq. 13 and 14): a token's loss moves that token alone, under the
                                  ///< response's ratio. The same where all advantages of a response are equal

  static constexpr loss_aggregation paper_aggregation = loss_aggregation::sequence_mean;
};

/// Throws contract_violation naming the field and its value.
inline void validate(gspo_options const& o) {
  expects(o.cliprange > 0.0 && o.cliprange <= 1.0, "gspo_options.cliprange in (0, 1]", o.cliprange);
  expects(o.cliprange_high >= 0.0 && o.cliprange_high <= (std::numeric_limits<double>::max)(),
          "gspo_options.cliprange_high >= 0 and finite", o.cliprange_high);
}

/// The loss of a response, and its slope with respect to the mean log-ratio; each of n tokens moves that by 1 / n. The
/// arithmetic, bounds and limits are ppo_objective's.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE policy_gradient_value_and_slope<T> gspo_objective(T mean_log_ratio, T advantage,
                                                                                   gspo_options o = {}) noexcept {
  return ppo_objective(mean_log_ratio, T(0), advantage, {.cliprange = o.cliprange, .cliprange_high = o.cliprange_high});
}

constexpr ratio_level ratio_level_of(gspo_options const& o) noexcept {
  return o.token_advantages ? ratio_level::sequence_token : ratio_level::sequence;
}

template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE policy_gradient_value_and_slope<T> policy_gradient_objective(
    T logp, T old_logp, T advantage, gspo_options const& o) noexcept {
  return gspo_objective(T(logp - old_logp), advantage, o);
}

/// policy_gradient_loss with this surrogate: see there.
template <class T>
T gspo_loss(policy_gradient_tokens<T> of, sequences_view batch, std::span<T> slopes, aggregation_totals totals,
            loss_aggregation aggregation = gspo_options::paper_aggregation, gspo_options options = {},
            policy_gradient_statistics* statistics = nullptr, kl_loss_options kl_loss = {}) {
  return policy_gradient_loss<T>(of, batch, slopes, totals, aggregation, options, statistics, kl_loss);
}

template <class T>
using gspo_on_tokens = policy_gradient_on_tokens<T, gspo_options>;

}  // namespace attune
