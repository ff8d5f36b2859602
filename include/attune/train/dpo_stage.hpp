// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/model_fingerprint.hpp>
#include <attune/objective/pairwise/ld_dpo.hpp>
#include <attune/objective/pairwise/preference_loss.hpp>
#include <attune/objective/pairwise/wpo.hpp>
#include <attune/train/loop.hpp>
#include <attune/train/reference_cache.hpp>

namespace attune {

/// Trust-region DPO (Gorbatovski et al. 2024, "Learn your reference model for real good alignment", eqs. 5 and 6):
/// every so many steps the reference becomes mixup_alpha * policy + (1 - mixup_alpha) * reference; 1 replaces it.
struct reference_sync_options {
  double mixup_alpha = 0.6;      ///< TRL: ref_model_mixup_alpha; (0, 1]
  std::size_t sync_steps = 512;  ///< TRL: ref_model_sync_steps; optimiser steps; >= 1
};

/// Throws contract_violation naming the field and its value.
inline void validate(reference_sync_options const& o) {
  expects(o.mixup_alpha > 0.0 && o.mixup_alpha <= 1.0, "reference_sync_options.mixup_alpha in (0, 1]", o.mixup_alpha);
  expects(o.sync_steps >= 1, "reference_sync_options.sync_steps >= 1", o.sync_steps);
}

/// A reference that can follow a policy of type P: r.mix(policy, alpha) makes its parameters
/// alpha * policy's + (1 - alpha) * its own. Modelled by: synchronized_reference.
template <class R, class P>
concept SynchronizedReference = ReferencePolicy<R> && requires(R& r, P& policy, double alpha) {
  { r.mix(policy, alpha) } -> std::same_as<void>;
  r.parameters();
};

struct dpo_trainer_options {
  loop_options loop = {.learning_rate = 1e-6};  ///< TRL's learning rate for language models
  pair_loss_sum losses = dpo_options{};         ///< any of the pairwise losses, or a weighted sum of some
  pair_ratios ratios = {};
  /// Weigh pairs by how likely the policy is to write them (WPO); needs a TermedPolicy. See wpo.hpp.
  bool use_weighting = false;
  /// Move the reference towards the policy as training goes on (TR-DPO); needs a SynchronizedReference.
  std::optional<reference_sync_options> sync_ref_model = {};
  double ld_alpha = 1.0;  ///< weight of the tokens by which one response is longer than the other; [0, 1]: ld_dpo.hpp
  /// Refuse to start unless policy and reference agree on the first step, where DPO's loss must be ln 2. false: the
  /// reference is another model on purpose.
  bool require_reference_equals_policy = true;
};

/// In the place of a reference, for losses that have none (SimPO, ORPO, CPO, ...).
struct no_reference {};

/// What DPO can take its reference log-probabilities from: a model, or numbers computed before.
template <class R>
concept PairReference = ReferencePolicy<R> || std::same_as<R, reference_cache> || std::same_as<R, no_reference>;

/// Pairwise preference losses as a stage of the training loop.
///
/// Metrics, over the pairs since the last report, in TRL's definitions: rewards/chosen and rewards/rejected (means of
/// beta * log-ratio, whatever the loss; of beta * log-probability without a reference; beta is that of the first loss
/// that has one), rewards/accuracies (share with chosen strictly above rejected: 0 at the first step, where all are
/// equal), rewards/margins, logps/chosen and logps/rejected (means of log pi of whole responses). That logps/chosen
/// falls while the margin grows is DPO's known habit, not a defect of the run. nll_loss, where the loss has a
/// likelihood term (sft, CPO, ORPO): the mean over pairs of -log pi(chosen) per token.
template <Policy P, PairReference R>
class dpo_stage {
 public:
  using scalar = typename P::scalar;
  using example = preference_pair;
  static constexpr bool follows = SynchronizedReference<R, P>;
  using reference_type = std::conditional_t<follows, R, R const>;
  static constexpr std::string_view name = "dpo";
  static constexpr std::array<std::string_view, 7> metric_names{
      "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
      "logps/rejected", "nll_loss"};

