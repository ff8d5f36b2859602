// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <attune/core/checksum.hpp>
#include <attune/core/contract.hpp>
#include <attune/train/schedule.hpp>

namespace attune {

/// What to do when a loss or a gradient is NaN or infinite. In both cases the step changes no parameter.
enum class on_nonfinite {
  stop,  ///< throw nonfinite_error; the last checkpoint stays as it is
  skip,  ///< leave the step out, count it in the report, go on
};

/// A loss or a gradient was NaN or infinite and the option says stop. Names step and, where it is known, the example.
struct nonfinite_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct loop_options {
  double learning_rate = 1e-3;  ///< peak of the schedule; > 0
  learning_rate_schedule schedule = learning_rate_schedule::linear;  ///< shape after the warm-up
  std::size_t warmup_steps = 0;                 ///< optimiser steps of rising learning rate; >= 0
  double epochs = 1.0;                          ///< passes over the data, rounded up to a whole step; > 0
  std::size_t max_steps = 0;                    ///< optimiser steps; 0: as `epochs` says, else it wins
  std::size_t batch_size = 8;                   ///< examples (pairs) per optimiser step; >= 1
  std::size_t micro_batch_tokens = 4096;        ///< tokens run through the model at once; 0: the whole step
  double max_grad_norm = 1.0;                   ///< clipping by global L2 norm; > 0, infinity switches it off
  std::uint64_t seed = 0;                       ///< of the order of the data
  std::size_t logging_steps = 10;               ///< steps per log report; >= 1
  std::size_t eval_steps = 0;                   ///< steps per evaluation; 0: at the end only
  bool eval_on_start = false;                   ///< evaluate before the first step too
  std::size_t save_steps = 0;                   ///< steps per checkpoint; 0: at the end only
  std::string checkpoint_folder = {};           ///< where checkpoints go; empty: none are made
  bool resume = false;                          ///< go on from the folder's newest checkpoint, if there is one
  on_nonfinite nonfinite = on_nonfinite::stop;  ///< what to do about NaN and infinity
};

/// Throws contract_violation naming the field and its value.
inline void validate(loop_options const& o) {
  expects(o.learning_rate > 0.0 && std::isfinite(o.learning_rate), "loop_options.learning_rate > 0 and finite",
          o.learning_rate);
  expects(o.max_steps > 0 || (o.epochs > 0.0 && o.epochs < 1e9), "loop_options.epochs in (0, 1e9)", o.epochs);
  expects(o.batch_size >= 1, "loop_options.batch_size >= 1", o.batch_size);
  expects(o.max_grad_norm > 0.0, "loop_options.max_grad_norm > 0", o.max_grad_norm);
  expects(o.logging_steps >= 1, "loop_options.logging_steps >= 1", o.logging_steps);
  expects(o.save_steps == 0 || !o.checkpoint_folder.empty(),
          "loop_options.checkpoint_folder, since save_steps is set to", o.save_steps);
  expects(!o.resume || !o.checkpoint_folder.empty(), "loop_options.checkpoint_folder, since resume is set");
}

/// Folds what shapes the run's result into a checksum; how often it reports and saves does not.
inline void describe(loop_options const& o, std::size_t total_steps, checksum64& sum) noexcept {
  sum.update_number(o.learning_rate).update_number(static_cast<std::uint64_t>(o.schedule));
  sum.update_number(static_cast<std::uint64_t>(o.warmup_steps)).update_number(static_cast<std::uint64_t>(total_steps));
  sum.update_number(static_cast<std::uint64_t>(o.batch_size));
  sum.update_number(static_cast<std::uint64_t>(o.micro_batch_tokens)).update_number(o.max_grad_norm);
  sum.update_number(o.seed).update_number(static_cast<std::uint64_t>(o.nonfinite));
}

struct named_value {
  std::string name;
  double value;
};

/// What a run leaves behind besides the model.
struct training_summary {
  std::size_t steps = 0;            ///< optimiser steps of the whole run, skipped ones included
  std::size_t resumed_from = 0;     ///< steps that a checkpoint brought along
  std::size_t skipped_steps = 0;    ///< left out because a loss or gradient was not finite
  std::size_t tokens = 0;           ///< tokens processed in training, prompts included, whole run
  double first_loss = std::numeric_limits<double>::quiet_NaN();  ///< of the first step not skipped
  double last_loss = std::numeric_limits<double>::quiet_NaN();   ///< of the last step not skipped
  double seconds = 0.0;             ///< wall-clock of this process's part
  std::vector<named_value> evaluation;  ///< the last one: "eval_loss", ...; empty without evaluation data
};

}  // namespace attune
