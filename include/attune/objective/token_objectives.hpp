// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/dpo.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/objective/sft.hpp>
#include <attune/objective/value_and_slope.hpp>

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

/// dpo_loss over a pair batch: sequences 2i and 2i + 1 are the chosen and the rejected response of pair i. Keeps its
/// scratch, so it allocates only when a batch has more pairs than any before.
class dpo_on_tokens {
 public:
  /// ref_logps: the reference's sequence sums for the batch that follows, one per sequence, in its order (see
  /// sequence_sums); borrowed. total_pairs: of the whole optimiser step; 0 means that this batch is all of it.
  explicit dpo_on_tokens(std::span<double const> ref_logps, dpo_options options = {}, std::size_t total_pairs = 0)
      : ref_logps_(ref_logps), options_(options), total_pairs_(total_pairs) {
    validate(options);
  }

  /// For the next batch of the same step.
  void set_reference(std::span<double const> ref_logps) noexcept { ref_logps_ = ref_logps; }

  template <class T>
  T operator()(sequences_view batch, std::span<T const> logps, std::span<T> slopes) {
    expects(batch.size() % 2 == 0, "dpo_on_tokens: an even number of sequences, chosen and rejected in turn",
            batch.size());
    expects(ref_logps_.size() == batch.size(), "dpo_on_tokens: one reference log-probability per sequence",
            ref_logps_.size());
    std::size_t const pairs = batch.size() / 2;
    scratch_.resize(6 * pairs);
    chosen_tokens_.resize(pairs);
    std::span<double> const all(scratch_);
    std::span<double> const sums = all.first(2 * pairs);
    auto const column = [&](std::size_t k) { return all.subspan((2 + k) * pairs, pairs); };
    sequence_sums(logps, batch, sums);
    for (std::size_t i = 0; i < pairs; ++i) {
      for (std::size_t b : {2 * i, 2 * i + 1})
        expects(completion_tokens(batch.sequence_mask(b)) > 0,
                "dpo_on_tokens: a masked-in token in every sequence; found none in sequence", b);
      chosen_tokens_[i] = completion_tokens(batch.sequence_mask(2 * i));
      column(0)[i] = sums[2 * i];
      column(1)[i] = sums[2 * i + 1];
      column(2)[i] = ref_logps_[2 * i];
      column(3)[i] = ref_logps_[2 * i + 1];
    }
    double const loss = dpo_loss<double>(
        {.chosen = column(0), .rejected = column(1), .ref_chosen = column(2), .ref_rejected = column(3),
         .chosen_tokens = chosen_tokens_},
        {.chosen = column(0), .rejected = column(1)}, options_, total_pairs_);
    for (std::size_t i = 0; i < pairs; ++i) {
      sums[2 * i] = column(0)[i];
      sums[2 * i + 1] = column(1)[i];
    }
    broadcast_slopes<T>(sums, batch, slopes);
    return saturate_cast<T>(loss);
  }

 private:
  std::span<double const> ref_logps_;
  dpo_options options_;
  std::size_t total_pairs_;
  std::vector<double> scratch_;
  std::vector<std::size_t> chosen_tokens_;
};

}  // namespace attune
