// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include <attune/core/branchless.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/policy_gradient.hpp>
#include <attune/objective/ppo_float_run.hpp>
#include <attune/objective/token_run.hpp>

/// Proximal policy optimisation: the clipped surrogate (Schulman et al. 2017, eq. 7) as a loss over tokens. Other
/// members of the policy gradient family (RLOO, GRPO, DAPO, BNPO, REINFORCE++) are this loss with other advantages
/// (gae, group_advantages), another aggregation, and a higher upper bound or a KL term; policy_gradient.hpp has what
/// the family shares.
namespace attune {

/// dual_clip is also the two-sided clip of INTELLECT-2 (Prime Intellect 2025; TRL: delta), which bounds r
/// by delta before eq. 7 looks at it: where delta >= 1 + cliprange_high, as it recommends, the two are one function.
/// TRL's epsilon and epsilon_high are cliprange and cliprange_high.
struct ppo_options {
  double cliprange = 0.2;       ///< the ratio's room below 1, and above unless cliprange_high is set; (0, 1]
  double cliprange_high = 0.0;  ///< the ratio's room above 1 (Yu et al. 2025, DAPO, "clip-higher": 0.28); > 0, or 0:
                                ///< as cliprange
  double dual_clip = 0.0;  ///< bound on the ratio where the advantage is negative (Ye et al. 2020: 3; INTELLECT-2: 4);
                           ///< > 1, or 0: off

  static constexpr loss_aggregation paper_aggregation = loss_aggregation::token_mean;
};

/// Throws contract_violation naming the field and its value.
inline void validate(ppo_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.cliprange > 0.0 && o.cliprange <= 1.0, "ppo_options.cliprange in (0, 1]", o.cliprange);
  expects(o.cliprange_high >= 0.0 && o.cliprange_high <= largest, "ppo_options.cliprange_high >= 0 and finite",
          o.cliprange_high);
  expects(o.dual_clip == 0.0 || (o.dual_clip > 1.0 && o.dual_clip <= largest),
          "ppo_options.dual_clip > 1 and finite, or 0", o.dual_clip);
}

