// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>

namespace attune {

struct metric {
  std::string_view name;  ///< TRL's spelling: "loss", "rewards/margins", "eval_loss"
  double value;
};

enum class report_kind {
  start,     ///< once, before the first step; no metrics
  progress,  ///< after a step that is not logged; loss only
  log,       ///< every logging_steps: averages since the last one
  evaluation,
  finish,  ///< once, after the last step
};

/// What a training loop tells the world. Views live for the call only.
struct report {
  report_kind kind = report_kind::log;
  std::string_view stage = {};  ///< "sft", "reward_model", "dpo"
  std::size_t step = 0;         ///< optimiser steps done
  std::size_t total_steps = 0;  ///< of the whole run
  double epoch = 0.0;
  std::size_t tokens = 0;       ///< tokens processed since the run began (this process)
  double seconds = 0.0;         ///< wall-clock since the run began (this process)
  std::span<metric const> metrics = {};
};

/// Any callable that takes a report: a terminal line, a JSONL file, a plot. Sinks are called from the training thread,
/// in order; what they throw stops the run.
template <class S>
concept ReportSink = std::invocable<S&, report const&>;

}  // namespace attune
