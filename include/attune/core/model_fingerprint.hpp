// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

#include <attune/core/checksum.hpp>
#include <attune/core/parameter.hpp>

namespace attune {

/// A 64-bit identity of a model's architecture: names, shapes and element size of its parameters, not their values.
/// Takes anything with parameters(). Allocates nothing.
template <class Model>
[[nodiscard]] std::uint64_t shape_fingerprint(Model& model) {
  checksum64 sum;
  for (auto&& p : model.parameters()) {
    sum.update_number(static_cast<std::uint64_t>(p.name.size())).update(p.name);
    for (std::size_t const extent : p.shape) sum.update_number(static_cast<std::uint64_t>(extent));
    sum.update_number(static_cast<std::uint64_t>(p.value.size()));
    sum.update_number(static_cast<std::uint64_t>(sizeof(p.value[0])));
  }
  return sum.value();
}

/// A 64-bit identity of a model: its architecture, every bit of its parameters and, where it has one that is not 1, its
/// temperature, since what is computed from a model (a cache of log-probabilities, say) hangs on all three.
/// O(parameters). A model without parameters() (frozen, a remote one) answers for itself with a member `fingerprint()`.
template <class Model>
[[nodiscard]] std::uint64_t model_fingerprint(Model& model) {
  if constexpr (requires { model.fingerprint(); }) {
    return static_cast<std::uint64_t>(model.fingerprint());
  } else {
    checksum64 sum(shape_fingerprint(model));
    for (auto&& p : model.parameters()) sum.update(std::as_bytes(p.value));
    if constexpr (requires { model.temperature(); })
      if (model.temperature() != 1.0) sum.update_number(static_cast<double>(model.temperature()));
    return sum.value();
  }
}

}  // namespace attune
