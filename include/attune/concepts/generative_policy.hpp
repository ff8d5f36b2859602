// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>

namespace attune {

struct sampling_options {
  double temperature = 1.0;          ///< logits are divided by it; >= 0, and 0 is greedy (lowest id on ties)
  std::size_t top_k = 0;             ///< keep the k most probable tokens; 0 keeps all
  double top_p = 1.0;                ///< keep the shortest prefix of most probable tokens whose sum reaches it; (0, 1]
  std::size_t max_new_tokens = 64;   ///< length limit of a completion; >= 1
  std::vector<token_id> stop_tokens = {};  ///< each ends a completion, and is kept as its last token; none negative
  std::uint64_t seed = 0;            ///< key of the random numbers
  std::uint64_t first_stream = 0;    ///< prompt b draws from stream first_stream + b: its sample is its own

  [[nodiscard]] bool stops(token_id id) const noexcept {
    return std::find(stop_tokens.begin(), stop_tokens.end(), id) != stop_tokens.end();
  }
};

inline void validate(sampling_options const& o) {
  expects(o.temperature >= 0.0 && o.temperature < 1e30, "sampling_options.temperature >= 0 and finite", o.temperature);
  expects(o.top_p > 0.0 && o.top_p <= 1.0, "sampling_options.top_p in (0, 1]", o.top_p);
  expects(o.max_new_tokens >= 1, "sampling_options.max_new_tokens >= 1", o.max_new_tokens);
  for (token_id const id : o.stop_tokens) expects(id >= 0, "sampling_options.stop_tokens >= 0", id);
}

/// A ReferencePolicy that can be sampled from.
///
///   p.generate(prompts, options, out)   clears out and appends, in order, every prompt (whole sequences of `prompts`,
///                                       masks ignored) followed by its completion, the completion masked in. `prompts`
///                                       may not be a view of out.
///
/// A prompt that fills the model's window is a contract_violation that names it; a completion that reaches the window
/// ends there.
/// Laws (checked by testing::check_generative_policy_laws): the sample of a prompt depends on (seed, stream, prompt,
/// parameters, the other options) and not on the rest of the batch; with temperature 1 and nothing filtered it is
/// distributed as log_probs says.
/// Modelled by: decoder, actor_critic, tabular_policy.
template <class P>
concept GenerativePolicy =
    ReferencePolicy<P> && requires(P& p, sequences_view prompts, sampling_options const& options, sequences& out) {
      { p.generate(prompts, options, out) } -> std::same_as<void>;
    };

/// A GenerativePolicy that also says how probable each sampled token was: the behaviour policy of an importance ratio.
///
///   p.generate(prompts, options, out, logps)   as generate, and overwrites logps with one entry per token of out: the
///                                              log-probability with which the sampler drew it, after temperature and
///                                              renormalised over what top-k and top-p left; 0 on prompts, and 0 when
///                                              greedy, which leaves nothing to chance.
///
/// Laws (checked by testing::check_scored_generative_policy_laws): out is what generate without logps gives; with
/// temperature 1 and nothing filtered logps are log_probs of out within rounding, else its renormalisation.
/// Modelled by: decoder, actor_critic, tabular_policy.
template <class P>
concept ScoredGenerativePolicy =
    GenerativePolicy<P> && requires(P& p, sequences_view prompts, sampling_options const& options, sequences& out,
                                    std::vector<typename P::scalar>& logps) {
      { p.generate(prompts, options, out, logps) } -> std::same_as<void>;
    };

}  // namespace attune
