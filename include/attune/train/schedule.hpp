// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace attune {

/// The shape of the learning rate after its warm-up.
enum class learning_rate_schedule {
  constant,  ///< 1
  linear,    ///< from 1 down to 0 at the end of the run
  cosine,    ///< half a cosine from 1 down to 0 (Loshchilov & Hutter 2017, eq. 5, one cycle)
};

/// The factor on the peak learning rate in step `step` (counted from 0) of `total_steps`: a pure function, so a resumed
/// run needs no state for it. In [0, 1].
///
/// Warm-up rises as (step + 1) / (warmup_steps + 1) and reaches 1 in step `warmup_steps`; the decay then runs as in
/// TRL, over the steps that remain. TRL's warm-up is step / warmup_steps: its first step has rate 0 and does nothing.
[[nodiscard]] inline double learning_rate_factor(learning_rate_schedule shape, std::size_t step,
                                                 std::size_t warmup_steps, std::size_t total_steps) noexcept {
  if (step < warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(warmup_steps + 1);
  if (shape == learning_rate_schedule::constant) return 1.0;
  std::size_t const decay_steps = total_steps > warmup_steps ? total_steps - warmup_steps : 1;
  double const progress =
      (std::min)(1.0, static_cast<double>(step - warmup_steps) / static_cast<double>(decay_steps));
  if (shape == learning_rate_schedule::linear) return 1.0 - progress;
  return 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

}  // namespace attune
