// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/core/statistics.hpp>
#include <attune/objective/expects_finite_tokens.hpp>
#include <attune/objective/kl.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/token_run.hpp>

/// What the losses of the policy gradient family have in common. They differ in one function of a token, the surrogate,
/// which says what its log-probability is worth to the loss given the ratio r = pi / pi_old and an advantage A:
///
///   |       | file      | loss of a token or response        | slope                            |
///   |-------|-----------|------------------------------------|----------------------------------|
///   | PPO   | ppo.hpp   | -min(r A, clip(r) A)               | -A r, or 0 at a bound            |
///   | GSPO  | gspo.hpp  | PPO's, r = exp(mean log-ratio)     | PPO's, shared by all its tokens  |
///   | CISPO | cispo.hpp | -A sg(min(r, epsilon_high)) log pi | -A min(r, epsilon_high)          |
///   | SAPO  | sapo.hpp  | -A 4 / tau sigmoid(tau (r - 1))    | -A r sech^2(tau (r - 1) / 2)     |
///
/// At r = 1 all slopes are -A. The rest is said once, here: the KL to a reference, the aggregation of tokens,
/// statistics. What others call GRPO, RLOO, Dr.GRPO, DAPO, BNPO and REINFORCE++ are these with other advantages
/// (group_advantages) and another aggregation (loss_aggregation). BNPO is token_mean: TRL divides by the tokens of each
/// micro-batch, so that its loss hangs on the cut; here the denominator is the optimiser step's.
namespace attune {

template <class T>
struct policy_gradient_value_and_slope {
  T value;
  T slope;            ///< d value / d logp
  T ratio;            ///< pi(y) / pi_old(y)
  bool clipped;       ///< the surrogate's bound on the ratio is in force
  bool dual_clipped;  ///< so is that of ppo_options.dual_clip
};

/// Whose ratio a surrogate sees, and which tokens move it.
enum class ratio_level {
  token,           ///< each token its own
  sequence,        ///< one for the response, the geometric mean of its tokens' ratios, moved by all of them alike
  sequence_token,  ///< the same number, moved for each token's loss by that token alone (GSPO-token)
};

/// A policy gradient method: options with
///   validate(options)                                      throws contract_violation naming field and value
///   ratio_level_of(options)                                whose ratio
///   policy_gradient_objective(logp, old_logp, A, options)  a token's policy_gradient_value_and_slope; where the ratio
///                                                          is a sequence's, logp is the mean log-ratio, old_logp 0
///   Options::paper_aggregation                             the aggregation its paper has
/// found by the namespace of the options, so that a method of one's own needs no more than these.
template <class S>
concept PolicyGradientSurrogate = requires(S const& options, double x) {
  validate(options);
  { ratio_level_of(options) } -> std::same_as<ratio_level>;
  { policy_gradient_objective(x, x, x, options) } -> std::same_as<policy_gradient_value_and_slope<double>>;
  { S::paper_aggregation } -> std::convertible_to<loss_aggregation>;
};

/// The KL to the reference inside a loss. Not to be confused with kl_coef, the price of the KL inside the rewards.
struct kl_loss_options {
  double kl_loss_coef = 0.0;                          ///< weight (Shao et al. 2024, eq. 3; TRL: beta); >= 0
  kl_estimator kl_loss_estimator = kl_estimator::k2;  ///< k2 or k3; which KL they pull down: see kl.hpp
  bool bias_correction = false;  ///< times the surrogate's ratio, differentiated as well (DeepSeek-V3.2, 2025, section
                                 ///< 3.1; TRL: use_bias_correction_kl): then k3's gradient is that of KL(pi || ref)
                                 ///< even where the tokens are an older policy's. Needs kl_loss_coef > 0
};

/// Throws contract_violation naming the field and its value.
inline void validate(kl_loss_options const& o) {
  expects(o.kl_loss_coef >= 0.0 && o.kl_loss_coef <= (std::numeric_limits<double>::max)(),
          "kl_loss_options.kl_loss_coef >= 0 and finite", o.kl_loss_coef);
  expects(
      o.kl_loss_estimator == kl_estimator::k2 || o.kl_loss_estimator == kl_estimator::k3,
      "kl_loss_options.kl_loss_estimator k2 or k3: the gradient of k1 is 0 in expectation, so that as a loss it pulls "
      "nowhere (it belongs in the rewards)");
  expects(!o.bias_correction || o.kl_loss_coef > 0.0,
          "kl_loss_options.bias_correction == false, since kl_loss_coef is 0 and there is nothing to correct");
}

/// One number per token, read where the mask is 1 alone.
template <class T>
struct policy_gradient_tokens {
  std::span<T const> logps;           // (tokens) under the policy in training
  std::span<T const> old_logps;       // (tokens) under the policy that drew the tokens
  std::span<T const> advantages;      // (tokens)
  std::span<T const> ref_logps = {};  // (tokens) under the reference; may be empty without kl_loss_coef
};

/// Means over completion tokens, whatever the aggregation of the loss: prompts, and padding where others have it, have
/// no part in them. Sums that several batches add to; inf where ratios add up beyond double's range.
struct policy_gradient_statistics {
  metric_sum approxkl;        ///< (logp - old_logp)^2 / 2: k2 between the old policy and the one in training
  metric_sum clipfrac;        ///< share of tokens at the surrogate's bound
  metric_sum clipfrac_lower;  ///< share of tokens at dual_clip's
  metric_sum ratio;           ///< that the surrogate saw
  metric_sum ratio_squared;   ///< so that the variance of the ratio is ratio_squared.mean() - ratio.mean()^2
  metric_sum kl;              ///< kl_loss_estimator's KL to the reference, uncorrected; weight 0 without ref_logps

