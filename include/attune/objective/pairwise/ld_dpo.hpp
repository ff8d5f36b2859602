// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>

/// Length-desensitised log-probabilities of pairs (Liu et al. 2024, "Length desensitization in direct preference
/// optimization", eq. 9): the tokens of the longer response beyond the shorter one's length weigh ld_alpha, so that
/// being long is worth less. They take the place of sequence_sums under any pairwise loss, for policy and reference
/// alike (TRL; LLaMA-Factory has them for the policy alone). That holds of likelihood terms too (sft, CPO, ORPO), whose
/// denominators stay the whole lengths; TRL leaves its sft term as it is.
namespace attune {

/// Throws contract_violation naming the value. 1 is plain sums; the paper has 0.5.
inline void validate_ld_alpha(double ld_alpha) {
  expects(ld_alpha >= 0.0 && ld_alpha <= 1.0, "ld_alpha in [0, 1]", ld_alpha);
}

/// Calls f(sequence, token, weight) for the masked-in tokens of a pair batch (sequences 2i and 2i + 1 are pair i), in
/// order: weight 1 for the first min(|chosen|, |rejected|) of a completion, ld_alpha for the rest.
template <class F>
void for_desensitized_tokens(sequences_view pairs, double ld_alpha, F&& f) {
  for (std::size_t first = 0; first + 1 < pairs.size(); first += 2) {
    std::size_t const shared = (std::min)(completion_tokens(pairs.sequence_mask(first)),
                                          completion_tokens(pairs.sequence_mask(first + 1)));
    for (std::size_t const b : {first, first + 1}) {
      std::size_t seen = 0;
      for (std::size_t t = pairs.offsets[b]; t < pairs.offsets[b + 1]; ++t)
        if (pairs.mask[t] != 0) f(b, t, seen++ < shared ? 1.0 : ld_alpha);
    }
  }
}

/// sums[b] = sum over the completion of sequence b of weight * logp; in double, left to right. With ld_alpha 1 the bits
/// of sequence_sums. Expects a valid batch of an even number of sequences, matching sizes and a valid ld_alpha. At
/// ld_alpha 0 the tokens beyond are not read. Allocates nothing.
template <class T>
void desensitized_sums(std::span<T const> logps, sequences_view pairs, double ld_alpha, std::span<double> sums) {
  validate_ld_alpha(ld_alpha);
  expects(pairs.size() % 2 == 0, "desensitized_sums: chosen and rejected in turn, an even number of sequences",
          pairs.size());
  expects(logps.size() == pairs.total_tokens(), "desensitized_sums: logps.size() == pairs.total_tokens()",
          logps.size());
  expects(sums.size() == pairs.size(), "desensitized_sums: sums.size() == pairs.size()", sums.size());
  std::fill(sums.begin(), sums.end(), 0.0);
  for_desensitized_tokens(pairs, ld_alpha, [&](std::size_t b, std::size_t t, double weight) {
    if (weight != 0.0) sums[b] += weight * static_cast<double>(logps[t]);
  });
}

/// The adjoint: slopes[t] = weight * slope_of_sum[b], 0 where the mask is 0.
template <class T>
void broadcast_desensitized(std::span<double const> slopes_of_sums, sequences_view pairs, double ld_alpha,
                            std::span<T> slopes) {
  validate_ld_alpha(ld_alpha);
  expects(pairs.size() % 2 == 0, "broadcast_desensitized: an even number of sequences", pairs.size());
  expects(slopes_of_sums.size() == pairs.size(), "broadcast_desensitized: one slope per sequence",
          slopes_of_sums.size());
  expects(slopes.size() == pairs.total_tokens(), "broadcast_desensitized: slopes.size() == pairs.total_tokens()",
          slopes.size());
  std::fill(slopes.begin(), slopes.end(), T(0));
  for_desensitized_tokens(pairs, ld_alpha, [&](std::size_t b, std::size_t t, double weight) {
    slopes[t] = saturate_cast<T>(weight * slopes_of_sums[b]);
  });
}

}  // namespace attune
