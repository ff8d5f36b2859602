// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>

#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite_tokens.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/sft.hpp>

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

}  // namespace attune
