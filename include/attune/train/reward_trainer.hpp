// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/reward_model.hpp>
#include <attune/objective/bradley_terry.hpp>
#include <attune/train/loop.hpp>
#include <attune/train/trainer.hpp>

namespace attune {

struct reward_trainer_options {
  loop_options loop = {.learning_rate = 1e-4};  ///< TRL's learning rate for reward models
  bradley_terry_options bradley_terry = {};
};

/// Reward modelling as a stage of the training loop: Bradley-Terry on pairs, with the margins that the data give.
///
/// Metrics, over the pairs since the last report: accuracy (share with chosen strictly above rejected), margin (mean of
/// chosen - rejected), mean_reward; min_reward and max_reward are those of a step, averaged over the steps (TRL's).
template <TrainableRewardModel M>
class reward_stage {
 public:
  using scalar = typename M::scalar;
  using example = preference_pair;
  static constexpr std::string_view name = "reward_model";
  static constexpr std::array<std::string_view, 5> metric_names{"accuracy", "margin", "min_reward", "mean_reward",
                                                                "max_reward"};

  reward_stage(M& model, bradley_terry_options options) : model_(model), options_(options) { validate(options_); }

  void begin_step(step_batches const& step, bool /*first*/) { pairs_of_step_ = step.examples(); }

  batch_outcome accumulate(micro_batch const& batch) {
    batch_outcome outcome;
    std::size_t asked = 0;
    auto const ask = [&](std::span<scalar const> scores, std::span<scalar> slopes) {
      ++asked;
      if (!take(batch, scores, outcome)) return;
      outcome.loss = loss(batch, pairs_of_step_);
      for (std::size_t i = 0; i < chosen_.size(); ++i) {
        slopes[2 * i] = static_cast<scalar>(chosen_[i]);
        slopes[2 * i + 1] = static_cast<scalar>(rejected_[i]);
      }
    };
    model_.accumulate_score_gradient(batch.sequences, ask);
    expects(asked == 1, "the reward model to call ask exactly once per accumulate_score_gradient", asked);
    return outcome;
  }

  batch_outcome evaluate(micro_batch const& batch) {
    batch_outcome outcome;
    scores_.resize(batch.sequences.size());
    std::as_const(model_).scores(batch.sequences, std::span<scalar>(scores_));
    if (!take(batch, scores_, outcome)) return outcome;
    outcome.weight = static_cast<double>(batch.examples.size());
    outcome.loss = loss(batch, batch.examples.size());
    return outcome;
  }

  void collect(std::span<metric_sum> sums) noexcept {
    sums[0].add(accuracy_);
    sums[1].add(margin_);
    sums[3].add(reward_);
    if (reward_.weight > 0.0) {
      sums[2].add(lowest_);
      sums[4].add(highest_);
    }
    accuracy_ = margin_ = reward_ = {};
    lowest_ = std::numeric_limits<double>::infinity();
    highest_ = -lowest_;
  }

  void describe(checksum64& sum) const noexcept { sum.update_number(options_.center_rewards_coefficient); }

 private:
  // Parts the scores into chosen and rejected, and measures them; false if one is not finite.
  bool take(micro_batch const& batch, std::span<scalar const> scores, batch_outcome& outcome) {
    std::size_t const pairs = batch.examples.size();
    chosen_.resize(pairs);
    rejected_.resize(pairs);
    for (std::size_t i = 0; i < pairs; ++i) {
      chosen_[i] = static_cast<double>(scores[2 * i]);
      rejected_[i] = static_cast<double>(scores[2 * i + 1]);
      if (!std::isfinite(chosen_[i]) || !std::isfinite(rejected_[i])) {
        outcome.not_finite = batch.examples[i];
        outcome.loss = std::numeric_limits<double>::quiet_NaN();
        return false;
      }
    }
    for (std::size_t i = 0; i < pairs; ++i) {
      accuracy_.add(chosen_[i] > rejected_[i] ? 1.0 : 0.0);
      margin_.add(chosen_[i] - rejected_[i]);
      reward_.add(chosen_[i]);
      reward_.add(rejected_[i]);
      lowest_ = (std::min)({lowest_, chosen_[i], rejected_[i]});
      highest_ = (std::max)({highest_, chosen_[i], rejected_[i]});
    }
    return true;
  }

  // Slopes take the place of the scores they belong to.
  double loss(micro_batch const& batch, std::size_t total_pairs) {
    return bradley_terry_loss<double>({.chosen = chosen_, .rejected = rejected_, .margin = batch.margins},
                                      {.chosen = chosen_, .rejected = rejected_}, options_, total_pairs);
  }

  M& model_;
  bradley_terry_options options_;
  std::size_t pairs_of_step_ = 0;
  std::vector<scalar> scores_;
  std::vector<double> chosen_, rejected_;
  metric_sum accuracy_, margin_, reward_;
  double lowest_ = std::numeric_limits<double>::infinity();
  double highest_ = -std::numeric_limits<double>::infinity();
};

/// Trains a reward model on preferences (door 3). Model and optimiser are borrowed and must outlive the trainer.
///
///   reward_trainer trainer{reward_model, optimizer, {.bradley_terry = {.center_rewards_coefficient = 0.01}}};
///   trainer.fit(pairs, held_out_pairs, sink);
template <TrainableRewardModel M, Optimizer<M> O>
class reward_trainer : public trainer_on<reward_trainer<M, O>, preference_pair> {
 public:
  reward_trainer(M& model, O& optimizer, reward_trainer_options options = {})
      : model_(model), optimizer_(optimizer), options_(std::move(options)) {
    validate(options_.loop);
    validate(options_.bradley_terry);
  }

 private:
  friend trainer_on<reward_trainer, preference_pair>;

  template <class Train, class Evaluation, class Sink>
  training_summary run(Train const& train, Evaluation const* evaluation, Sink&& sink) {
    reward_stage<M> stage(model_, options_.bradley_terry);
    training_loop loop(stage, model_, optimizer_, options_.loop);
    return loop.run(train, evaluation, sink);
  }

  M& model_;
  O& optimizer_;
  reward_trainer_options options_;
};

template <class M, class O>
reward_trainer(M&, O&, reward_trainer_options) -> reward_trainer<M, O>;

}  // namespace attune
