// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/sft.hpp>

/// Objectives in the one shape that all share: the batch and its token log-probabilities in, slopes and loss out. This
/// is what loss_on_logits takes, and what a policy's accumulate_gradient asks once the batch is bound:
///   policy.accumulate_gradient(batch, [&](auto logps, auto slopes) { loss = objective(batch, logps, slopes); });
namespace attune {

/// f(batch, logps, slopes) -> loss. All spans have one entry per token of the batch; logps is 0 and slopes comes in as
/// 0 where the mask is 0. f overwrites the slopes of masked-in tokens and returns the loss.
template <class F, class T>
concept TokenObjective = requires(F& f, sequences_view batch, std::span<T const> logps, std::span<T> slopes) {
  { f(batch, logps, slopes) } -> std::convertible_to<T>;
};

/// f(batch, logps, mean_logps, slopes, mean_slopes) -> loss: also sees mean_logps[t] = 1/V sum over v of
/// log pi(v | before t), which costs the backend a sum over the row.
template <class F, class T>
concept SmoothedTokenObjective = requires(F& f, sequences_view batch, std::span<T const> logps, std::span<T> slopes) {
  { f(batch, logps, logps, slopes, slopes) } -> std::convertible_to<T>;
};

/// The totals of a step that consists of this batch alone.
[[nodiscard]] inline sft_totals totals_of(sequences_view batch) noexcept {
  return {completion_tokens(batch.mask), batch.size()};
}

/// sft_loss without label smoothing.
struct sft_on_tokens {
  sft_options options = {};  ///< label_smoothing must be 0
  sft_totals totals = {};    ///< of the whole optimiser step; both 0 means that this batch is all of it

  template <class T>
  T operator()(sequences_view batch, std::span<T const> logps, std::span<T> slopes) const {
    expects(options.label_smoothing == 0.0, "sft_on_tokens: label_smoothing == 0 (smoothed_sft_on_tokens has it)",
            options.label_smoothing);
    bool const alone = totals.tokens == 0 && totals.sequences == 0;
    return sft_loss<T>({.logps = logps}, batch, {.logps = slopes}, alone ? totals_of(batch) : totals, options);
  }
};

/// sft_loss with label smoothing.
struct smoothed_sft_on_tokens {
  sft_options options = {};
  sft_totals totals = {};  ///< of the whole optimiser step; both 0 means that this batch is all of it

  template <class T>
  T operator()(sequences_view batch, std::span<T const> logps, std::span<T const> mean_logps, std::span<T> slopes,
               std::span<T> mean_slopes) const {
    bool const alone = totals.tokens == 0 && totals.sequences == 0;
    return sft_loss<T>({.logps = logps, .mean_logps = mean_logps}, batch, {.logps = slopes, .mean_logps = mean_slopes},
                       alone ? totals_of(batch) : totals, options);
  }
};

}  // namespace attune
