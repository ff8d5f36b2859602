// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/value_model.hpp>
#include <attune/objective/process_reward.hpp>
#include <attune/train/loop.hpp>
#include <attune/train/trainer.hpp>

namespace attune {

struct process_reward_trainer_options {
  loop_options loop = {.learning_rate = 1e-5};  ///< TRL's learning rate for process reward models
  process_reward_options process_reward = {};
};

/// Process reward modelling as a stage of the training loop, on solutions in steps. The score of a step is the model's
/// value right after the step's last token, V(prompt and steps so far), as a logit: sigmoid(value) is the probability
/// that the solution is correct so far.
///
/// Metrics, over the steps that count since the last report: accuracy (share of steps whose score is on its label's
/// side of 0; TRL's argmax of two classes) and score (mean). In evaluation every step counts, train_on_last_step_only
/// or not.
template <ValueModel M>
class process_reward_stage {
 public:
  using scalar = typename M::scalar;
  using example = stepwise_completion;
  static constexpr std::string_view name = "process_reward";
  static constexpr std::array<std::string_view, 2> metric_names{"accuracy", "score"};

  process_reward_stage(M& model, process_reward_options options) : model_(model), options_(options) {}

  void begin_step(step_batches const& step, bool /*first*/) {
    steps_of_step_ = 0;
    for (std::size_t i = 0; i < step.size(); ++i) steps_of_step_ += counted_steps(step[i].sequences, options_);
  }

  batch_outcome accumulate(micro_batch const& batch) {
    batch_outcome outcome;
    std::size_t asked = 0;
    auto const ask = [&](std::span<scalar const> values, std::span<scalar> slopes) {
      ++asked;
      if (!are_finite(batch, values, outcome)) return;
      outcome.loss = loss(batch, values, options_, steps_of_step_);
      for (std::size_t t = 0; t < slopes.size(); ++t) slopes[t] = static_cast<scalar>(scores_[t]);
    };
    model_.accumulate_value_gradient(batch.sequences, ask);
    expects(asked == 1, "the value model to call ask exactly once per accumulate_value_gradient", asked);
    return outcome;
  }

  batch_outcome evaluate(micro_batch const& batch) {
    batch_outcome outcome;
    values_.resize(batch.sequences.total_tokens());
    std::as_const(model_).values(batch.sequences, std::span<scalar>(values_));
    if (!are_finite(batch, values_, outcome)) return outcome;
    std::size_t const steps = counted_steps(batch.sequences, {});
    outcome.weight = static_cast<double>(steps);
    outcome.loss = loss(batch, values_, {}, steps);
    return outcome;
  }

  void collect(std::span<metric_sum> sums) noexcept {
    sums[0].add(measured_.accuracy);
    sums[1].add(measured_.score);
    measured_ = {};
  }

  void describe(checksum64& sum) const noexcept {
    sum.update_number(static_cast<std::uint64_t>(options_.train_on_last_step_only ? 1 : 0));
  }

 private:
  bool are_finite(micro_batch const& batch, std::span<scalar const> values, batch_outcome& outcome) const noexcept {
    for (std::size_t b = 0; b < batch.sequences.size(); ++b)
      for (std::size_t t = batch.sequences.offsets[b]; t < batch.sequences.offsets[b + 1]; ++t)
        if (batch.sequences.mask[t] != 0 && !std::isfinite(values[t])) {
          outcome.not_finite = batch.examples[b];
          outcome.loss = std::numeric_limits<double>::quiet_NaN();
          return false;
        }
    return true;
  }

  // In double, whatever the model's scalar. Slopes take the place of the scores.
  double loss(micro_batch const& batch, std::span<scalar const> values, process_reward_options options,
              std::size_t total_steps) {
    scores_.assign(values.begin(), values.end());
    return process_reward_loss<double>({.scores = scores_, .labels = batch.labels}, batch.sequences,
                                       std::span<double>(scores_), options, total_steps, &measured_);
  }

  M& model_;
  process_reward_options options_;
  std::size_t steps_of_step_ = 0;
  std::vector<scalar> values_;
  std::vector<double> scores_;
  process_reward_statistics measured_;
};

/// Trains a process reward model (door 3) on a StepwiseDataset: any ValueModel, a value_head say, whose values then
/// score the steps of a solution. Model and optimiser are borrowed and must outlive the trainer.
///
///   value_head<float> model(language_model);
///   process_reward_trainer trainer{model, optimizer, {.loop = {.learning_rate = 1e-5}}};
///   trainer.fit(solutions, held_out_solutions, sink);
template <ValueModel M, Optimizer<M> O>
class process_reward_trainer : public trainer_on<process_reward_trainer<M, O>, stepwise_completion> {
 public:
  process_reward_trainer(M& model, O& optimizer, process_reward_trainer_options options = {})
      : model_(model), optimizer_(optimizer), options_(std::move(options)) {
    validate(options_.loop);
  }

 private:
  friend trainer_on<process_reward_trainer, stepwise_completion>;

  template <class Train, class Evaluation, class Sink>
  training_summary run(Train const& train, Evaluation const* evaluation, Sink&& sink) {
    process_reward_stage<M> stage(model_, options_.process_reward);
    training_loop loop(stage, model_, optimizer_, options_.loop);
    return loop.run(train, evaluation, sink);
  }

  M& model_;
  O& optimizer_;
  process_reward_trainer_options options_;
};

template <class M, class O>
process_reward_trainer(M&, O&, process_reward_trainer_options) -> process_reward_trainer<M, O>;

}  // namespace attune
