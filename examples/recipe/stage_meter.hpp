// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

#include "figures.hpp"
#include "process_memory.hpp"

namespace recipe {

/// What a stage costs, from construction to reading. `flops` are a model's counter at these two moments.
class stage_meter {
 public:
  explicit stage_meter(double flops) : flops_(flops) { reset_peak_memory(); }

  costs read(double flops) const {
    return {.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(),
            .flops = flops - flops_,
            .peak_rss_mb = peak_memory_mb()};
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  double flops_;
};

}  // namespace recipe