  dpo_stage(P& policy, reference_type& reference, dpo_trainer_options const& options)
      : policy_(policy),
        reference_(reference),
        loss_({.losses = options.losses, .ratios = options.ratios}),
        ld_alpha_(options.ld_alpha),
        reward_scale_(reward_scale(loss_.options())),
        sync_(options.sync_ref_model),
        use_weighting_(options.use_weighting),
        require_equal_(options.require_reference_equals_policy) {
    validate_ld_alpha(ld_alpha_);
    if (sync_) validate(*sync_);
    expects(follows == sync_.has_value(),
            follows ? "dpo_trainer_options.sync_ref_model, without which a synchronized reference would never move"
                    : "no dpo_trainer_options.sync_ref_model: the reference is not one that can move");
    if constexpr (!TermedPolicy<P>)
      expects(!use_weighting_, "dpo_trainer_options.use_weighting == false: the policy is no TermedPolicy");
    bool const reads_reference = loss_.inputs().reference;
    if constexpr (std::same_as<R, no_reference>)
      expects(!reads_reference, "a reference: dpo_trainer_options.losses has one that compares with it");
    else
      expects(reads_reference, "no_reference: no loss of dpo_trainer_options.losses would read the one that was given");
  }

  /// Binds the reference's numbers to the datasets of a run; a cache that has others throws and names both.
  template <class Train, class Evaluation>
  void bind(Train const& train, Evaluation const* evaluation) {
    if constexpr (std::same_as<R, reference_cache>) {
      train_sums_ = reference_.sums(fingerprint(rows_as<example, Train>{train}));
      if (evaluation != nullptr)
        evaluation_sums_ = reference_.sums(fingerprint(rows_as<example, Evaluation>{*evaluation}));
    }
  }

  void begin_step(step_batches const& step, bool first) {
    totals_of_step_ = {.pairs = step.examples(), .chosen_tokens = 0};
    for (std::size_t i = 0; i < step.size(); ++i) totals_of_step_.chosen_tokens += chosen_tokens_of(step[i].sequences);
    check_equal_ = first && require_equal_;
  }

  batch_outcome accumulate(micro_batch const& batch) {
    batch_outcome outcome;
    refer(batch, train_sums_);
    std::size_t asked = 0;
    auto const ask = [&](std::span<scalar const> logps, std::span<scalar const> collisions, std::span<scalar> slopes) {
      ++asked;
      if (!take(batch, logps, collisions, outcome)) return;
      if (check_equal_) expects_equal(batch);
      measure();
      outcome.loss = loss(totals_of_step_);
      for (std::size_t i = 0; i < chosen_.size(); ++i) {
        sums_[2 * i] = chosen_[i];
        sums_[2 * i + 1] = rejected_[i];
      }
      broadcast_desensitized<scalar>(sums_, batch.sequences, ld_alpha_, slopes);
    };
    with_terms(
        [&] {
          policy_.accumulate_gradient(batch.sequences, [&](std::span<scalar const> logps, std::span<scalar> slopes) {
            ask(logps, {}, slopes);
          });
        },
        [&](auto& policy, token_terms terms) {
          policy.accumulate_gradient_with(batch.sequences, terms,
                                          [&](term_values<scalar const> const& of, term_slopes<scalar> const& slopes) {
                                            ask(of.logps, of.collisions, slopes.logps);
                                          });
        });
    expects(asked == 1, "the policy to call ask exactly once per accumulate_gradient", asked);
    return outcome;
  }

  batch_outcome evaluate(micro_batch const& batch) {
    batch_outcome outcome;
    refer(batch, evaluation_sums_);
    logps_.resize(batch.sequences.total_tokens());
    collisions_.resize(use_weighting_ ? logps_.size() : 0);
    with_terms([&] { std::as_const(policy_).log_probs(batch.sequences, std::span<scalar>(logps_)); },
               [&](auto const& policy, token_terms) {
                 policy.log_probs_with(batch.sequences, {.logps = logps_, .collisions = collisions_});
               });
    if (!take(batch, logps_, collisions_, outcome)) return outcome;
    measure();
    outcome.weight = static_cast<double>(batch.examples.size());
    outcome.loss = loss({});
    return outcome;
  }

