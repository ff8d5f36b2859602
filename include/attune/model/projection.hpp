// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include <attune/core/sequences.hpp>
#include <attune/core/view.hpp>

/// One number read off a hidden state: y = w . h. What the reward model and the critics have in common. Sums run in
/// double; adjoints add. Nothing is allocated.
namespace attune {

/// w (D), h (D).
template <class T>
[[nodiscard]] double project(std::span<T const> w, T const* h) noexcept {
  double sum = 0.0;
  for (std::size_t i = 0; i < w.size(); ++i) sum += static_cast<double>(w[i]) * static_cast<double>(h[i]);
  return sum;
}

/// d_h += slope * w, d_w += slope * h; all (D).
template <class T>
void project_adjoint(T slope, std::span<T const> w, T const* h, T* d_h, std::span<T> d_w) noexcept {
  for (std::size_t i = 0; i < w.size(); ++i) {
    d_h[i] += slope * w[i];
    d_w[i] += slope * h[i];
  }
}

/// out[t] = w . hidden[t - 1] where the mask is 1, 0 elsewhere: the value before token t, which the hidden state of
/// t - 1 has seen everything of. hidden (total_tokens, D), out (total_tokens). Expects a valid s, where no first token
/// is masked in.
template <class T>
void project_values(std::span<T const> w, matrix_view<T const> hidden, sequences_view s, std::span<T> out) noexcept {
  for (std::size_t t = 0; t < s.total_tokens(); ++t)
    out[t] = s.mask[t] != 0 ? static_cast<T>(project(w, hidden.row(t - 1))) : T(0);
}

/// Adds to d_hidden (total_tokens, D) and d_w (D); slopes where the mask is 0 are not looked at.
template <class T>
void project_values_adjoint(std::span<T const> slopes, std::span<T const> w, matrix_view<T const> hidden,
                            sequences_view s, matrix_view<T> d_hidden, std::span<T> d_w) noexcept {
  for (std::size_t t = 0; t < s.total_tokens(); ++t)
    if (s.mask[t] != 0) project_adjoint(slopes[t], w, hidden.row(t - 1), d_hidden.row(t - 1), d_w);
}

}  // namespace attune
