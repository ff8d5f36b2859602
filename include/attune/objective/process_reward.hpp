// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/core/statistics.hpp>
#include <attune/objective/expects_finite_tokens.hpp>
#include <attune/objective/value_and_slope.hpp>

/// The loss of a process reward model (Lightman et al. 2023, "Let's verify step by step", section 2.6; Uesato et al.
/// 2022): every step of a solution is called correct or not, and the score at its end is the logit of that.
///
/// With s the logistic function:  correct  -log s(score)    wrong  -log s(-score)
///
/// A model of two classes has the score logit_1 - logit_0, and this is its cross-entropy: TRL's experimental
/// PRMTrainer. Deviations from it: the mean is over the labelled steps of the whole optimiser step, where TRL takes
/// each micro-batch's; what a step's separator is belongs to the data, not to the loss.
namespace attune {

struct process_reward_options {
  /// Of every sequence, only its last labelled step counts: an outcome reward model at the same place. (In evaluation
  /// TRL counts all steps all the same; so does process_reward_trainer.)
  bool train_on_last_step_only = false;
};

/// The loss of one step and its derivative, from its score. Finite for every finite input.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_and_slope<T> process_reward_objective(T score, bool correct) noexcept {
  value_and_slope<T> const one = negative_log_sigmoid(correct ? score : -score);
  return {one.value, correct ? one.slope : -one.slope};
}

/// One number per token, read where the mask is 1 alone: at the labelled steps.
template <class T>
struct process_scores {
  std::span<T const> scores;             // (tokens) logit of "correct so far"
  std::span<std::uint8_t const> labels;  // (tokens) 1: the step is correct, 0: it is not
};

/// Sums over labelled steps that several batches add to.
struct process_reward_statistics {
  metric_sum accuracy;  ///< share of steps whose score is on its label's side of 0; a score of 0 is on neither
  metric_sum score;     ///< mean score
};

/// How many labelled steps of this batch the loss counts: what process_reward_loss's denominator adds up from.
[[nodiscard]] inline std::size_t counted_steps(sequences_view batch, process_reward_options options) noexcept {
  if (!options.train_on_last_step_only) return completion_tokens(batch.mask);
  std::size_t count = 0;
  for (std::size_t b = 0; b < batch.size(); ++b) count += completion_tokens(batch.sequence_mask(b)) > 0 ? 1 : 0;
  return count;
}

/// Sum over this batch of the steps' losses / total_steps; overwrites all slopes with its derivatives with respect to
/// the scores, 0 at tokens that do not count. The mask is 1 where a step is labelled. total_steps is counted_steps of
/// the whole optimiser step, over all of its micro-batches and ranks; 0 means that this batch is all of it. Adds to
/// *statistics, if it is not null, what it says of the steps that count.
///
/// Expects a valid batch of a sequence or more, sizes equal to batch.total_tokens(), a step that counts (if it is all
/// of the step), finite scores and labels of 0 or 1 where the mask is 1 (where it is 0 they are not read), total_steps
/// not smaller than this batch's. Slopes may be the memory of the scores. Arithmetic in double, left to right.
/// Allocates nothing; writes nothing if it throws.
template <class T>
T process_reward_loss(process_scores<T> of, sequences_view batch, std::span<T> slopes,
                      process_reward_options options = {}, std::size_t total_steps = 0,
                      process_reward_statistics* statistics = nullptr) {
  validate(batch, (std::numeric_limits<std::size_t>::max)());
  expects(batch.size() > 0, "process_reward_loss: at least one sequence");
  expects_finite_tokens(of.scores, batch, "process_reward_loss: scores");
  expects_one_per_token(of.labels, batch, "process_reward_loss: labels");
  expects_one_per_token(slopes, batch, "process_reward_loss: slopes");
  for (std::size_t b = 0; b < batch.size(); ++b)
    for (std::size_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t)
      if (batch.mask[t] != 0 && of.labels[t] > 1)
        throw contract_violation("expected process_reward_loss: labels[" + std::to_string(t) + "] 0 or 1 (sequence " +
                                 std::to_string(b) + ", token " + std::to_string(t - batch.offsets[b]) + "), got " +
                                 std::to_string(of.labels[t]));
  std::size_t const steps = counted_steps(batch, options);
  expects(total_steps > 0 || steps > 0, "process_reward_loss: a labelled step");
  expects(total_steps == 0 || total_steps >= steps,
          "process_reward_loss: total_steps >= the labelled steps of the batch", total_steps);

  double const total = static_cast<double>(total_steps == 0 ? steps : total_steps);
  process_reward_statistics sums;
  double loss = 0.0;
  for (std::size_t b = 0; b < batch.size(); ++b) {
    std::size_t left = completion_tokens(batch.sequence_mask(b));  // labelled steps not yet passed
    for (std::size_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
      bool const labelled = batch.mask[t] != 0;
      if (labelled) --left;
      if (!labelled || (options.train_on_last_step_only && left > 0)) {
        slopes[t] = T(0);
        continue;
      }
      double const score = static_cast<double>(of.scores[t]);
      bool const correct = of.labels[t] != 0;
      value_and_slope<double> const one = process_reward_objective(score, correct);
      sums.accuracy.add((correct ? score > 0.0 : score < 0.0) ? 1.0 : 0.0);
      sums.score.add(score);
      loss = saturate_cast<double>(loss + one.value / total);
      slopes[t] = static_cast<T>(one.slope / total);
    }
  }
  if (statistics != nullptr) {
    statistics->accuracy.add(sums.accuracy);
    statistics->score.add(sums.score);
  }
  return saturate_cast<T>(loss);
}

}  // namespace attune
