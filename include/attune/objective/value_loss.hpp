// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/core/statistics.hpp>
#include <attune/objective/expects_finite_tokens.hpp>
#include <attune/objective/loss_aggregation.hpp>

/// The critic's loss in PPO: squared error against the returns, with the value held near that of the rollout by the
/// clipping that the surrogate has (the form of OpenAI's baselines; Engstrom et al. 2020, section 3).
namespace attune {

struct value_loss_options {
  double cliprange_value = 0.2;  ///< room around the old value, unit of the rewards; >= 0, 0: no clipping
};

/// Throws contract_violation naming the field and its value.
inline void validate(value_loss_options const& o) {
  expects(o.cliprange_value >= 0.0 && o.cliprange_value <= (std::numeric_limits<double>::max)(),
          "value_loss_options.cliprange_value >= 0 and finite", o.cliprange_value);
}

template <class T>
struct value_loss_and_slope {
  T value;
  T slope;       ///< d value / d (the critic's value)
  bool clipped;  ///< the clipped branch is the larger: the slope is 0
};

/// The loss of one token, max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2, from V, V_old and the return R.
/// Its slope is V - R, or 0 where the clipped branch is the larger of the two, which happens outside the band alone.
/// Finite for every finite input: what lies beyond T's range is T's largest number. Expects valid options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_loss_and_slope<T> value_objective(T value, T old_value, T target,
                                                                         value_loss_options o = {}) noexcept {
  T const error = saturate_cast<T>(value - target);
  auto const loss_of = [](T e) { return saturate_cast<T>(e * e * T(0.5)); };
  if (!(o.cliprange_value > 0.0)) return {loss_of(error), error, false};
  T const low = old_value - T(o.cliprange_value);
  T const high = old_value + T(o.cliprange_value);
  T const held = real_part(value) < real_part(low) ? low : real_part(value) > real_part(high) ? high : value;
  T const held_error = saturate_cast<T>(held - target);
  auto const size = [](T e) { return real_part(e) < 0 ? -real_part(e) : real_part(e); };
  if (size(held_error) > size(error)) return {loss_of(held_error), T(0), true};
  return {loss_of(error), error, false};
}

/// One number per token, read where the mask is 1 alone.
template <class T>
struct value_tokens {
  std::span<T const> values;           // (tokens) of the critic in training
  std::span<T const> returns;          // (tokens) what they ought to be: advantages + old values
  std::span<T const> old_values = {};  // (tokens) at the time of the rollout; may be empty without clipping
};

/// Means over completion tokens. Sums that several batches add to.
struct value_statistics {
  metric_sum clipfrac;       ///< share of tokens whose clipped branch is the larger
  metric_sum error;          ///< value - return: the critic's bias
  metric_sum squared_error;  ///< (value - return)^2
};

/// This batch's share of the step's mean loss over completion tokens; the shares of a step's micro-batches add up to
/// it. Overwrites all slopes with its derivatives with respect to values, 0 where the mask is 0. Adds to *statistics if
/// it is not null. totals.tokens counts the whole optimiser step; totals.sequences is not read.
///
/// Expects a valid batch of a sequence or more, sizes equal to batch.total_tokens(), finite numbers where the mask is 1
/// (where it is 0 they are not read). Slopes may be the memory of the values. Arithmetic in double, left to right; a
/// number beyond T's range is T's largest. Allocates nothing; writes nothing if it throws.
template <class T>
T value_loss(value_tokens<T> of, sequences_view batch, std::span<T> slopes, aggregation_totals totals,
             value_loss_options options = {}, value_statistics* statistics = nullptr) {
  validate(options);
  validate(batch, (std::numeric_limits<std::size_t>::max)());
  expects(batch.size() > 0, "value_loss: at least one sequence");
  expects_finite_tokens(of.values, batch, "value_loss: values");
  expects_finite_tokens(of.returns, batch, "value_loss: returns");
  bool const clips = options.cliprange_value > 0.0;
  expects(!clips || !of.old_values.empty() || batch.total_tokens() == 0,
          "value_loss: old_values, which cliprange_value > 0 needs");
  if (clips) expects_finite_tokens(of.old_values, batch, "value_loss: old_values");
  expects_one_per_token(slopes, batch, "value_loss: slopes");
  validate(loss_aggregation::token_mean, totals, batch);

  double const weight = token_weight(loss_aggregation::token_mean, totals, 1);
  value_statistics sums;
  double loss = 0.0;
  for (std::size_t t = 0; t < batch.total_tokens(); ++t) {
    if (batch.mask[t] == 0) {
      slopes[t] = T(0);
      continue;
    }
    double const value = static_cast<double>(of.values[t]), target = static_cast<double>(of.returns[t]);
    auto const one = value_objective(value, clips ? static_cast<double>(of.old_values[t]) : value, target, options);
    double const error = saturate_cast<double>(value - target);
    sums.clipfrac.add(one.clipped ? 1.0 : 0.0);
    sums.error.add(error);
    sums.squared_error.add(saturate_cast<double>(error * error));
    loss = saturate_cast<double>(loss + weight * one.value);
    slopes[t] = saturate_cast<T>(weight * one.slope);
  }
  if (statistics != nullptr) {
    statistics->clipfrac.add(sums.clipfrac);
    statistics->error.add(sums.error);
    statistics->squared_error.add(sums.squared_error);
  }
  return saturate_cast<T>(loss);
}

}  // namespace attune
