// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>

#include <Eigen/Core>

#include <attune/core/view.hpp>

/// Root-mean-square normalisation of rows (Zhang & Sennrich 2019, eq. 4):
///   y = gain * x / sqrt(mean(x^2) + epsilon).
/// Allocates nothing; y may be x in the forward pass. Each row's result depends on that row alone.
namespace attune {

/// Writes y (rows, dim) and, per row, scale = 1 / sqrt(mean(x^2) + epsilon), which the backward pass reads.
template <class T>
void rms_norm(matrix_view<T const> x, T const* gain, T epsilon, matrix_view<T> y, T* scale) noexcept {
  for (std::size_t r = 0; r < x.rows; ++r) {
    T const* const in = x.row(r);
    T* const out = y.row(r);
    // Eight partial sums in a fixed order: vectorised, and the same bits for any alignment.
    T partial[8] = {};
    std::size_t i = 0;
    for (; i + 8 <= x.cols; i += 8)
      for (std::size_t j = 0; j < 8; ++j) partial[j] += in[i + j] * in[i + j];
    for (; i < x.cols; ++i) partial[0] += in[i] * in[i];
    T const sum = ((partial[0] + partial[4]) + (partial[1] + partial[5])) +
                  ((partial[2] + partial[6]) + (partial[3] + partial[7]));
    T const s = T(1) / std::sqrt(sum / static_cast<T>(x.cols) + epsilon);
    scale[r] = s;
    for (std::size_t j = 0; j < x.cols; ++j) out[j] = gain[j] * (s * in[j]);
  }
}

/// Given dy, adds dL/dx to dx and dL/dgain to dgain. With xhat = scale * x:
///   dgain += dy * xhat,   dx += scale * (gain * dy - xhat * mean(gain * dy * xhat)).
template <class T>
void rms_norm_adjoint(matrix_view<T const> x, T const* gain, T const* scale, matrix_view<T const> dy, matrix_view<T> dx,
                      T* dgain) noexcept {
  using row = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1> const>;
  using mutable_row = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
  auto const dim = static_cast<Eigen::Index>(x.cols);
  row const g(gain, dim);
  mutable_row dg(dgain, dim);
  for (std::size_t r = 0; r < x.rows; ++r) {
    row const in(x.row(r), dim);
    row const out_gradient(dy.row(r), dim);
    mutable_row in_gradient(dx.row(r), dim);
    T const s = scale[r];
    T const projection = (g * out_gradient * in).sum() * s / static_cast<T>(dim);  // mean(gain * dy * xhat)
    dg += out_gradient * in * s;
    in_gradient += s * (g * out_gradient - in * (s * projection));
  }
}

}  // namespace attune
