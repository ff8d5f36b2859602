// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>

#include <attune/core/contract.hpp>

namespace attune {

/// "nan", "inf" or "-inf"; std::to_string has a sign for NaN.
template <class T>
[[nodiscard]] char const* nonfinite_text(T value) noexcept {
  if (std::isnan(value)) return "nan";
  return value > 0 ? "inf" : "-inf";
}

/// Whether every element is, in one pass without a branch: x - x is 0 for a finite x alone.
template <class T>
[[nodiscard]] bool all_finite(std::span<T const> values) noexcept {
  std::size_t broken = 0;
  for (T const x : values) broken += x - x == T(0) ? 0 : 1;
  return broken == 0;
}

/// Throws contract_violation unless every element is finite: "expected dpo_loss: chosen[3] finite, got nan".
/// `name` is "function: field". O(n); a batch loss makes this pass before it writes anything, so that a broken model is
/// named at its first symptom and no slope is half-written.
template <class T>
void expects_finite(std::span<T const> values, char const* name) {
  if (all_finite(values)) [[likely]]
    return;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i])) [[unlikely]]
      throw contract_violation(std::string("expected ") + name + "[" + std::to_string(i) + "] finite, got " +
                               nonfinite_text(values[i]));
}

}  // namespace attune
