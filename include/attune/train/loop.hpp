// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <attune/concepts/optimizer.hpp>
#include <attune/concepts/report_sink.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/fingerprint.hpp>
#include <attune/core/function_ref.hpp>
#include <attune/core/model_fingerprint.hpp>
#include <attune/core/statistics.hpp>
#include <attune/train/batches.hpp>
#include <attune/train/checkpoint.hpp>
#include <attune/train/loop_options.hpp>
#include <attune/train/run_checkpoints.hpp>
#include <attune/train/stage.hpp>

namespace attune {

/// The passing of time, for every trainer: order of the data, accumulation, schedule, reports, evaluation, checkpoints.
///
/// A step is a fixed list of micro-batches run one after the other; everything it does is a function of the parameters,
/// the optimiser's state, the stage's where it has some, and the step's number. So a run that was killed at any instant
/// and resumed ends in the same bits as one that was not. In a step, the loop allocates nothing once its buffers have
/// grown to the largest step.
///
/// If a step throws, parameters and optimiser are as after the step before, and gradients are zero.
template <TrainingStage Stage, class Model, Optimizer<Model> O>
class training_loop {
 public:
  training_loop(Stage& stage, Model& model, O& optimizer, loop_options const& options)
      : stage_(stage), model_(model), optimizer_(optimizer), options_(options), step_(options.micro_batch_tokens),
        evaluation_(options.micro_batch_tokens) {
    validate(options_);
    for (std::string_view const name : Stage::metric_names) eval_names_.push_back("eval_" + std::string(name));
    metrics_.reserve(Stage::metric_names.size() + 8);
  }

  /// Trains to the end of the run. `evaluation` may be null. Reports go to the sink, from this thread.
  template <class Train, class Evaluation>
  training_summary run(Train const& train, Evaluation const* evaluation, function_ref<void(report const&)> sink) {
    begin_ = std::chrono::steady_clock::now();
    expects(evaluation == nullptr || evaluation->size() > 0, "an evaluation dataset of at least one example");
    epoch_order order(train.size(), options_.batch_size, options_.seed);
    steps_per_epoch_ = order.steps_per_epoch();
    total_steps_ = options_.max_steps > 0 ? options_.max_steps : order.steps_in(options_.epochs);
    state_ = {};
    window_.assign(Stage::metric_names.size(), {});
    summary_ = {};
    tokens_here_ = 0;
    optimizer_.zero_gradient(model_);
    auto const visit = [this](state_visitor visitor) { visit_state(visitor); };
    if (auto const step = checkpoints_.open(options_, [&] { return identity_of(train); }, visit))
      expects(*step == state_.step && *step <= total_steps_, "a checkpoint whose parts agree on its step", *step);
    summary_.resumed_from = static_cast<std::size_t>(state_.step);

    tell(sink, report_kind::start, {});
    if (evaluation != nullptr && options_.eval_on_start && state_.step == 0) evaluate(*evaluation, sink);
    while (state_.step < total_steps_) {
      train_step(train, order.step(static_cast<std::size_t>(state_.step)), sink);
      bool const last = state_.step == total_steps_;
      if (evaluation != nullptr && (last || due(options_.eval_steps))) evaluate(*evaluation, sink);
      if (checkpoints_.are_kept() && (last || due(options_.save_steps))) checkpoints_.save(state_.step, visit);
    }
    if (evaluation != nullptr && summary_.evaluation.empty()) evaluate(*evaluation, sink);  // resumed when all was done
    summary_.steps = static_cast<std::size_t>(state_.step);
    summary_.skipped_steps = static_cast<std::size_t>(state_.skipped);
    summary_.tokens = static_cast<std::size_t>(state_.tokens);
    if (state_.step > state_.skipped) {
      summary_.first_loss = state_.first_loss;
      summary_.last_loss = state_.last_loss;
    }
    summary_.seconds = seconds();
    tell(sink, report_kind::finish, {});
    return summary_;
  }

 private:
  // The loop's part of a checkpoint: eight-byte members only, so that no padding is written.
  struct loop_state {
    std::uint64_t step = 0;     // done
    std::uint64_t skipped = 0;  // of these
    std::uint64_t tokens = 0;
    double first_loss = 0.0;
    double last_loss = 0.0;
    metric_sum window_loss;       // since the last log report
    metric_sum window_grad_norm;
    double learning_rate = 0.0;   // of the last step
  };