/// The loss of one token, with r = exp(logp - old_logp):
///
///   A >= 0:  -A min(r, 1 + high)        A < 0:  -A max(r, 1 - low), bounded by -A dual_clip
///
/// which is eq. 7's -min(r A, clip(r) A). Its slope is -A r, or 0 where a bound is in force; on the bound itself it is
/// -A r. At logp == old_logp the ratio is exactly 1. Finite for every finite input: what lies beyond T's range is T's
/// largest number. Expects valid options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE policy_gradient_value_and_slope<T> ppo_objective(T logp, T old_logp, T advantage,
                                                                                  ppo_options o = {}) noexcept {
  T const ratio = saturate_cast<T>(exponential(saturate_cast<T>(logp - old_logp)));
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

constexpr ratio_level ratio_level_of(ppo_options const&) noexcept { return ratio_level::token; }

template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE policy_gradient_value_and_slope<T> policy_gradient_objective(
    T logp, T old_logp, T advantage, ppo_options const& o) noexcept {
  return ppo_objective(logp, old_logp, advantage, o);
}

/// The same for many, on vectors.
[[gnu::noinline]] inline void policy_gradient_objectives(token_run& run, std::size_t count,
                                                         ppo_options const& o) noexcept {
  constexpr double largest = largest_finite<double>;
  double const low = 1.0 - o.cliprange;
  double const high = 1.0 + (o.cliprange_high > 0.0 ? o.cliprange_high : o.cliprange);
  double const lower = o.dual_clip > 0.0 ? o.dual_clip : largest;
  for (std::size_t k = 0; k < count; ++k) {
    double const A = run.advantage[k];
    double const unbounded = exp_plain(run.logp[k] - run.old_logp[k]);
    double const r = unbounded > largest ? largest : unbounded;
    double const top = A > 0 ? high : lower;  // one bound or the other is in force, by the advantage's sign
    double const bottom = A > 0 ? 0.0 : low;
    double const raised = r < bottom ? bottom : r;
    double const bounded = raised > top ? top : raised;
    run.ratio[k] = r;
    run.value[k] = saturate_cast<double>(-A * bounded);
    run.slope[k] = bounded == r ? run.value[k] : 0.0;
    run.clipped[k] = bounded == r ? 0.0 : 1.0;
  }
  for (std::size_t k = 0; k < count; ++k) {
    double const A = run.advantage[k];
    run.dual_clipped[k] = A < 0 && run.ratio[k] > lower ? 1.0 : 0.0;
    run.clipped[k] = A == 0 ? 0.0 : run.clipped[k] - run.dual_clipped[k];
  }
}

/// policy_gradient_loss of float tokens that are all moderate, in float: adds to *statistics, writes the slopes and
/// returns true. False, with nothing done, for any other batch.
inline bool policy_gradient_in_float(policy_gradient_tokens<float> const& of, sequences_view batch,
                                     std::span<float> slopes, aggregation_totals const& totals,
                                     loss_aggregation aggregation, ppo_options const& o, kl_loss_options const& kl_loss,
                                     policy_gradient_statistics* statistics, double& loss) {
  double const high = 1.0 + (o.cliprange_high > 0.0 ? o.cliprange_high : o.cliprange);
  ppo_float_tokens const all{of.logps.data(), of.old_logps.data(), of.advantages.data(), of.ref_logps.data(),
                             batch.mask.data()};
  auto const in_float = [](double x) { return x >= 1e-18 && x <= 1e9; };
  bool const in_range = high <= 1e9 && o.dual_clip <= 1e9 && kl_loss.kl_loss_coef <= 1e9 &&
                        in_float(token_weight(aggregation, totals, 1)) &&
                        in_float(token_weight(aggregation, totals, batch.total_tokens()));
  if (!in_range || kl_loss.bias_correction || !is_moderate(all, batch.total_tokens())) return false;
  ppo_float_sums sums;
  loss = 0.0;
  auto const run = [&](std::size_t first, std::size_t end, std::size_t length) {
    double const weight = token_weight(aggregation, totals, length);
    sums.value = 0.0;
    auto const pass = statistics != nullptr ? ppo_float_run<true> : ppo_float_run<false>;
    pass({all.logp + first, all.old_logp + first, all.advantage + first,
          all.ref_logp == nullptr ? nullptr : all.ref_logp + first, all.mask + first},
         end - first,
         {.weight = static_cast<float>(weight),
          .kl_coef = static_cast<float>(kl_loss.kl_loss_coef),
          .cubic = kl_loss.kl_loss_estimator == kl_estimator::k3,
          .low = static_cast<float>(1.0 - o.cliprange),
          .high = static_cast<float>(high),
          .lower = o.dual_clip > 0.0 ? static_cast<float>(o.dual_clip) : largest_finite<float>},
         slopes.data() + first, sums);
    loss += weight * sums.value;
  };
  if (aggregation != loss_aggregation::sequence_mean)  // one weight for all
    run(0, batch.total_tokens(), batch.total_tokens());
  else
    for (std::size_t b = 0; b < batch.size(); ++b)
      run(batch.offsets[b], batch.offsets[b + 1], completion_tokens(batch.sequence_mask(b)));
  if (statistics != nullptr) {
    double const n = static_cast<double>(completion_tokens(batch.mask));
    statistics->add({.approxkl = {sums.approxkl, n},
                     .clipfrac = {sums.clipped, n},
                     .clipfrac_lower = {sums.dual_clipped, n},
                     .ratio = {sums.ratio, n},
                     .ratio_squared = {sums.ratio_squared, n},
                     .kl = {sums.kl, of.ref_logps.empty() ? 0.0 : n}});
  }
  return true;
}

/// policy_gradient_loss with this surrogate: see there.
template <class T>
T ppo_loss(policy_gradient_tokens<T> of, sequences_view batch, std::span<T> slopes, aggregation_totals totals,
           loss_aggregation aggregation = ppo_options::paper_aggregation, ppo_options options = {},
           policy_gradient_statistics* statistics = nullptr, kl_loss_options kl_loss = {}) {
  return policy_gradient_loss<T>(of, batch, slopes, totals, aggregation, options, statistics, kl_loss);
}

template <class T>
using ppo_on_tokens = policy_gradient_on_tokens<T, ppo_options>;

}  // namespace attune
