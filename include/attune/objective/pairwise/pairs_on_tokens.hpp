// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/objective/pairwise/ld_dpo.hpp>
#include <attune/objective/pairwise/pair_loss.hpp>

namespace attune {

/// A pairwise loss as a TokenObjective over a pair batch: sequences 2i and 2i + 1 are the chosen and the rejected
/// response of pair i. `Loss` is the options of a pairwise loss, or a preference_loss, which has its own pair_ratios.
/// Keeps its scratch, so it allocates only when a batch has more pairs than any before.
template <class Loss>
class pairs_on_tokens {
 public:
  /// ref_logps: the reference's sums for the batch that follows, one per sequence, in its order (see sequence_sums, or
  /// desensitized_sums with the same ld_alpha); borrowed; empty for a loss that reads no reference. totals: of the
  /// whole optimiser step.
  explicit pairs_on_tokens(std::span<double const> ref_logps, Loss loss = {}, pair_totals totals = {},
                           pair_ratios ratios = {}, double ld_alpha = 1.0)
      : ref_logps_(ref_logps), loss_(std::move(loss)), totals_(totals), ratios_(ratios), ld_alpha_(ld_alpha) {
    validate_ld_alpha(ld_alpha);
    if constexpr (PairObjective<Loss>) {
      validate(loss_);
      validate(ratios_, loss_);
    } else {
      expects(ratios.divergence.type == f_divergence_type::reverse_kl && !ratios.reference_free,
              "pairs_on_tokens: no pair_ratios beside a preference_loss, whose options have them");
    }
  }

  /// For the next batch of the same step.
  void set_reference(std::span<double const> ref_logps) noexcept { ref_logps_ = ref_logps; }

  template <class T>
  T operator()(sequences_view batch, std::span<T const> logps, std::span<T> slopes) {
    expects(batch.size() % 2 == 0, "pairs_on_tokens: an even number of sequences, chosen and rejected in turn",
            batch.size());
    std::size_t const pairs = batch.size() / 2;
    bool const with_reference = !ref_logps_.empty() || pairs == 0;
    expects(!with_reference || ref_logps_.size() == batch.size(),
            "pairs_on_tokens: one reference log-probability per sequence", ref_logps_.size());
    scratch_.resize(6 * pairs);
    tokens_.resize(2 * pairs);
    std::span<double> const all(scratch_);
    std::span<double> const sums = all.first(2 * pairs);
    auto const column = [&](std::size_t k) { return all.subspan((2 + k) * pairs, pairs); };
    desensitized_sums(logps, batch, ld_alpha_, sums);
    for (std::size_t i = 0; i < pairs; ++i) {
      for (std::size_t const b : {2 * i, 2 * i + 1})
        expects(completion_tokens(batch.sequence_mask(b)) > 0,
                "pairs_on_tokens: a masked-in token in every sequence; found none in sequence", b);
      tokens_[i] = completion_tokens(batch.sequence_mask(2 * i));
      tokens_[pairs + i] = completion_tokens(batch.sequence_mask(2 * i + 1));
      column(0)[i] = sums[2 * i];
      column(1)[i] = sums[2 * i + 1];
      column(2)[i] = with_reference ? ref_logps_[2 * i] : 0.0;
      column(3)[i] = with_reference ? ref_logps_[2 * i + 1] : 0.0;
    }
    std::span<std::size_t const> const lengths(tokens_);
    pair_logps<double> const of{.chosen = column(0),
                                .rejected = column(1),
                                .ref_chosen = with_reference ? column(2) : std::span<double const>(),
                                .ref_rejected = with_reference ? column(3) : std::span<double const>(),
                                .chosen_tokens = lengths.first(pairs),
                                .rejected_tokens = lengths.subspan(pairs)};
    pair_slopes<double> const answer{.chosen = column(0), .rejected = column(1)};
    double loss = 0.0;
    if constexpr (PairObjective<Loss>) loss = pair_loss(of, answer, loss_, totals_, ratios_);
    else loss = loss_(of, answer, totals_);
    for (std::size_t i = 0; i < pairs; ++i) {
      sums[2 * i] = column(0)[i];
      sums[2 * i + 1] = column(1)[i];
    }
    broadcast_desensitized<T>(sums, batch, ld_alpha_, slopes);
    return saturate_cast<T>(loss);
  }

 private:
  std::span<double const> ref_logps_;
  Loss loss_;
  pair_totals totals_;
  pair_ratios ratios_;
  double ld_alpha_;
  std::vector<double> scratch_;
  std::vector<std::size_t> tokens_;
};

using dpo_on_tokens = pairs_on_tokens<dpo_options>;

}  // namespace attune
