// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <attune/core/lanes.hpp>

namespace attune {

/// values[i] = exp(values[i]), in place; accuracy and range are those of lanes<T>::exp. Bits depend on the value alone,
/// not on its place or on the pointer's alignment.
template <class T>
void vector_exp(T* values, std::size_t count) noexcept {
  using group = lane_group<T>;
  std::size_t const whole = count - count % group::size;
  for (std::size_t i = 0; i < whole; i += group::size) {
    group g = group::load(values + i);
    for (auto& part : g.part) part = lanes<T>::exp(part);
    g.store(values + i);
  }
  if (whole < count) {
    group g = group::load(values + whole, count - whole, T(0));
    for (auto& part : g.part) part = lanes<T>::exp(part);
    g.store(values + whole, count - whole);
  }
}

}  // namespace attune
