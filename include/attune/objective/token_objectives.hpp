// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/dpo.hpp>
#include <attune/objective/expects_finite_tokens.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/objective/sft.hpp>
#include <attune/objective/value_and_slope.hpp>

/// Objectives in the one shape that all share: the batch and its token log-probabilities in, slopes and loss out. This
/// is what loss_on_logits takes, and what a policy's accumulate_gradient asks once the batch is bound:
///   policy.accumulate_gradient(batch, [&](auto logps, auto slopes) { loss = objective(batch, logps, slopes); });
/// and for an objective that reads more of a distribution than the log-probability of its token:
///   policy.accumulate_gradient_with(batch, objective.terms(),
///                                   [&](auto const& of, auto const& slopes) { loss = objective(batch, of, slopes); });
namespace attune {

/// f(batch, logps, slopes) -> loss. All spans have one entry per token of the batch; logps is 0 and slopes comes in as
/// 0 where the mask is 0. f overwrites the slopes of masked-in tokens and returns the loss.
template <class F, class T>
concept TokenObjective = requires(F& f, sequences_view batch, std::span<T const> logps, std::span<T> slopes) {
  { f(batch, logps, slopes) } -> std::convertible_to<T>;
};

/// f.terms() says what it reads beside log-probabilities, which may hang on its options, and f(batch, values, slopes)
/// -> loss sees those and no others; none at all is the work of a TokenObjective, bit for bit. What is said there of
/// logps and slopes holds of every term.
template <class F, class T>
concept TermedTokenObjective = requires(F& f, sequences_view batch, term_values<T const> of, term_slopes<T> slopes) {
  { f.terms() } -> std::same_as<token_terms>;
  { f(batch, of, slopes) } -> std::convertible_to<T>;
};

/// What an objective of either kind reads beside log-probabilities.
template <class T, class F>
[[nodiscard]] token_terms terms_of(F& objective) {
  if constexpr (TermedTokenObjective<F, T>)
    return objective.terms();
  else
    return {};
}

/// The totals of a step that consists of this batch alone.
[[nodiscard]] inline sft_totals totals_of(sequences_view batch) noexcept {
  return {completion_tokens(batch.mask), batch.size()};
}

/// sft_loss. A TermedTokenObjective; and a TokenObjective for those of its options that read no terms.
struct sft_on_tokens {
  sft_options options = {};
  sft_totals totals = {};  ///< of the whole optimiser step; both 0 means that this batch is all of it

  token_terms terms() const noexcept { return terms_of(options); }

  template <class T>
  T operator()(sequences_view batch, std::span<T const> logps, std::span<T> slopes) const {
    expects(!terms().any(), "sft_on_tokens: label_smoothing == 0 and z_loss_coef == 0, since no terms were given");
    return (*this)(batch, term_values<T const>{logps}, term_slopes<T>{slopes});
  }

  template <class T>
  T operator()(sequences_view batch, term_values<T const> const& of, term_slopes<T> const& slopes) const {
    bool const alone = totals.tokens == 0 && totals.sequences == 0;
    return sft_loss<T>({of.logps, of.mean_logps, of.log_normalizers}, batch,
                       {slopes.logps, slopes.mean_logps, slopes.log_normalizers}, alone ? totals_of(batch) : totals,
                       options);
  }
};

/// Another objective less coef times the entropy of the policy, in nats, aggregated over tokens (Mnih et al. 2016):
/// what keeps a policy from becoming certain too early. The objective may read terms of its own.
template <class Objective>
class with_entropy_bonus {
 public:
  /// coef: weight of the bonus; > 0 and finite. totals: of the whole optimiser step; both counts 0 means that this
  /// batch is all of it.
  with_entropy_bonus(Objective objective, double coef, aggregation_totals totals = {},
                     loss_aggregation aggregation = loss_aggregation::token_mean)
      : objective_(std::move(objective)), coef_(coef), totals_(totals), aggregation_(aggregation) {
    expects(coef > 0.0 && coef <= (std::numeric_limits<double>::max)(), "with_entropy_bonus: coef > 0 and finite",
            coef);
  }

  token_terms terms() const { return token_terms{.entropies = true} | own_terms(); }

  template <class T>
  T operator()(sequences_view batch, term_values<T const> const& of, term_slopes<T> const& slopes) {
    aggregation_totals step = totals_;
    if (totals_.tokens == 0 && totals_.sequences == 0) {
      step = aggregation_totals_of(batch);
      step.constant_length = totals_.constant_length;
    }
    validate(batch, (std::numeric_limits<std::size_t>::max)());
    validate(aggregation_, step, batch);
    expects_finite_tokens(of.entropies, batch, "with_entropy_bonus: entropies");
    double loss = own_loss(batch, of, slopes);
    for (std::size_t b = 0; b < batch.size(); ++b) {
      double const weight = coef_ * token_weight(aggregation_, step, completion_tokens(batch.sequence_mask(b)));
      for (std::size_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
        if (batch.mask[t] == 0) continue;
        loss -= weight * static_cast<double>(of.entropies[t]);
        slopes.entropies[t] = saturate_cast<T>(static_cast<double>(slopes.entropies[t]) - weight);
      }
    }
    return saturate_cast<T>(loss);
  }

 private:
  token_terms own_terms() const {
    if constexpr (requires { objective_.terms(); })
      return objective_.terms();
    else
      return {};
  }

  template <class T>
  double own_loss(sequences_view batch, term_values<T const> its, term_slopes<T> its_slopes) {
    if constexpr (TermedTokenObjective<Objective, T>) {
      if (!own_terms().entropies) its.entropies = {}, its_slopes.entropies = {};
      return static_cast<double>(objective_(batch, its, its_slopes));
    } else {
      return static_cast<double>(objective_(batch, its.logps, its_slopes.logps));
    }
  }

  Objective objective_;
  double coef_;
  aggregation_totals totals_;
  loss_aggregation aggregation_;
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