  template <class Train>
  void train_step(Train const& train, std::span<std::size_t const> examples, function_ref<void(report const&)> sink) {
    std::size_t const number = static_cast<std::size_t>(state_.step);
    double loss = 0.0;
    optimizer_report done{};
    std::size_t suspect = no_example;
    try {
      if constexpr (DrawingStage<Stage, Train>) stage_.draw(train, examples, number, step_);
      else fill(step_, train, examples);
      if (step_.examples() == 0) return pass(sink);
      stage_.begin_step(step_, number == 0);
      for (std::size_t i = 0; i < step_.size(); ++i) {
        batch_outcome const outcome = in_place(number, step_[i], [&] { return stage_.accumulate(step_[i]); });
        loss += outcome.loss;
        if (suspect == no_example) suspect = outcome.not_finite;
      }
      state_.learning_rate = options_.learning_rate * learning_rate_factor(options_.schedule, number,
                                                                           options_.warmup_steps, total_steps_);
      if (std::isfinite(loss) && suspect == no_example) {
        done = optimizer_.step(model_, {state_.learning_rate, options_.max_grad_norm});
      } else {
        optimizer_.zero_gradient(model_);
        done.finite = false;
      }
    } catch (...) {
      optimizer_.zero_gradient(model_);
      throw;
    }
    if (!done.finite && options_.nonfinite == on_nonfinite::stop) refuse(number, loss, suspect);

    state_.tokens += step_.tokens();
    tokens_here_ += step_.tokens();
    collected_.assign(window_.size(), {});
    stage_.collect(collected_);
    if (done.finite) {
      if (state_.step == state_.skipped) state_.first_loss = loss;
      state_.last_loss = loss;
      state_.window_loss.add(loss);
      state_.window_grad_norm.add(done.grad_norm);
      for (std::size_t i = 0; i < window_.size(); ++i) window_[i].add(collected_[i]);
    } else {
      ++state_.skipped;
    }
    ++state_.step;
    if constexpr (StageWithStepEnd<Stage>) stage_.end_step(static_cast<std::size_t>(state_.step));
    if (due(options_.logging_steps) || state_.step == total_steps_) {
      log(sink);
    } else {
      metrics_.clear();
      if (done.finite) metrics_.push_back({"loss", loss});
      else metrics_.push_back({"skipped_steps", static_cast<double>(state_.skipped)});
      tell(sink, report_kind::progress, metrics_);
    }
  }

  // A step for which a DrawingStage had nothing: time passes, and nothing else.
  void pass(function_ref<void(report const&)> sink) {
    collected_.assign(window_.size(), {});
    stage_.collect(collected_);
    for (std::size_t i = 0; i < window_.size(); ++i) window_[i].add(collected_[i]);
    ++state_.skipped;
    ++state_.step;
    if constexpr (StageWithStepEnd<Stage>) stage_.end_step(static_cast<std::size_t>(state_.step));
    if (due(options_.logging_steps) || state_.step == total_steps_) return log(sink);
    metrics_.clear();
    metrics_.push_back({"skipped_steps", static_cast<double>(state_.skipped)});
    tell(sink, report_kind::progress, metrics_);
  }

  void log(function_ref<void(report const&)> sink) {
    metrics_.clear();
    auto const add = [this](std::string_view name, metric_sum const& s) {
      if (s.weight > 0.0) metrics_.push_back({name, s.mean()});
    };
    add("loss", state_.window_loss);
    add("grad_norm", state_.window_grad_norm);
    metrics_.push_back({"learning_rate", state_.learning_rate});
    for (std::size_t i = 0; i < window_.size(); ++i) add(Stage::metric_names[i], window_[i]);
    metrics_.push_back({"num_tokens", static_cast<double>(state_.tokens)});
    if (state_.skipped > 0) metrics_.push_back({"skipped_steps", static_cast<double>(state_.skipped)});
    state_.window_loss = state_.window_grad_norm = {};
    window_.assign(window_.size(), {});
    tell(sink, report_kind::log, metrics_);
  }

