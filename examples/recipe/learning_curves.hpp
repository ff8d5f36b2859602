// SPDX-License-Identifier: MIT
#pragma once

#include <attune/io/terminal_sink.hpp>

#include "../report/svg.hpp"

namespace recipe {

using namespace report;

/// A report sink that shows a stage on the terminal under the recipe's own name for it, and keeps its curves. A line is
/// printed for every tenth log report, a point of the curve kept for each.
class learning_curves {
 public:
  explicit learning_curves(std::string stage) : stage_(std::move(stage)), terminal_(stdout) {}

  void operator()(attune::report const& r) {
    attune::report shown = r;
    shown.stage = stage_;
    if (r.kind == attune::report_kind::log) {
      for (attune::metric const& m : r.metrics) {
        if (m.name == "loss") add(loss_, r.step, m.value);
        if (m.name == "accuracy" || m.name == "rewards/accuracies") add(accuracy_, r.step, m.value);
        if (m.name == "objective/scores") add(score_, r.step, m.value);
        if (m.name == "objective/kl") add(kl_, r.step, m.value);
      }
      if (++logs_ % 10 != 0 && r.step != r.total_steps) shown.kind = attune::report_kind::progress;
    }
    terminal_(shown);
  }

  series loss(std::string name) const { return {std::move(name), loss_.x, loss_.y, 1}; }
  series score(std::string name, std::size_t colour) const { return {std::move(name), score_.x, score_.y, colour}; }
  series kl(std::string name, std::size_t colour) const { return {std::move(name), kl_.x, kl_.y, colour}; }
  series accuracy(std::string name, std::size_t colour = 1) const {
    return {std::move(name), accuracy_.x, accuracy_.y, colour};
  }

 private:
  static void add(series& to, std::size_t step, double value) {
    to.x.push_back(static_cast<double>(step));
    to.y.push_back(value);
  }

  std::string stage_;
  attune::terminal_sink terminal_;
  series loss_, accuracy_, score_, kl_;
  std::size_t logs_ = 0;
};

}  // namespace recipe
