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
#include <attune/train/checkpoint.hpp>

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
///   S::example              demonstration, preference_pair, ...: what dataset[i] is read as
///   S::name                 for reports: "sft"
///   S::metric_names         array of names, TRL's spelling, besides the loop's own
///   s.begin_step(step, first)   the micro-batches of a step, before the first of them is run; first: step 0 of a run
///   s.accumulate(batch)     adds the gradient of the batch's share of the step's mean loss; asks the model once
///   s.evaluate(batch)       measures without gradients
///   s.collect(sums)         adds what was measured since the last call to sums[i], one per name, and forgets it; a
///                           batch whose numbers are not finite is not measured
///   s.describe(checksum)    folds options and reference in: a checkpoint made with others is told apart
///
/// Laws: the result of a step is a function of parameters and batches; no state but measurements survives a step,
/// unless the stage is a StatefulStage; the gradients of the micro-batches of a step add up to that of the step's mean
/// loss, however the step was cut. The loop runs a step's micro-batches once each, in order. Modelled by: sft_stage,
/// reward_stage, dpo_stage, kto_stage, process_reward_stage.
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

/// A stage whose objective looks at a batch as a whole before any part of it, in evaluation too:
///   s.begin_evaluation(step)    the micro-batches that evaluate will be called with next, before the first of them
/// Modelled by: kto_stage.
template <class S>
concept StageWithEvaluationBatches = TrainingStage<S> && requires(S& s, step_batches const& step) {
  { s.begin_evaluation(step) } -> std::same_as<void>;
};

/// A stage with state that later steps depend on (a running mean, say); it goes into checkpoints.
///   s.visit_state(visitor)      visitor("stage/...", bytes) for every piece, names and sizes fixed; the bytes are the
///                               state's own memory and are read or overwritten
/// A step that is skipped for numbers that are not finite leaves no number in the state that is not.
/// Modelled by: kto_stage.
template <class S>
concept StatefulStage = TrainingStage<S> && requires(S& s, state_visitor visit) {
  { s.visit_state(visit) } -> std::same_as<void>;
};

/// A stage that has something to do after an optimiser step:
///   s.end_step(steps)           `steps` of the run are done, skipped ones included
/// Modelled by: dpo_stage with a reference that follows.
template <class S>
concept StageWithStepEnd = TrainingStage<S> && requires(S& s, std::size_t steps) {
  { s.end_step(steps) } -> std::same_as<void>;
};

/// A stage that makes its examples itself from rows of the dataset:
///   s.draw(data, rows, step, out)   replaces what is in `out` by the examples of step number `step`, made of those
///                                   rows
/// What it makes is a function of the parameters, the rows and the number. Modelled by: online_dpo_stage.
template <class S, class Data>
concept DrawingStage = TrainingStage<S> && requires(S& s, Data const& data, std::span<std::size_t const> rows,
                                                    std::size_t step, step_batches& out) {
  { s.draw(data, rows, step, out) } -> std::same_as<void>;
};

}  // namespace attune
