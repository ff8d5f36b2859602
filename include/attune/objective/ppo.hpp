// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/core/statistics.hpp>
#include <attune/objective/expects_finite_tokens.hpp>
#include <attune/objective/kl.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/value_and_slope.hpp>

/// Proximal policy optimisation: the clipped surrogate (Schulman et al. 2017, eq. 7) as a loss over tokens. Other
/// members of the policy gradient family (RLOO, GRPO, DAPO, REINFORCE++) are this loss with other advantages (gae,
/// group_advantages), another aggregation, and a higher upper bound or a KL term.
namespace attune {

struct ppo_options {
  double cliprange = 0.2;       ///< the ratio's room below 1, and above unless cliprange_high is set; (0, 1]
  double cliprange_high = 0.0;  ///< the ratio's room above 1 (Yu et al. 2025, DAPO, "clip-higher": 0.28); > 0, or 0:
                                ///< as cliprange
  double dual_clip = 0.0;  ///< bound on the ratio where the advantage is negative (Ye et al. 2020: 3); > 1, or 0: off
  double kl_loss_coef = 0.0;  ///< weight of the KL to the reference inside the loss (Shao et al. 2024, eq. 3); >= 0.
                              ///< Not to be confused with kl_coef, that of the KL inside the rewards
  kl_estimator kl_loss_estimator = kl_estimator::k2;  ///< k2 or k3; which KL they pull down: see kl.hpp
};

/// Throws contract_violation naming the field and its value.
inline void validate(ppo_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.cliprange > 0.0 && o.cliprange <= 1.0, "ppo_options.cliprange in (0, 1]", o.cliprange);
  expects(o.cliprange_high >= 0.0 && o.cliprange_high <= largest, "ppo_options.cliprange_high >= 0 and finite",
          o.cliprange_high);
  expects(o.dual_clip == 0.0 || (o.dual_clip > 1.0 && o.dual_clip <= largest),
          "ppo_options.dual_clip > 1 and finite, or 0", o.dual_clip);
  expects(o.kl_loss_coef >= 0.0 && o.kl_loss_coef <= largest, "ppo_options.kl_loss_coef >= 0 and finite",
          o.kl_loss_coef);
  expects(o.kl_loss_estimator == kl_estimator::k2 || o.kl_loss_estimator == kl_estimator::k3,
          "ppo_options.kl_loss_estimator k2 or k3: the gradient of k1 is 0 in expectation, so that as a loss it pulls "
          "nowhere (it belongs in the rewards)");
}

template <class T>
struct ppo_value_and_slope {
  T value;
  T slope;            ///< d value / d logp
  T ratio;            ///< pi(y) / pi_old(y)
  bool clipped;       ///< eq. 7's bound is in force: the slope is 0
  bool dual_clipped;  ///< dual_clip's bound is in force: the slope is 0
};

/// The loss of one token, with r = exp(logp - old_logp):
///
///   A >= 0:  -A min(r, 1 + high)        A < 0:  -A max(r, 1 - low), bounded by -A dual_clip
///
/// which is eq. 7's -min(r A, clip(r) A). Its slope is -A r, or 0 where a bound is in force; on the bound itself it is
/// -A r. At logp == old_logp the ratio is exactly 1. Finite for every finite input: what lies beyond T's range is T's
/// largest number. Expects valid options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE ppo_value_and_slope<T> ppo_objective(T logp, T old_logp, T advantage,
                                                                      ppo_options o = {}) noexcept {
  using std::exp;
  T const ratio = saturate_cast<T>(exp(saturate_cast<T>(logp - old_logp)));
  T const low = T(1.0 - o.cliprange);
  T const high = T(1.0 + (o.cliprange_high > 0.0 ? o.cliprange_high : o.cliprange));
  bool const gain = real_part(advantage) > 0;
  bool const loss = real_part(advantage) < 0;  // neither at 0, where value and slope are 0 and nothing is clipped
  bool const clipped = (gain && real_part(ratio) > real_part(high)) || (loss && real_part(ratio) < real_part(low));
  bool const dual_clipped = loss && o.dual_clip > 0.0 && real_part(ratio) > real_part(T(o.dual_clip));
  T const bounded = clipped ? (gain ? high : low) : dual_clipped ? T(o.dual_clip) : ratio;
  T const value = saturate_cast<T>(-advantage * bounded);
  return {value, clipped || dual_clipped ? T(0) : value, ratio, clipped, dual_clipped};
}

/// One number per token, read where the mask is 1 alone.
template <class T>
struct ppo_tokens {
  std::span<T const> logps;           // (tokens) under the policy in training
  std::span<T const> old_logps;       // (tokens) under the policy that drew the tokens
  std::span<T const> advantages;      // (tokens)
  std::span<T const> ref_logps = {};  // (tokens) under the reference; may be empty without kl_loss_coef
};

/// Means over completion tokens, whatever the aggregation of the loss: prompts, and padding where others have it, have
/// no part in them. Sums that several batches add to; inf where ratios add up beyond double's range.
struct ppo_statistics {
  metric_sum approxkl;        ///< (logp - old_logp)^2 / 2: k2 between the old policy and the one in training
  metric_sum clipfrac;        ///< share of tokens at eq. 7's bound
  metric_sum clipfrac_lower;  ///< share of tokens at dual_clip's
  metric_sum ratio;           ///< pi / pi_old
  metric_sum ratio_squared;   ///< so that the variance of the ratio is ratio_squared.mean() - ratio.mean()^2
  metric_sum kl;              ///< kl_loss_estimator's KL to the reference; weight 0 without ref_logps