  std::size_t tokens() const noexcept { return static_cast<std::size_t>(ratio.weight); }
  void add(policy_gradient_statistics const& other) noexcept {
    approxkl.add(other.approxkl);
    clipfrac.add(other.clipfrac);
    clipfrac_lower.add(other.clipfrac_lower);
    ratio.add(other.ratio);
    ratio_squared.add(other.ratio_squared);
    kl.add(other.kl);
  }
};

/// The objective of the first `count` tokens of a run. A surrogate may have a faster one beside its
/// policy_gradient_objective: see ppo.hpp.
template <PolicyGradientSurrogate S>
void policy_gradient_objectives(token_run& run, std::size_t count, S const& surrogate) noexcept {
  for (std::size_t k = 0; k < count; ++k) {
    auto const one = policy_gradient_objective(run.logp[k], run.old_logp[k], run.advantage[k], surrogate);
    run.value[k] = one.value;
    run.slope[k] = one.slope;
    run.ratio[k] = one.ratio;
    run.clipped[k] = one.clipped ? 1.0 : 0.0;
    run.dual_clipped[k] = one.dual_clipped ? 1.0 : 0.0;
  }
}

/// policy_gradient_loss of surrogates that see each token's ratio, once everything is checked: run by run of masked-in
/// tokens.
template <class T, PolicyGradientSurrogate S>
double policy_gradient_by_token(policy_gradient_tokens<T> const& of, sequences_view batch, std::span<T> slopes,
                                aggregation_totals const& totals, loss_aggregation aggregation, S const& surrogate,
                                kl_loss_options const& kl_loss, policy_gradient_statistics* statistics) {
  bool const with_reference = !of.ref_logps.empty();
  double loss = 0.0;
  policy_gradient_statistics sums;
  token_run run;
  auto const widen = [](std::span<T const> from, std::size_t first, std::size_t count, double* to) {
    for (std::size_t k = 0; k < count; ++k) to[k] = static_cast<double>(from[first + k]);
  };
  auto const add = [&](metric_sum& sum, double const* x, std::size_t count) {
    sum.add({sum_of_run(x, count), static_cast<double>(count)});
  };
  auto const evaluate = [&](std::size_t first, std::size_t count, double weight) {
    widen(of.logps, first, count, run.logp);
    widen(of.old_logps, first, count, run.old_logp);
    widen(of.advantages, first, count, run.advantage);
    policy_gradient_objectives(run, count, surrogate);
    add(sums.clipfrac, run.clipped, count);
    add(sums.clipfrac_lower, run.dual_clipped, count);
    add(sums.ratio, run.ratio, count);
    for (std::size_t k = 0; k < count; ++k) {
      double const d = run.logp[k] - run.old_logp[k];
      run.approxkl[k] = saturate_cast<double>(d * d * 0.5);
      run.ratio_squared[k] = saturate_cast<double>(run.ratio[k] * run.ratio[k]);
    }
    add(sums.approxkl, run.approxkl, count);
    add(sums.ratio_squared, run.ratio_squared, count);
    if (with_reference) {
      for (std::size_t k = 0; k < count; ++k)
        run.log_ratio[k] = saturate_cast<double>(run.logp[k] - static_cast<double>(of.ref_logps[first + k]));
      kl_estimates(run, count, kl_loss.kl_loss_estimator);
      add(sums.kl, run.kl, count);
      if (kl_loss.bias_correction)
        for (std::size_t k = 0; k < count; ++k) {
          run.kl[k] = saturate_cast<double>(run.ratio[k] * run.kl[k]);
          run.kl_slope[k] = saturate_cast<double>(saturate_cast<double>(run.ratio[k] * run.kl_slope[k]) + run.kl[k]);
        }
      double const coef = kl_loss.kl_loss_coef;
      for (std::size_t k = 0; k < count; ++k) {
        run.value[k] = saturate_cast<double>(run.value[k] + coef * run.kl[k]);
        run.slope[k] = saturate_cast<double>(run.slope[k] + coef * run.kl_slope[k]);
      }
    }
    for (std::size_t k = 0; k < count; ++k) run.value[k] *= weight;
    loss = saturate_cast<double>(loss + saturate_cast<double>(sum_of_run(run.value, count)));
    for (std::size_t k = 0; k < count; ++k) slopes[first + k] = saturate_cast<T>(weight * run.slope[k]);
  };
  for (std::size_t b = 0; b < batch.size(); ++b) {
    double const weight = token_weight(aggregation, totals, completion_tokens(batch.sequence_mask(b)));
    std::size_t const end = batch.offsets[b + 1];
    for (std::size_t t = batch.offsets[b]; t < end;) {
      if (batch.mask[t] == 0) {
        slopes[t++] = T(0);
        continue;
      }
      std::size_t const first = t;
      std::size_t const room = (std::min)(token_run::size, end - first);
      void const* const masked = std::memchr(batch.mask.data() + first, 0, room);
      t = masked == nullptr ? first + room
                            : static_cast<std::size_t>(static_cast<std::uint8_t const*>(masked) - batch.mask.data());
      evaluate(first, t - first, weight);
    }
  }
  if (statistics != nullptr) statistics->add(sums);
  return loss;
}

/// policy_gradient_loss of surrogates that see a sequence's ratio, once everything is checked.
template <class T, PolicyGradientSurrogate S>
double policy_gradient_by_sequence(policy_gradient_tokens<T> const& of, sequences_view batch, std::span<T> slopes,
                                   aggregation_totals const& totals, loss_aggregation aggregation, S const& surrogate,
                                   kl_loss_options const& kl_loss, policy_gradient_statistics* statistics) {
  bool const with_reference = !of.ref_logps.empty();
  policy_gradient_statistics sums;
  auto const log_ratio = [](T policy, T other) {
    return saturate_cast<double>(static_cast<double>(policy) - static_cast<double>(other));
  };
  ratio_level const level = ratio_level_of(surrogate);
  double of_sequence = 0.0;  // mean log-ratio, unless the level is the token's
  auto const objective = [&](std::size_t t) {
    double const A = static_cast<double>(of.advantages[t]);
    if (level != ratio_level::token) return policy_gradient_objective(of_sequence, 0.0, A, surrogate);
    return policy_gradient_objective(static_cast<double>(of.logps[t]), static_cast<double>(of.old_logps[t]), A,
                                     surrogate);
  };
  auto const kl_of = [&](std::size_t t) {
    return kl_estimate(log_ratio(of.logps[t], of.ref_logps[t]), kl_loss.kl_loss_estimator);
  };
  double const kl_coef = kl_loss.kl_loss_coef;
  double loss = 0.0;
  for (std::size_t b = 0; b < batch.size(); ++b) {
    std::size_t const length = completion_tokens(batch.sequence_mask(b));
    double const weight = token_weight(aggregation, totals, length);
    auto const each_token = [&](auto&& visit) {
      for (std::size_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t)
        if (batch.mask[t] != 0) visit(t);
    };
    if (level != ratio_level::token) {
      of_sequence = 0.0;
      each_token([&](std::size_t t) {
        of_sequence = saturate_cast<double>(of_sequence + log_ratio(of.logps[t], of.old_logps[t]));
      });
      if (length > 0) of_sequence /= static_cast<double>(length);
    }
    double shared = 0.0;  // what every token owes to the sequence's ratio: its share of what that ratio moves
    if (level == ratio_level::sequence)
      each_token([&](std::size_t t) {
        auto const one = objective(t);
        double moved = one.slope;
        if (kl_loss.bias_correction)
          moved = saturate_cast<double>(moved + kl_coef * saturate_cast<double>(one.ratio * kl_of(t).value));
        shared = saturate_cast<double>(shared + moved / static_cast<double>(length));
      });
    for (std::size_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
      if (batch.mask[t] == 0) {
        slopes[t] = T(0);
        continue;
      }
      auto const one = objective(t);
      double value = one.value, slope = level == ratio_level::sequence ? shared : one.slope;
      if (with_reference) {
        auto kl = kl_of(t);
        sums.kl.add(kl.value);
        if (kl_loss.bias_correction) {
          kl.value = saturate_cast<double>(one.ratio * kl.value);
          kl.slope = saturate_cast<double>(one.ratio * kl.slope);
          if (level != ratio_level::sequence) kl.slope = saturate_cast<double>(kl.slope + kl.value);
        }
        value = saturate_cast<double>(value + saturate_cast<double>(kl_coef * kl.value));
        slope = saturate_cast<double>(slope + saturate_cast<double>(kl_coef * kl.slope));
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
  if (statistics != nullptr) statistics->add(sums);
  return loss;
}

/// This batch's share of the step's loss, the sum over masked-in tokens of weight (surrogate + kl_loss_coef KL); the
/// shares of a step's micro-batches add up to it. Overwrites all slopes with its derivatives with respect to logps, 0
/// where the mask is 0; old policy, reference and advantages get none. Adds to *statistics if it is not null.
///
/// Expects a valid batch of a sequence or more, sizes equal to batch.total_tokens(), finite numbers where the mask is 1
/// (where it is 0 they are not used), totals as loss_aggregation.hpp has them. Slopes may be the memory of the logps.
/// With ref_logps and kl_loss_coef 0 only the statistics see the reference. Arithmetic in double, but see
/// ppo_float_run.hpp for PPO's float; sums in a fixed tree; a number beyond T's range is T's largest. Allocates
/// nothing; writes nothing if it throws.
template <class T, PolicyGradientSurrogate S>
T policy_gradient_loss(policy_gradient_tokens<T> of, sequences_view batch, std::span<T> slopes,
                       aggregation_totals totals, loss_aggregation aggregation, S const& surrogate,
                       policy_gradient_statistics* statistics = nullptr, kl_loss_options kl_loss = {}) {
  validate(surrogate);
  validate(kl_loss);
  validate(batch, (std::numeric_limits<std::size_t>::max)());
  expects(batch.size() > 0, "policy_gradient_loss: at least one sequence");
  bool const with_reference = !of.ref_logps.empty();
  expects_one_per_token(of.logps, batch, "policy_gradient_loss: logps");
  expects_one_per_token(of.old_logps, batch, "policy_gradient_loss: old_logps");
  expects_one_per_token(of.advantages, batch, "policy_gradient_loss: advantages");
  expects(with_reference || kl_loss.kl_loss_coef == 0.0 || batch.total_tokens() == 0,
          "policy_gradient_loss: ref_logps, which kl_loss_coef > 0 needs");
  if (with_reference) expects_one_per_token(of.ref_logps, batch, "policy_gradient_loss: ref_logps");
  expects_one_per_token(slopes, batch, "policy_gradient_loss: slopes");
  validate(aggregation, totals, batch);

  double loss = 0.0;
  if constexpr (requires {
                  policy_gradient_in_float(of, batch, slopes, totals, aggregation, surrogate, kl_loss, statistics,
                                           loss);
                })
    if (policy_gradient_in_float(of, batch, slopes, totals, aggregation, surrogate, kl_loss, statistics, loss))
      return saturate_cast<T>(loss);
  expects_finite_tokens(of.logps, batch, "policy_gradient_loss: logps");
  expects_finite_tokens(of.old_logps, batch, "policy_gradient_loss: old_logps");
  expects_finite_tokens(of.advantages, batch, "policy_gradient_loss: advantages");
  if (with_reference) expects_finite_tokens(of.ref_logps, batch, "policy_gradient_loss: ref_logps");
  bool const by_token = ratio_level_of(surrogate) == ratio_level::token;
  loss = by_token ? policy_gradient_by_token(of, batch, slopes, totals, aggregation, surrogate, kl_loss, statistics)
                  : policy_gradient_by_sequence(of, batch, slopes, totals, aggregation, surrogate, kl_loss, statistics);
  return saturate_cast<T>(loss);
}

/// policy_gradient_loss as a TokenObjective: what loss_on_logits and a policy's accumulate_gradient take. Borrows its
/// spans, which belong to the batch that follows.
template <class T, PolicyGradientSurrogate S>
struct policy_gradient_on_tokens {
  std::span<T const> old_logps;       // (tokens)
  std::span<T const> advantages;      // (tokens)
  std::span<T const> ref_logps = {};  // (tokens); may be empty without kl_loss_coef
  aggregation_totals totals = {};     ///< of the whole optimiser step; both counts 0 means that this batch is all of it
  loss_aggregation aggregation = S::paper_aggregation;
  S options = {};
  policy_gradient_statistics* statistics = nullptr;  ///< added to unless null
  kl_loss_options kl_loss = {};

  T operator()(sequences_view batch, std::span<T const> logps, std::span<T> slopes) const {
    aggregation_totals step = totals;
    if (totals.tokens == 0 && totals.sequences == 0) {
      step = aggregation_totals_of(batch);
      step.constant_length = totals.constant_length;
    }
    return policy_gradient_loss<T>(
        {.logps = logps, .old_logps = old_logps, .advantages = advantages, .ref_logps = ref_logps}, batch, slopes, step,
        aggregation, options, statistics, kl_loss);
  }
};

}  // namespace attune
