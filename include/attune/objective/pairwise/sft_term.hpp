// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>
#include <attune/objective/sft.hpp>

/// The chosen response's negative log-likelihood as one term of a preference loss: keeps its probability up where the
/// loss of a margin may let both responses go (Pang et al. 2024, "Iterative reasoning preference optimization", eq. 2;
/// RPO, MPO).
namespace attune {

struct sft_term_options {
  static constexpr std::string_view name = "sft";
  /// token: over the tokens of the step's chosen responses, as TRL's loss_type "sft" has it (over a micro-batch,
  /// there); sequence: mean over pairs of the mean over the response's tokens, as in eq. 2 and TRL's former rpo_alpha.
  sft_normalization normalization = sft_normalization::token;

  constexpr pair_inputs reads() const noexcept {
    return {.reference = false, .lengths = true, .per_chosen_token = normalization == sft_normalization::token};
  }
};

inline void validate(sft_term_options const&) {}

/// -log pi(chosen), per token of it under `sequence`. The rejected response has no part in it.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         sft_term_options o) noexcept {
  if (o.normalization == sft_normalization::token) return {-p.chosen, T(-1), T(0)};
  T const slope = T(-1) / p.chosen_tokens;
  return {slope * p.chosen, slope, T(0)};
}

}  // namespace attune