  std::size_t tokens() const noexcept { return static_cast<std::size_t>(ratio.weight); }
};

/// This batch's share of the step's loss, the sum over masked-in tokens of weight (ppo_objective + kl_loss_coef KL);
/// the shares of a step's micro-batches add up to it. Overwrites all slopes with its derivatives with respect to logps,
/// 0 where the mask is 0; old policy, reference and advantages get none. Adds to *statistics if it is not null.
///
/// Expects a valid batch of a sequence or more, sizes equal to batch.total_tokens(), finite numbers where the mask is 1
/// (where it is 0 they are not read), totals as loss_aggregation.hpp has them. Slopes may be the memory of the logps.
/// With ref_logps and kl_loss_coef 0 only the statistics see the reference. Arithmetic in double, left to right; a
/// number beyond T's range is T's largest. Allocates nothing; writes nothing if it throws.
template <class T>
T ppo_loss(ppo_tokens<T> of, sequences_view batch, std::span<T> slopes, aggregation_totals totals,
           loss_aggregation aggregation = loss_aggregation::token_mean, ppo_options options = {},
           ppo_statistics* statistics = nullptr) {
  validate(options);
  validate(batch, (std::numeric_limits<std::size_t>::max)());
  expects(batch.size() > 0, "ppo_loss: at least one sequence");
  expects_finite_tokens(of.logps, batch, "ppo_loss: logps");
  expects_finite_tokens(of.old_logps, batch, "ppo_loss: old_logps");
  expects_finite_tokens(of.advantages, batch, "ppo_loss: advantages");
  bool const with_reference = !of.ref_logps.empty();
  expects(with_reference || options.kl_loss_coef == 0.0 || batch.total_tokens() == 0,
          "ppo_loss: ref_logps, which kl_loss_coef > 0 needs");
  if (with_reference) expects_finite_tokens(of.ref_logps, batch, "ppo_loss: ref_logps");
  expects(slopes.size() == batch.total_tokens(), "ppo_loss: slopes.size() == batch.total_tokens()", slopes.size());
  validate(aggregation, totals, batch);

  auto const log_ratio = [](T policy, T other) {
    return saturate_cast<double>(static_cast<double>(policy) - static_cast<double>(other));
  };
  ppo_statistics sums;
  double loss = 0.0;
  for (std::size_t b = 0; b < batch.size(); ++b) {
    double const weight = token_weight(aggregation, totals, completion_tokens(batch.sequence_mask(b)));
    for (std::size_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
      if (batch.mask[t] == 0) {
        slopes[t] = T(0);
        continue;
      }
      auto const one = ppo_objective(static_cast<double>(of.logps[t]), static_cast<double>(of.old_logps[t]),
                                     static_cast<double>(of.advantages[t]), options);
      double value = one.value, slope = one.slope;
      if (with_reference) {
        auto const kl = kl_estimate(log_ratio(of.logps[t], of.ref_logps[t]), options.kl_loss_estimator);
        sums.kl.add(kl.value);
        value = saturate_cast<double>(value + saturate_cast<double>(options.kl_loss_coef * kl.value));
        slope = saturate_cast<double>(slope + saturate_cast<double>(options.kl_loss_coef * kl.slope));
      }
      sums.approxkl.add(kl_estimate(log_ratio(of.logps[t], of.old_logps[t]), kl_estimator::k2).value);
      sums.clipfrac.add(one.clipped ? 1.0 : 0.0);
      sums.clipfrac_lower.add(one.dual_clipped ? 1.0 : 0.0);
      sums.ratio.add(one.ratio);
      sums.ratio_squared.add(saturate_cast<double>(one.ratio * one.ratio));
      loss = saturate_cast<double>(loss + weight * value);
      slopes[t] = saturate_cast<T>(weight * slope);
    }
  }
  if (statistics != nullptr) {
    statistics->approxkl.add(sums.approxkl);
    statistics->clipfrac.add(sums.clipfrac);
    statistics->clipfrac_lower.add(sums.clipfrac_lower);
    statistics->ratio.add(sums.ratio);
    statistics->ratio_squared.add(sums.ratio_squared);
    statistics->kl.add(sums.kl);
  }
  return saturate_cast<T>(loss);
}

/// ppo_loss as a TokenObjective: what loss_on_logits and a policy's accumulate_gradient take. Borrows its spans, which
/// belong to the batch that follows.
template <class T>
struct ppo_on_tokens {
  std::span<T const> old_logps;       // (tokens)
  std::span<T const> advantages;      // (tokens)
  std::span<T const> ref_logps = {};  // (tokens); may be empty without kl_loss_coef
  aggregation_totals totals = {};     ///< of the whole optimiser step; both counts 0 means that this batch is all of it
  loss_aggregation aggregation = loss_aggregation::token_mean;
  ppo_options options = {};
  ppo_statistics* statistics = nullptr;  ///< added to unless null

  T operator()(sequences_view batch, std::span<T const> logps, std::span<T> slopes) const {
    aggregation_totals step = totals;
    if (totals.tokens == 0 && totals.sequences == 0) {
      step = aggregation_totals_of(batch);
      step.constant_length = totals.constant_length;
    }
    return ppo_loss<T>({.logps = logps, .old_logps = old_logps, .advantages = advantages, .ref_logps = ref_logps},
                       batch, slopes, step, aggregation, options, statistics);
  }
};

}  // namespace attune
