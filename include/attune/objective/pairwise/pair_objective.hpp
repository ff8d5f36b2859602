// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <string_view>

#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/value_and_slope.hpp>

/// What all pairwise losses have in common: a function of what the policy says of two responses to one prompt, the
/// first of which is preferred. Each loss is an aggregate of options and one function of a pair,
///
///   pair_objective(response_pair<T>, its_options) -> {value, d/dchosen, d/drejected}
///
/// in a file of its own. A user's loss is one more such pair; pair_loss takes it to batches, preference_loss mixes the
/// library's.
namespace attune {

/// One pair as a loss sees it. The numbers are log-ratios log pi(y) - log pi_ref(y) in nats, summed over the tokens of
/// a response, or log pi(y) itself for a loss without a reference.
template <class T>
struct response_pair {
  T chosen;
  T rejected;
  T chosen_tokens = T(1);  ///< length of the response; >= 1; read by losses that say so
  T rejected_tokens = T(1);
};

/// What a loss makes use of; the rest may be left out, and an option that acts on the rest is refused.
struct pair_inputs {
  bool reference = true;          ///< log-ratios; false: the policy's log-probabilities alone
  bool lengths = false;           ///< chosen_tokens and rejected_tokens
  bool divergence = false;        ///< a loss of the difference of two implied rewards: an f_divergence has a meaning
  bool per_chosen_token = false;  ///< the step's mean is over the tokens of chosen responses instead of over pairs
};

/// A pairwise loss: what the options' type promises, besides being an aggregate.
///
///   O::name       its name in reports and on command lines, TRL's where TRL has it
///   o.reads()     pair_inputs
///   validate(o)   throws contract_violation naming field and value
///   pair_objective(p, o)   finite for every finite p with lengths >= 1, if o is valid
template <class O>
concept PairObjective = requires(O const& o, response_pair<double> const& p) {
  { O::name } -> std::convertible_to<std::string_view>;
  { o.reads() } -> std::same_as<pair_inputs>;
  { validate(o) } -> std::same_as<void>;
  { pair_objective(p, o) } -> std::same_as<pair_value_and_slopes<double>>;
};

/// beta (chosen - rejected) - target, within T's range.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T pair_margin(T chosen, T rejected, double beta, double target = 0.0) noexcept {
  return saturate_cast<T>(saturate_cast<T>(T(beta) * saturate_cast<T>(chosen - rejected)) - T(target));
}

/// A loss of pair_margin as a loss of the pair: the chain rule, once for all of them.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> through_margin(value_and_slope<T> of_margin,
                                                                         double beta) noexcept {
  T const slope = saturate_cast<T>(T(beta) * of_margin.slope);
  return {saturate_cast<T>(of_margin.value), slope, -slope};
}

/// A sum of a loss of beta * chosen and one of beta * rejected.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> through_rewards(value_and_slope<T> of_chosen,
                                                                          value_and_slope<T> of_rejected,
                                                                          double beta) noexcept {
  return {saturate_cast<T>(of_chosen.value + of_rejected.value), saturate_cast<T>(T(beta) * of_chosen.slope),
          saturate_cast<T>(T(beta) * of_rejected.slope)};
}

/// sigmoid(a) and its derivative sigmoid(a) sigmoid(-a), which neither overflows nor cancels.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_and_slope<T> sigmoid_and_slope(T a) noexcept {
  using std::exp;
  bool const positive = real_part(a) > 0;
  T const e = exp(positive ? -a : a);
  T const whole = T(1) / (T(1) + e);
  T const part = e * whole;
  return {positive ? whole : part, whole * part};
}

}  // namespace attune