  void collect(std::span<metric_sum> sums) noexcept {
    for (std::size_t i = 0; i < measured_.size(); ++i) sums[i].add(measured_[i]);
    measured_ = {};
  }

  void describe(checksum64& sum) const {
    attune::describe(loss_.options(), sum);
    sum.update_number(ld_alpha_).update_number(static_cast<std::uint64_t>(use_weighting_));
    if (sync_) sum.update_number(sync_->mixup_alpha).update_number(static_cast<std::uint64_t>(sync_->sync_steps));
    if constexpr (std::same_as<R, reference_cache>) sum.update_number(reference_.model());
    else if constexpr (requires { reference_.fingerprint(); }) sum.update_number(model_fingerprint(reference_));
  }

  /// After `steps` optimiser steps of the run.
  void end_step(std::size_t steps)
    requires follows
  {
    if (steps % sync_->sync_steps == 0) reference_.mix(policy_, sync_->mixup_alpha);
  }

  /// A reference that moves is state.
  void visit_state(state_visitor visit)
    requires follows
  {
    std::string piece;
    for (auto&& p : reference_.parameters()) {
      piece.assign("stage/reference/").append(p.name);
      visit(piece, std::as_writable_bytes(p.value));
    }
  }

 private:
  // plain(), or termed(policy, what it has to answer for besides) where pairs are weighted.
  template <class Plain, class Termed>
  void with_terms(Plain&& plain, Termed&& termed) {
    if constexpr (TermedPolicy<P>)
      if (use_weighting_) return termed(policy_, token_terms{.collisions = true});
    plain();
  }

  static std::size_t chosen_tokens_of(sequences_view pairs) noexcept {
    std::size_t tokens = 0;
    for (std::size_t b = 0; b < pairs.size(); b += 2) tokens += completion_tokens(pairs.sequence_mask(b));
    return tokens;
  }

  // The reference's sums for the batch; all 0 without one, so that ratios are the policy's log-probabilities.
  void refer(micro_batch const& batch, std::span<reference_sums const> cached) {
    std::size_t const pairs = batch.examples.size();
    ref_chosen_.assign(pairs, 0.0);
    ref_rejected_.assign(pairs, 0.0);
    if constexpr (std::same_as<R, reference_cache>) {
      for (std::size_t i = 0; i < pairs; ++i) {
        reference_sums const sums = cached[batch.examples[i]].desensitized(ld_alpha_);
        ref_chosen_[i] = sums.chosen;
        ref_rejected_[i] = sums.rejected;
      }
    } else if constexpr (ReferencePolicy<R>) {
      using reference_scalar = typename R::scalar;
      ref_logps_.resize(batch.sequences.total_tokens());
      reference_.log_probs(batch.sequences, std::span<reference_scalar>(ref_logps_));
      sums_.resize(2 * pairs);
      desensitized_sums<reference_scalar>(ref_logps_, batch.sequences, ld_alpha_, sums_);
      for (std::size_t i = 0; i < pairs; ++i) {
        ref_chosen_[i] = sums_[2 * i];
        ref_rejected_[i] = sums_[2 * i + 1];
      }
    }
  }

  // The policy's sums for the batch; false if a number of either model is not finite.
  bool take(micro_batch const& batch, std::span<scalar const> logps, std::span<scalar const> collisions,
            batch_outcome& outcome) {
    std::size_t const pairs = batch.examples.size();
    sums_.resize(2 * pairs);
    for (auto* const values : {&chosen_, &rejected_}) values->resize(pairs);
    for (auto* const tokens : {&chosen_tokens_, &rejected_tokens_}) tokens->resize(pairs);
    desensitized_sums<scalar>(logps, batch.sequences, ld_alpha_, sums_);
    for (std::size_t i = 0; i < pairs; ++i) {
      chosen_tokens_[i] = completion_tokens(batch.sequences.sequence_mask(2 * i));
      rejected_tokens_[i] = completion_tokens(batch.sequences.sequence_mask(2 * i + 1));
      chosen_[i] = sums_[2 * i];
      rejected_[i] = sums_[2 * i + 1];
      if (!std::isfinite(chosen_[i] - ref_chosen_[i]) || !std::isfinite(rejected_[i] - ref_rejected_[i])) {
        outcome.not_finite = batch.examples[i];
        outcome.loss = std::numeric_limits<double>::quiet_NaN();
        return false;
      }
    }
    weights_.resize(use_weighting_ ? pairs : 0);
    if (use_weighting_) wpo_weights(logps, collisions, batch.sequences, std::span<double>(weights_));
    return true;
  }

