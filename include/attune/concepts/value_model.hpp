// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <ranges>
#include <span>

#include <attune/concepts/policy.hpp>
#include <attune/core/function_ref.hpp>
#include <attune/core/parameter.hpp>
#include <attune/core/sequences.hpp>

/// What an actor-critic algorithm needs beside a policy: a critic, which says what is still to come. As with policies,
/// nothing here knows a tensor; T floats cross the wall per call.
namespace attune {

/// The question a critic asks of an objective in the middle of accumulate_value_gradient: here are the values of this
/// batch, what is dL/dvalues? Both spans have one entry per token of the batch, 0 where the mask is 0; the callee
/// overwrites slopes on masked-in tokens and leaves the rest at 0.
template <class T>
using value_slopes_of = function_ref<void(std::span<T const> values, std::span<T> slopes)>;

/// A state-value function with parameters: V(everything before a token), read before the token is chosen.
///
/// For  s  a sequences_view,  out  a span of s.total_tokens() scalars:
///   m.values(s, out)                      overwrites  out[t] = V(all tokens before t in its sequence)  where mask[t]
///                                         is 1, and writes 0 where it is 0; unit of the reward
///   m.accumulate_value_gradient(s, ask)   computes values, calls ask(values, slopes) exactly once, and adds
///                                         sum_t slopes[t] * d values[t] / d theta  to the gradients
///   m.parameters()                        as for Policy
///
/// Laws (checked by testing::check_value_model_laws):
///   masked       0 where the mask is 0
///   pure         two calls with equal arguments write equal bits
///   causal       values[t] does not depend on tokens[t] nor on any later one, so it may serve as a baseline of t's
///                choice
///   local        the result for one sequence does not depend on its neighbours in s, nor on their order
///   finite       and those of Policy with values for logps: consistent, linear, exact, accumulates, stable
/// If ask throws, the gradients are as before the call.
/// Modelled by: value_head, actor_critic.
template <class M>
concept ValueModel =
    std::floating_point<typename M::scalar> &&
    requires(M& m, M const& c, sequences_view s, std::span<typename M::scalar> out,
             value_slopes_of<typename M::scalar> ask) {
      { c.values(s, out) } -> std::same_as<void>;
      { m.accumulate_value_gradient(s, ask) } -> std::same_as<void>;
      requires std::ranges::input_range<decltype(m.parameters())>;
      requires std::convertible_to<std::ranges::range_reference_t<decltype(m.parameters())>,
                                   parameter<typename M::scalar>>;
    };

/// As slopes_of and value_slopes_of at once, for objectives that look at both.
template <class T>
using actor_critic_slopes_of = function_ref<void(std::span<T const> logps, std::span<T const> values,
                                                 std::span<T> slopes, std::span<T> value_slopes)>;

/// A policy and its critic in one model, on a shared trunk say, that computes both in one pass.
///
///   p.log_probs_and_values(s, logps, values)        overwrites both, as log_probs and values do
///   p.accumulate_gradient_with_values(s, ask)       computes both, calls ask(logps, values, slopes, value_slopes)
///                                                   exactly once, and adds
///                                                   sum_t slopes[t] d logps[t] + value_slopes[t] d values[t]
///
/// Laws (checked by testing::check_actor_critic_laws): those of Policy and of ValueModel; and either of these is the
/// two separate calls within rounding.
/// Modelled by: actor_critic.
template <class P>
concept ActorCritic =
    Policy<P> && ValueModel<P> &&
    requires(P& p, P const& c, sequences_view s, std::span<typename P::scalar> logps,
             std::span<typename P::scalar> values, actor_critic_slopes_of<typename P::scalar> ask) {
      { c.log_probs_and_values(s, logps, values) } -> std::same_as<void>;
      { p.accumulate_gradient_with_values(s, ask) } -> std::same_as<void>;
    };

}  // namespace attune
