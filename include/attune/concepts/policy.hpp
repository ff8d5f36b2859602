// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <ranges>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/function_ref.hpp>
#include <attune/core/parameter.hpp>
#include <attune/core/sequences.hpp>

/// What a user's language model must offer to be trained by attune: token log-probabilities, and the gradient of a
/// weighted sum of them. Nothing here knows a tensor; T floats cross the wall per call.
namespace attune {

/// The question a policy asks of an objective in the middle of accumulate_gradient: here are the log-probabilities of
/// this batch, what is dL/dlogps? Both spans have one entry per token of the batch, 0 where the mask is 0; the callee
/// overwrites slopes on masked-in tokens and leaves the rest at 0.
template <class T>
using slopes_of = function_ref<void(std::span<T const> logps, std::span<T> slopes)>;

/// A distribution over completions whose log-probabilities can be read.
///
/// For  r  of type R const&,  s  a sequences_view,  logps  a span of s.total_tokens() scalars:
///   r.log_probs(s, logps)   overwrites  logps[t] = log pi(tokens[t] | all before it in its sequence)  where mask[t]
///                           is 1, and writes 0 where it is 0.
///
/// Laws (checked by testing::check_reference_policy_laws):
///   normalised   for every context, sum over v of exp(log pi(v | context)) is 1 within rounding
///   pure         two calls with equal arguments write equal bits
///   causal       changing tokens[t] does not change logps of earlier positions
///   local        the result for one sequence does not depend on its neighbours in s, nor on their order
/// A contract_violation names the sequence and the token that break sequences_view's promises, or a sequence longer
/// than the model's window.
/// Not required: gradients (see Policy), sampling (see GenerativePolicy), concurrent calls on one object.
/// Modelled by: tabular_policy, decoder, actor_critic, frozen<P>, reference_cache.
template <class R>
concept ReferencePolicy =
    std::floating_point<typename R::scalar> &&
    requires(R const& r, sequences_view s, std::span<typename R::scalar> logps) {
      { r.log_probs(s, logps) } -> std::same_as<void>;
    };

/// A ReferencePolicy with parameters and a vector-Jacobian product.
///
///   p.accumulate_gradient(s, ask)   computes logps as log_probs does, calls ask(logps, slopes) exactly once, and adds
///                                   sum_t slopes[t] * d logps[t] / d theta  to the gradients of its parameters.
///   p.parameters()                  a range of parameter<scalar>.
///
/// One call instead of forward-then-backward: no state survives between calls, it cannot be misused, and the policy is
/// free to schedule the work between the two passes.
///
/// Laws (checked by testing::check_policy_laws), beyond ReferencePolicy's:
///   consistent   the logps handed to ask are the ones log_probs writes, within rounding
///   linear       the gradient is linear in the slopes; zero slopes add nothing
///   exact        it agrees with a central difference of log_probs
///   accumulates  two calls add up; nothing but gradients is modified
///   stable       parameters() has unique names and the same addresses at every call
/// If ask throws, the gradients are as before the call.
/// Modelled by: tabular_policy, decoder, actor_critic.
template <class P>
concept Policy =
    ReferencePolicy<P> &&
    requires(P& p, sequences_view s, slopes_of<typename P::scalar> ask) {
      { p.accumulate_gradient(s, ask) } -> std::same_as<void>;
      requires std::ranges::input_range<decltype(p.parameters())>;
      requires std::convertible_to<std::ranges::range_reference_t<decltype(p.parameters())>, parameter<typename P::scalar>>;
    };

/// As slopes_of, for objectives that also see mean_logps[t] = 1/V sum over v of log pi(v | before t): the statistic
/// behind label smoothing.
template <class T>
using smoothed_slopes_of = function_ref<void(std::span<T const> logps, std::span<T const> mean_logps,
                                             std::span<T> slopes, std::span<T> mean_slopes)>;

/// A Policy that also answers for the mean over the vocabulary; required by SFT with label_smoothing > 0 only.
///   p.accumulate_gradient_smoothed(s, ask)   adds  sum_t slopes[t] d logps[t] + mean_slopes[t] d mean_logps[t].
/// Law: with mean_slopes = 0 it equals accumulate_gradient.
template <class P>
concept SmoothedPolicy =
    Policy<P> && requires(P& p, sequences_view s, smoothed_slopes_of<typename P::scalar> ask) {
      { p.accumulate_gradient_smoothed(s, ask) } -> std::same_as<void>;
    };

/// As slopes_of, for objectives that also see entropies[t] = -sum over v of pi(v | before t) log pi(v | before t), in nats:
/// how undecided the policy was where it chose token t.
template <class T>
using entropic_slopes_of = function_ref<void(std::span<T const> logps, std::span<T const> entropies,
                                             std::span<T> slopes, std::span<T> entropy_slopes)>;

/// A Policy that also answers for the entropy of its distribution; required by objectives with an entropy bonus only.
///   p.accumulate_gradient_entropic(s, ask)   adds  sum_t slopes[t] d logps[t] + entropy_slopes[t] d entropies[t].
/// Laws (checked by testing::check_entropic_policy_laws): entropies are those of the distribution that log_probs speaks
/// of; with entropy_slopes = 0 it equals accumulate_gradient.
/// Modelled by: tabular_policy, decoder, actor_critic.
template <class P>
concept EntropicPolicy =
    Policy<P> && requires(P& p, sequences_view s, entropic_slopes_of<typename P::scalar> ask) {
      { p.accumulate_gradient_entropic(s, ask) } -> std::same_as<void>;
    };

/// Throws contract_violation for what is no temperature of a policy: 0, NaN, and what float could not divide by.
inline void validate_temperature(double temperature) {
  expects(temperature >= 1e-30 && temperature <= 1e30, "a policy's temperature in [1e-30, 1e30]", temperature);
}

/// A ReferencePolicy whose distribution is softmax(logits / temperature), for a temperature of the caller's choice.
///
///   p.temperature()        1 at first, and then it is as if there were none
///   p.set_temperature(t)   t > 0, see validate_temperature; holds for every later call: log_probs, every
///                          accumulate_gradient, and sampling, on which sampling_options.temperature then acts on top
///                          (1 = from the policy's own distribution)
///
/// For reinforcement learning that samples at a temperature: it must divide the logits in every later log-probability as
/// well (of policy, old policy and reference), or the ratio is not 1 at the first step and the gradient is that of another
/// policy than the one that acted.
/// Laws (checked by testing::check_tempered_policy_laws): probabilities are proportional to those at temperature 1 to the
/// power of 1 / t; those of the other concepts hold at any temperature; setting 1 again restores the bits; a copy keeps it.
/// Modelled by: tabular_policy, decoder, actor_critic.
template <class P>
concept TemperedPolicy = ReferencePolicy<P> && requires(P& p, P const& c, double t) {
  { c.temperature() } -> std::convertible_to<double>;
  { p.set_temperature(t) } -> std::same_as<void>;
};

}  // namespace attune