  void measure() noexcept {
    bool const with_likelihood = has_likelihood(loss_.options());
    for (std::size_t i = 0; i < chosen_.size(); ++i) {
      double const better = reward_scale_ * (chosen_[i] - ref_chosen_[i]);
      double const worse = reward_scale_ * (rejected_[i] - ref_rejected_[i]);
      measured_[0].add(better);
      measured_[1].add(worse);
      measured_[2].add(better > worse ? 1.0 : 0.0);
      measured_[3].add(better - worse);
      measured_[4].add(chosen_[i]);
      measured_[5].add(rejected_[i]);
      if (with_likelihood) measured_[6].add(-chosen_[i] / static_cast<double>(chosen_tokens_[i]));
    }
  }

  // In double, whatever the policy's scalar. Slopes take the place of the policy's sums.
  double loss(pair_totals totals) {
    bool const reads_reference = !std::same_as<R, no_reference>;
    std::span<double const> const none;
    return loss_(pair_logps<double>{.chosen = chosen_,
                                    .rejected = rejected_,
                                    .ref_chosen = reads_reference ? ref_chosen_ : none,
                                    .ref_rejected = reads_reference ? ref_rejected_ : none,
                                    .chosen_tokens = chosen_tokens_,
                                    .rejected_tokens = rejected_tokens_,
                                    .weights = weights_},
                 pair_slopes<double>{.chosen = chosen_, .rejected = rejected_}, totals);
  }

  void expects_equal(micro_batch const& batch) const {
    if constexpr (!std::same_as<R, no_reference>) {
      double rounding = static_cast<double>(std::numeric_limits<scalar>::epsilon());
      if constexpr (std::same_as<R, reference_cache>) rounding = (std::max)(rounding, reference_.epsilon());
      else rounding = (std::max)(rounding, static_cast<double>(std::numeric_limits<typename R::scalar>::epsilon()));
      for (std::size_t i = 0; i < chosen_.size(); ++i) {
        double const chosen = chosen_[i] - ref_chosen_[i];
        double const rejected = rejected_[i] - ref_rejected_[i];
        double const allowed = 256.0 * rounding * (1.0 + std::abs(ref_chosen_[i]) + std::abs(ref_rejected_[i]));
        if (std::abs(chosen) <= allowed && std::abs(rejected) <= allowed) continue;
        throw contract_violation(
            "dpo: the policy differs from the reference before the first step, so that DPO's loss would not start at "
            "ln 2: pair " + std::to_string(batch.examples[i]) + " has log-ratios " + std::to_string(chosen) +
            " (chosen) and " + std::to_string(rejected) +
            " (rejected), expected 0. Is the reference the model that training starts from? If it is another one on "
            "purpose, set dpo_trainer_options.require_reference_equals_policy = false");
      }
    }
  }

  static auto reference_buffer() {
    if constexpr (ReferencePolicy<R>) return std::vector<typename R::scalar>();
    else return std::vector<scalar>();
  }

  P& policy_;
  reference_type& reference_;
  preference_loss loss_;
  double ld_alpha_;
  double reward_scale_;
  std::optional<reference_sync_options> sync_;
  bool use_weighting_;
  bool require_equal_;
  bool check_equal_ = false;
  pair_totals totals_of_step_;
  std::span<reference_sums const> train_sums_, evaluation_sums_;
  std::vector<std::size_t> chosen_tokens_, rejected_tokens_;
  std::vector<scalar> logps_, collisions_;
  std::vector<double> weights_;
  decltype(reference_buffer()) ref_logps_;
  std::vector<double> sums_, chosen_, rejected_, ref_chosen_, ref_rejected_;
  std::array<metric_sum, 7> measured_{};
};

}  // namespace attune