  template <class Evaluation>
  void evaluate(Evaluation const& data, function_ref<void(report const&)> sink) {
    metric_sum loss;
    std::size_t left_out = 0;
    std::vector<metric_sum> sums(window_.size());
    std::vector<std::size_t> examples;
    for (std::size_t first = 0; first < data.size(); first += examples.size()) {
      examples.clear();
      for (std::size_t i = first; i < data.size() && i < first + options_.batch_size; ++i) examples.push_back(i);
      fill(evaluation_, data, examples);
      if constexpr (StageWithEvaluationBatches<Stage>) stage_.begin_evaluation(evaluation_);
      for (std::size_t i = 0; i < evaluation_.size(); ++i) {
        micro_batch const batch = evaluation_[i];
        batch_outcome const outcome =
            in_place(static_cast<std::size_t>(state_.step), batch, [&] { return stage_.evaluate(batch); });
        if (outcome.not_finite != no_example || !std::isfinite(outcome.loss)) {
          if (options_.nonfinite == on_nonfinite::stop)
            throw nonfinite_error("evaluation after step " + std::to_string(state_.step) +
                                  ": the loss is not finite" + named(outcome.not_finite));
          left_out += batch.examples.size();
          continue;
        }
        loss.add(outcome.loss, outcome.weight);
      }
    }
    stage_.collect(sums);
    metrics_.clear();
    if (loss.weight > 0.0) metrics_.push_back({"eval_loss", loss.mean()});
    for (std::size_t i = 0; i < sums.size(); ++i)
      if (sums[i].weight > 0.0) metrics_.push_back({eval_names_[i], sums[i].mean()});
    if (left_out > 0) metrics_.push_back({"eval_skipped_examples", static_cast<double>(left_out)});
    summary_.evaluation.clear();
    for (metric const& m : metrics_) summary_.evaluation.push_back({std::string(m.name), m.value});
    tell(sink, report_kind::evaluation, metrics_);
  }

  template <class Data>
  static void fill(step_batches& batches, Data const& data, std::span<std::size_t const> examples) {
    batches.clear();
    for (std::size_t const i : examples) {
      typename Stage::example const one = data[i];
      batches.push_back(one, i);
    }
  }

  // A policy names a sequence of the micro-batch; the user knows examples.
  template <class F>
  static batch_outcome in_place(std::size_t step, micro_batch const& batch, F&& f) {
    try {
      return f();
    } catch (contract_violation const& broken) {
      std::string place = " (step " + std::to_string(step) + ", examples";
      for (std::size_t const i : batch.examples) place += " " + std::to_string(i);
      throw contract_violation(broken.what() + place + ")");
    }
  }

  static std::string named(std::size_t example) {
    return example == no_example ? std::string() : "; the first example at fault is " + std::to_string(example);
  }

  [[noreturn]] static void refuse(std::size_t step, double loss, std::size_t suspect) {
    bool const gradient = std::isfinite(loss) && suspect == no_example;
    throw nonfinite_error("step " + std::to_string(step) + ": the " + (gradient ? "gradient" : "loss") +
                          " is not finite" + named(suspect) +
                          ". No parameter was changed. A smaller learning rate, or on_nonfinite::skip, may help");
  }

  bool due(std::size_t interval) const noexcept { return interval > 0 && state_.step % interval == 0; }
  double epoch() const noexcept { return static_cast<double>(state_.step) / static_cast<double>(steps_per_epoch_); }
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

  void tell(function_ref<void(report const&)> sink, report_kind kind, std::span<metric const> metrics) const {
    sink(report{.kind = kind, .stage = Stage::name, .step = static_cast<std::size_t>(state_.step),
                .total_steps = total_steps_, .epoch = epoch(), .tokens = tokens_here_, .seconds = seconds(),
                .metrics = metrics});
  }

  template <class Train>
  run_identity identity_of(Train const& train) {
    checksum64 options;
    options.update(std::string_view(Stage::name));
    stage_.describe(options);
    describe(options_, total_steps_, options);
    if constexpr (requires { optimizer_.describe(options); }) optimizer_.describe(options);
    return {shape_fingerprint(model_), data_fingerprint(train), options.value()};
  }

  template <class Train>
  static std::uint64_t data_fingerprint(Train const& train) {
    if constexpr (DrawingStage<Stage, Train>) return fingerprint(train);
    else return fingerprint(rows_as<typename Stage::example, Train>{train});
  }

  void visit_state(state_visitor visit) {
    visit("loop", std::as_writable_bytes(std::span(&state_, std::size_t{1})));
    visit("loop/window", std::as_writable_bytes(std::span(window_)));
    if constexpr (StatefulStage<Stage>) stage_.visit_state(visit);
    std::string name;
    for (auto&& p : model_.parameters()) {
      name.assign("parameter/").append(p.name);
      visit(name, std::as_writable_bytes(p.value));
    }
    optimizer_.visit_state(model_, visit);
  }

  Stage& stage_;
  Model& model_;
  O& optimizer_;
  loop_options options_;
  step_batches step_;
  step_batches evaluation_;
  loop_state state_;
  std::vector<metric_sum> window_;
  std::vector<metric_sum> collected_;
  std::vector<metric> metrics_;
  std::vector<std::string> eval_names_;
  training_summary summary_;
  std::size_t steps_per_epoch_ = 1;
  std::size_t total_steps_ = 0;
  std::size_t tokens_here_ = 0;
  std::chrono::steady_clock::time_point begin_;
  run_checkpoints checkpoints_;
};

}  // namespace attune
