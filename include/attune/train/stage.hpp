// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <string_view>

#include <attune/core/checksum.hpp>
#include <attune/core/statistics.hpp>
#include <attune/train/batches.hpp>

namespace attune {

inline constexpr std::size_t no_example = (std::numeric_limits<std::size_t>::max)();

/// What a stage says of one micro-batch.
struct batch_outcome {
  double loss = 0.0;                      ///< training: this batch's share of the step's mean; evaluation: its own mean
  double weight = 1.0;                    ///< evaluation: what that mean is taken over (tokens, pairs)
  std::size_t not_finite = no_example;    ///< dataset index of an example whose numbers are not finite, if any
};

/// What an objective is to the training loop: the loop knows time, the stage knows the loss. SFT, reward model and DPO
/// are three stages of one loop; a new objective is one more.
///
///   S::example              demonstration or preference_pair: what dataset[i] is read as
///   S::name                 for reports: "sft"
///   S::metric_names         array of names, TRL's spelling, besides the loop's own
///   s.begin_step(step, first)   the micro-batches of a step, before the first of them is run; first: step 0 of a run
///   s.accumulate(batch)     adds the gradient of the batch's share of the step's mean loss; asks the model once
///   s.evaluate(batch)       measures without gradients
///   s.collect(sums)         adds what was measured since the last call to sums[i], one per name, and forgets it; a
///                           batch whose numbers are not finite is not measured
///   s.describe(checksum)    folds options and reference in: a checkpoint made with others is told apart
///
/// Laws: the result of a step is a function of parameters and batches; no state but measurements survives a step; the
/// gradients of the micro-batches of a step add up to that of the step's mean loss, however the step was cut.
/// Modelled by: sft_stage, reward_stage, dpo_stage.
template <class S>
concept TrainingStage = requires(S& s, S const& c, step_batches const& step, micro_batch const& batch, bool first,
                                 std::span<metric_sum> sums, checksum64& sum) {
  typename S::example;
  { S::name } -> std::convertible_to<std::string_view>;
  { S::metric_names.size() } -> std::convertible_to<std::size_t>;
  { s.begin_step(step, first) } -> std::same_as<void>;
  { s.accumulate(batch) } -> std::same_as<batch_outcome>;
  { s.evaluate(batch) } -> std::same_as<batch_outcome>;
  { s.collect(sums) } -> std::same_as<void>;
  { c.describe(sum) } -> std::same_as<void>;
};

}  // namespace attune
