// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/objective/sft.hpp>
#include <attune/train/loop.hpp>
#include <attune/train/trainer.hpp>

namespace attune {

struct sft_trainer_options {
  loop_options loop = {.learning_rate = 2e-5};  ///< TRL's learning rate for language models
  sft_options sft = {};
};

/// Supervised fine-tuning as a stage of the training loop. Evaluation reports the plain negative log-likelihood,
/// without label smoothing, DFT's weights or z-loss, so that figures compare across runs.
template <Policy P>
class sft_stage {
 public:
  using scalar = typename P::scalar;
  using example = demonstration;
  static constexpr std::string_view name = "sft";
  static constexpr std::array<std::string_view, 0> metric_names{};

  sft_stage(P& policy, sft_options options) : policy_(policy), options_(options) {
    validate(options_);
    expects(TermedPolicy<P> || options_.label_smoothing == 0.0,
            "sft_options.label_smoothing == 0 for a policy that is no TermedPolicy", options_.label_smoothing);
    expects(TermedPolicy<P> || options_.z_loss_coef == 0.0,
            "sft_options.z_loss_coef == 0 for a policy that is no TermedPolicy", options_.z_loss_coef);
  }

  void begin_step(step_batches const& step, bool /*first*/) {
    totals_ = {.tokens = step.supervised_tokens(), .sequences = step.sequences()};
  }

  batch_outcome accumulate(micro_batch const& batch) {
    batch_outcome outcome;
    std::size_t asked = 0;
    if constexpr (TermedPolicy<P>) {
      if (terms_of(options_).any()) {
        auto const ask = [&](term_values<scalar const> const& of, term_slopes<scalar> const& slopes) {
          ++asked;
          for (auto const term : {of.logps, of.mean_logps, of.log_normalizers})
            if (!term.empty() && !finite(batch, term, outcome)) return;
          outcome.loss = static_cast<double>(
              sft_loss<scalar>({of.logps, of.mean_logps, of.log_normalizers}, batch.sequences,
                               {slopes.logps, slopes.mean_logps, slopes.log_normalizers}, totals_, options_));
        };
        policy_.accumulate_gradient_with(batch.sequences, terms_of(options_), ask);
        expects(asked == 1, "the policy to call ask exactly once per accumulate_gradient_with", asked);
        return outcome;
      }
    }
    auto const ask = [&](std::span<scalar const> logps, std::span<scalar> slopes) {
      ++asked;
      if (finite(batch, logps, outcome))
        outcome.loss =
            static_cast<double>(sft_loss<scalar>({logps}, batch.sequences, {slopes}, totals_, options_));
    };
    policy_.accumulate_gradient(batch.sequences, ask);
    expects(asked == 1, "the policy to call ask exactly once per accumulate_gradient", asked);
    return outcome;
  }

  batch_outcome evaluate(micro_batch const& batch) {
    batch_outcome outcome;
    logps_.resize(batch.sequences.total_tokens());
    std::as_const(policy_).log_probs(batch.sequences, std::span<scalar>(logps_));
    if (!finite(batch, logps_, outcome)) return outcome;
    bool const by_token = options_.normalization == sft_normalization::token;
    std::size_t const tokens = completion_tokens(batch.sequences.mask);
    outcome.weight = static_cast<double>(by_token ? tokens : batch.sequences.size());
    // Slopes are not wanted; they may overwrite the log-probabilities.
    outcome.loss = static_cast<double>(sft_loss<scalar>({logps_}, batch.sequences, {logps_},
                                                        {.tokens = tokens, .sequences = batch.sequences.size()},
                                                        {.normalization = options_.normalization}));
    return outcome;
  }

  void collect(std::span<metric_sum>) noexcept {}

  void describe(checksum64& sum) const noexcept {
    sum.update_number(options_.label_smoothing).update_number(static_cast<std::uint64_t>(options_.normalization));
    sum.update_number(static_cast<std::uint64_t>(options_.loss_type)).update_number(options_.z_loss_coef);
  }

 private:
  bool finite(micro_batch const& batch, std::span<scalar const> logps, batch_outcome& outcome) {
    sums_.resize(batch.sequences.size());
    sequence_sums<scalar>(logps, batch.sequences, sums_);
    for (std::size_t b = 0; b < sums_.size(); ++b)
      if (!std::isfinite(sums_[b])) {
        outcome.not_finite = batch.examples[b];
        outcome.loss = sums_[b];
        return false;
      }
    return true;
  }

  P& policy_;
  sft_options options_;
  sft_totals totals_{};
  std::vector<scalar> logps_;
  std::vector<double> sums_;
};

/// Teaches a policy to imitate demonstrations (door 3). Policy and optimiser are borrowed and must outlive the trainer.
///
///   adamw<float> optimizer;
///   sft_trainer trainer{policy, optimizer, {.loop = {.learning_rate = 1e-3, .epochs = 3}}};
///   training_summary const summary = trainer.fit(demonstrations, held_out, sink);
///
/// Label smoothing and z-loss need a TermedPolicy; with any other policy they are a contract_violation at construction.
template <Policy P, Optimizer<P> O>
class sft_trainer : public trainer_on<sft_trainer<P, O>, demonstration> {
 public:
  sft_trainer(P& policy, O& optimizer, sft_trainer_options options = {})
      : policy_(policy), optimizer_(optimizer), options_(std::move(options)) {
    validate(options_.loop);
    sft_stage<P>(policy_, options_.sft);  // refuses bad options here rather than at the first step
  }

 private:
  friend trainer_on<sft_trainer, demonstration>;

  template <class Train, class Evaluation, class Sink>
  training_summary run(Train const& train, Evaluation const* evaluation, Sink&& sink) {
    sft_stage<P> stage(policy_, options_.sft);
    training_loop loop(stage, policy_, optimizer_, options_.loop);
    return loop.run(train, evaluation, sink);
  }

  P& policy_;
  O& optimizer_;
  sft_trainer_options options_;
};

template <class P, class O>
sft_trainer(P&, O&, sft_trainer_options) -> sft_trainer<P, O>;

}  // namespace attune
