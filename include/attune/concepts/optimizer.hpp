// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <string_view>

namespace attune {

struct optimizer_step {
  double learning_rate = 0.0;                                          ///< of this step; >= 0
  double max_grad_norm = std::numeric_limits<double>::infinity();  ///< gradients are scaled to this global norm at most
};

struct optimizer_report {
  double grad_norm = 0.0;  ///< global L2 norm before clipping
  bool finite = true;      ///< false: a gradient was NaN or infinite, and nothing was changed but the gradients zeroed
};

/// Whatever turns a model's gradients into new parameters. It owns every touch of parameter memory between two
/// accumulations (norm, clipping, update, zeroing), so the loop works unchanged for memory on a device.
///
///   o.step(model, optimizer_step)   -> optimizer_report
///   o.zero_gradient(model)          sets the gradients to zero, updates nothing
///   o.visit_state(model, f)         calls f(std::string_view name, std::span<std::byte>) for every piece of state that
///                                   a checkpoint must hold, in a fixed order; writing the spans back restores it
///
/// Laws (checked by testing::check_optimizer_laws): after step and zero_gradient all gradients are zero; with
/// learning_rate = 0 parameters keep their bits; equal state and gradients give equal bits; a gradient that is not
/// finite leaves parameters and state as they were and is reported.
/// Modelled by: adamw.
template <class O, class Model>
concept Optimizer = requires(O& o, Model& m, optimizer_step s) {
  { o.step(m, s) } -> std::same_as<optimizer_report>;
  { o.zero_gradient(m) } -> std::same_as<void>;
  o.visit_state(m, [](std::string_view, std::span<std::byte>) {});
};

}  // namespace attune
