// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <attune/core/view.hpp>
#include <attune/kernel/vector_exp.hpp>

/// The gated feed-forward activation (Shazeer 2020, eq. 6): h = silu(gate) * up, silu(a) = a / (1 + exp(-a)).
/// gate and up lie side by side in one row of width 2F, as one product writes them. Allocates nothing.
namespace attune {

/// h (rows, F) from gate_up (rows, 2F).
template <class T>
void swiglu(matrix_view<T const> gate_up, matrix_view<T> h) noexcept {
  for (std::size_t r = 0; r < h.rows; ++r) {
    T const* const gate = gate_up.row(r);
    T const* const up = gate + h.cols;
    T* const out = h.row(r);
    for (std::size_t i = 0; i < h.cols; ++i) out[i] = -gate[i];
    vector_exp(out, h.cols);
    for (std::size_t i = 0; i < h.cols; ++i) out[i] = gate[i] / (T(1) + out[i]) * up[i];
  }
}

/// Given dh, writes d(gate_up) and h again (the weight gradient of the next product needs it). d_gate_up aliases none.
///   d gate = dh * up * s (1 + gate (1 - s)),   d up = dh * silu(gate),   s = 1 / (1 + exp(-gate)).
template <class T>
void swiglu_adjoint(matrix_view<T const> gate_up, matrix_view<T const> dh, matrix_view<T> d_gate_up,
                    matrix_view<T> h) noexcept {
  for (std::size_t r = 0; r < h.rows; ++r) {
    T const* const gate = gate_up.row(r);
    T const* const up = gate + h.cols;
    T const* const gradient = dh.row(r);
    T* const out = h.row(r);
    T* const d_gate = d_gate_up.row(r);
    T* const d_up = d_gate + h.cols;
    for (std::size_t i = 0; i < h.cols; ++i) out[i] = -gate[i];
    vector_exp(out, h.cols);
    for (std::size_t i = 0; i < h.cols; ++i) {
      T const s = T(1) / (T(1) + out[i]);
      T const silu = gate[i] * s;
      d_gate[i] = gradient[i] * up[i] * s * (T(1) + gate[i] * (T(1) - s));
      d_up[i] = gradient[i] * silu;
      out[i] = silu * up[i];
    }
  }
}

}  // namespace attune
