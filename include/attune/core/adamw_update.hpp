// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>

#include <attune/core/host_device.hpp>

namespace attune {

/// The numbers of one AdamW step, bias corrections folded in once per step (Loshchilov & Hutter 2019, algorithm 2;
/// PyTorch's torch.optim.AdamW computes the same: decay is decoupled and scaled by the learning rate, epsilon is added
/// after the corrected square root).
template <class T>
struct adamw_update {
  T beta1;            ///< in [0, 1)
  T beta2;            ///< in [0, 1)
  T epsilon;          ///< > 0
  T step_size;        ///< learning_rate / (1 - beta1^t)
  T second_scale;     ///< 1 / sqrt(1 - beta2^t)
  T decay;            ///< 1 - learning_rate * weight_decay
  T gradient_scale;   ///< clipping: every gradient is multiplied by it

  /// One element, in place: the moments and the value.
  ATTUNE_HOST_DEVICE void operator()(T& value, T gradient, T& first, T& second) const noexcept {
    using std::sqrt;
    T const g = gradient * gradient_scale;
    first = beta1 * first + (T(1) - beta1) * g;
    second = beta2 * second + (T(1) - beta2) * g * g;
    value = value * decay - step_size * first / (sqrt(second) * second_scale + epsilon);
  }
};

}  // namespace attune
