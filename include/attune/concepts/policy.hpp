// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
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
      requires std::convertible_to<std::ranges::range_reference_t<decltype(p.parameters())>,
                                   parameter<typename P::scalar>>;
    };

/// What an objective may want to know of the distribution that a token was chosen from, beside the token's own
/// log-probability. With pi = pi(. | all before t), V the size of the vocabulary:
struct token_terms {
  bool mean_logps = false;       ///< 1/V sum over v of log pi(v): the statistic behind label smoothing
  bool entropies = false;        ///< -sum over v of pi(v) log pi(v), in nats: how undecided the policy was
  bool log_normalizers = false;  ///< log sum over v of exp(logit(v)), of the logits after any temperature: z-loss
  bool collisions = false;       ///< log sum over v of pi(v)^2: how likely two draws agree; nothing flows back

  constexpr bool any() const noexcept { return mean_logps || entropies || log_normalizers || collisions; }
  friend constexpr bool operator==(token_terms, token_terms) = default;
  friend constexpr token_terms operator|(token_terms a, token_terms b) noexcept {
    return {a.mean_logps || b.mean_logps, a.entropies || b.entropies, a.log_normalizers || b.log_normalizers,
            a.collisions || b.collisions};
  }
};

/// Log-probabilities and the terms beside them, one entry per token of a batch, 0 where the mask is 0; T is const where
/// they are to be read. What is empty of the terms was not asked for.
template <class T>
struct term_values {
  std::span<T> logps;                 // (tokens)
  std::span<T> mean_logps = {};       // (tokens) or empty, as are the rest
  std::span<T> entropies = {};
  std::span<T> log_normalizers = {};
  std::span<T> collisions = {};

  token_terms terms() const noexcept {
    return {!mean_logps.empty(), !entropies.empty(), !log_normalizers.empty(), !collisions.empty()};
  }
};

/// Throws contract_violation unless logps has one entry per token of s, and every term one or none.
template <class T>
void expects_terms(term_values<T> const& of, sequences_view s) {
  std::size_t const tokens = s.total_tokens();
  auto const fits = [tokens](std::span<T> term) { return term.empty() || term.size() == tokens; };
  expects(of.logps.size() == tokens, "log_probs_with: logps.size() == s.total_tokens()", of.logps.size());
  expects(fits(of.mean_logps), "log_probs_with: mean_logps empty, or one per token", of.mean_logps.size());
  expects(fits(of.entropies), "log_probs_with: entropies empty, or one per token", of.entropies.size());
  expects(fits(of.log_normalizers), "log_probs_with: log_normalizers empty, or one per token",
          of.log_normalizers.size());
  expects(fits(of.collisions), "log_probs_with: collisions empty, or one per token", of.collisions.size());
}

/// Where dL/d(term_values) goes: 0 to begin with, and empty where the values are. Collisions have none.
template <class T>
struct term_slopes {
  std::span<T> logps;                // (tokens)
  std::span<T> mean_logps = {};      // (tokens) or empty, as are the rest
  std::span<T> entropies = {};
  std::span<T> log_normalizers = {};
};

/// As slopes_of, for objectives that asked for terms as well.
template <class T>
using term_slopes_of = function_ref<void(term_values<T const> const& values, term_slopes<T> const& slopes)>;

/// A Policy that also answers for the whole distributions its tokens were chosen from. Required by what reads terms:
/// SFT with label smoothing or z-loss, an entropy bonus. One refinement for all of them, in any combination: what was
/// not asked for is neither computed nor handed out.
///
///   p.accumulate_gradient_with(s, terms, ask)   computes logps and `terms`, calls ask(values, slopes) exactly once,
///                                               and adds sum_t slopes[t] . d values[t] / d theta over all with slopes
///   c.log_probs_with(s, values)                 overwrites the spans of `values` that are not empty, logps among them
///
/// Laws (checked by testing::check_termed_policy_laws): terms are those of the distribution that log_probs speaks of,
/// for log_normalizers that of logits whose softmax it is; they belong to the context, so that the token itself does
/// not move them; spans are empty or (tokens) as asked; Policy's laws hold for every term as they do for logps; with
/// no terms, or slopes of 0 for them, accumulate_gradient_with is accumulate_gradient, and slopes of several kinds add
/// up. Modelled by: tabular_policy, decoder, actor_critic.
template <class P>
concept TermedPolicy =
    Policy<P> && requires(P& p, P const& c, sequences_view s, token_terms terms, term_slopes_of<typename P::scalar> ask,
                          term_values<typename P::scalar> values) {
      { p.accumulate_gradient_with(s, terms, ask) } -> std::same_as<void>;
      { c.log_probs_with(s, values) } -> std::same_as<void>;
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
/// For reinforcement learning that samples at a temperature: it must divide the logits in every later log-probability
/// as well (of policy, old policy and reference), or the ratio is not 1 at the first step and the gradient is that of
/// another policy than the one that acted.
/// Laws (checked by testing::check_tempered_policy_laws): probabilities are proportional to those at temperature 1 to
/// the power of 1 / t; those of the other concepts hold at any temperature; setting 1 again restores the bits; a copy
/// keeps it.
/// Modelled by: tabular_policy, decoder, actor_critic.
template <class P>
concept TemperedPolicy = ReferencePolicy<P> && requires(P& p, P const& c, double t) {
  { c.temperature() } -> std::convertible_to<double>;
  { p.set_temperature(t) } -> std::same_as<void>;
};

}  // namespace attune
