// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>

/// How the losses of tokens become the loss of an optimiser step: a weight per token, made of counts over the whole
/// step. A loss over such weights is a sum, so the shares of micro-batches, whatever way the step is cut into them, add
/// up to the loss of the step.
namespace attune {

/// What the loss of a step is. They differ where completions differ in length.
enum class loss_aggregation {
  token_mean,     ///< mean over all tokens: a long completion weighs more (Yu et al. 2025, DAPO; TRL's bnpo and dapo)
  sequence_mean,  ///< mean over sequences of each one's mean: a long one's tokens weigh less (Shao et al. 2024, eq. 3)
  sequence_sum,   ///< mean over sequences of each one's sum: the policy gradient of a whole response
  constant,       ///< sequence_sum / a constant length, the same for every step (Liu et al. 2025, Dr.GRPO)
};

/// Denominators: those of the whole optimiser step, over all of its micro-batches and ranks.
struct aggregation_totals {
  std::size_t tokens = 0;        ///< masked-in tokens; read under token_mean
  std::size_t sequences = 0;     ///< read under all others
  double constant_length = 0.0;  ///< tokens; > 0 under constant: the longest completion allowed, say. Else not read
};

/// The totals of a step that consists of this batch alone. `constant` needs its length besides.
[[nodiscard]] inline aggregation_totals aggregation_totals_of(sequences_view batch) noexcept {
  return {.tokens = completion_tokens(batch.mask), .sequences = batch.size()};
}

/// Throws contract_violation unless every masked-in token of this batch has a weight: the totals that `aggregation`
/// reads are not smaller than the batch, and under sequence_mean, which divides by its length, no completion is empty.
/// O(T); expects a valid batch.
inline void validate(loss_aggregation aggregation, aggregation_totals totals, sequences_view batch) {
  if (aggregation == loss_aggregation::token_mean) {
    expects(totals.tokens > 0, "aggregation_totals.tokens > 0, a step with a masked-in token");
    expects(totals.tokens >= completion_tokens(batch.mask),
            "aggregation_totals.tokens >= the masked-in tokens of the batch", totals.tokens);
    return;
  }
  expects(totals.sequences > 0, "aggregation_totals.sequences > 0, a step with a sequence");
  expects(totals.sequences >= batch.size(), "aggregation_totals.sequences >= the sequences of the batch",
          totals.sequences);
  if (aggregation == loss_aggregation::constant)
    expects(totals.constant_length > 0.0 && totals.constant_length <= (std::numeric_limits<double>::max)(),
            "aggregation_totals.constant_length > 0 and finite (loss_aggregation::constant)", totals.constant_length);
  if (aggregation == loss_aggregation::sequence_mean)
    for (std::size_t b = 0; b < batch.size(); ++b)
      expects(completion_tokens(batch.sequence_mask(b)) > 0,
              "loss_aggregation::sequence_mean: a masked-in token in every sequence; found none in sequence", b);
}

/// Weight in the step's loss of each masked-in token of a sequence that has `length` of them:
///
///   token_mean  1 / tokens      sequence_mean  1 / (sequences length)
///   sequence_sum  1 / sequences     constant  1 / (sequences constant_length)
///
/// Expects totals that validate, and length > 0.
[[nodiscard]] constexpr double token_weight(loss_aggregation aggregation, aggregation_totals totals,
                                            std::size_t length) noexcept {
  double const sequences = static_cast<double>(totals.sequences);
  switch (aggregation) {
    case loss_aggregation::sequence_mean:
      return 1.0 / (sequences * static_cast<double>(length));
    case loss_aggregation::sequence_sum:
      return 1.0 / sequences;
    case loss_aggregation::constant:
      return 1.0 / (sequences * totals.constant_length);
    case loss_aggregation::token_mean:
      break;
  }
  return 1.0 / static_cast<double>(totals.tokens);
}

}  // namespace attune
