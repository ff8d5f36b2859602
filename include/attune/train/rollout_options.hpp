// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <attune/core/checksum.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>

namespace attune {

/// What happens to the score of a response that did not end with a stop token.
enum class missing_eos {
  keep,      ///< nothing
  subtract,  ///< missing_eos_penalty is taken off it (TRL)
  replace,   ///< it becomes -missing_eos_penalty (Stiennon et al. 2020; Huang et al. 2024)
};

/// How responses are drawn. The temperature is the policy's own (TemperedPolicy): it divides the logits in every
/// log-probability, or the ratio would not be 1 at the first step.
struct rollout_options {
  std::size_t num_generations = 1;          ///< responses per prompt; >= 1
  std::size_t max_new_tokens = 53;          ///< length limit of a response; >= 1
  std::vector<token_id> stop_tokens = {};   ///< each ends a response and is kept as its last token
  std::size_t top_k = 0;  ///< 0 keeps all tokens. With a filter, samples come from another distribution
  double top_p = 1.0;                       ///< than the one trained; rollout/log_ratio reports by how much
  missing_eos without_eos = missing_eos::keep;
  double missing_eos_penalty = 1.0;         ///< unit of the scores; > 0
  std::size_t overlong_buffer = 0;          ///< tokens before max_new_tokens over which a penalty grows (DAPO, eq. 13:
                                            ///< overlong_penalty); 0: none
  double overlong_factor = 1.0;             ///< the whole of it, unit of the scores; > 0
};

/// Throws contract_violation naming the field and its value.
inline void validate(rollout_options const& r) {
  expects(r.num_generations >= 1, "rollout_options.num_generations >= 1", r.num_generations);
  expects(r.max_new_tokens >= 1, "rollout_options.max_new_tokens >= 1", r.max_new_tokens);
  expects(r.top_p > 0.0 && r.top_p <= 1.0, "rollout_options.top_p in (0, 1]", r.top_p);
  for (token_id const id : r.stop_tokens) expects(id >= 0, "rollout_options.stop_tokens >= 0", id);
  expects(r.missing_eos_penalty > 0.0 && std::isfinite(r.missing_eos_penalty),
          "rollout_options.missing_eos_penalty > 0 and finite", r.missing_eos_penalty);
  expects(r.without_eos == missing_eos::keep || !r.stop_tokens.empty(),
          "rollout_options.stop_tokens, since without_eos is set: nothing could end a response");
  expects(r.overlong_buffer <= r.max_new_tokens, "rollout_options.overlong_buffer at most max_new_tokens",
          r.overlong_buffer);
  expects(r.overlong_factor > 0.0 && std::isfinite(r.overlong_factor), "rollout_options.overlong_factor > 0 and finite",
          r.overlong_factor);
  expects(r.overlong_buffer > 0 || r.overlong_factor == 1.0,
          "rollout_options.overlong_factor 1, since overlong_buffer is 0 and nothing is taken off", r.overlong_factor);
}

/// Folds what shapes the responses and their scores into a checksum.
inline void describe(rollout_options const& o, checksum64& sum) noexcept {
  auto const whole = [&](auto value) { sum.update_number(static_cast<std::uint64_t>(value)); };
  whole(o.num_generations);
  whole(o.max_new_tokens);
  whole(o.stop_tokens.size());
  for (token_id const id : o.stop_tokens) sum.update_number(id);
  whole(o.top_k);
  sum.update_number(o.top_p).update_number(o.missing_eos_penalty);
  whole(o.without_eos);
  whole(o.overlong_buffer);
  sum.update_number(o.overlong_factor);
}

}  // namespace attune
