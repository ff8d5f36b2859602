// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include <attune/backend/eigen_gemm.hpp>
#include <attune/core/view.hpp>
#include <attune/kernel/vector_exp.hpp>

/// Causal softmax attention of one sequence and one key/value head, with its group of query heads (Vaswani et al. 2017,
/// eq. 1; grouped queries: Ainslie et al. 2023). Probabilities are never stored: the backward pass rebuilds them from
/// the log-normalisers (Dao et al. 2022), a block of query rows at a time, so scratch grows with the length and not
/// with its square. Future keys are not computed. Allocates nothing but Eigen's packing buffers.
///
/// Determinism: the result depends on the sequence alone; query heads are taken in order.
namespace attune {

/// Views of one sequence (L rows) in packed activations; row strides are those of the packed rows.
template <class T>
struct attention_group {
  matrix_view<T const> q;  // (L, group * head_dim): the query heads that share the key/value head
  matrix_view<T const> k;  // (L, head_dim)
  matrix_view<T const> v;  // (L, head_dim)
  std::size_t heads;       // group
};

inline constexpr std::size_t attention_block = 64;  // query rows at a time

/// Elements of scratch that one worker needs for sequences up to `length`.
[[nodiscard]] constexpr std::size_t attention_scratch(std::size_t length) noexcept {
  return 2 * attention_block * ((length + 15) / 16 * 16);
}

template <class T>
[[nodiscard]] matrix_view<T const> columns(matrix_view<T const> m, std::size_t first, std::size_t count) noexcept {
  return {m.data + first, m.rows, count, m.row_stride};
}

template <class T>
[[nodiscard]] matrix_view<T> columns(matrix_view<T> m, std::size_t first, std::size_t count) noexcept {
  return {m.data + first, m.rows, count, m.row_stride};
}

/// row[j] = softmax(scale * row[0 .. seen))[j] for j < seen and 0 for seen <= j < keys; returns the log-normaliser.
template <class T>
T softmax_of_prefix(T* row, std::size_t seen, std::size_t keys, T scale) noexcept {
  // Sixteen lanes in a fixed order: vectorised, and the same bits for any alignment.
  constexpr std::size_t width = 16;
  std::size_t const whole = seen - seen % width;
  T lane[width];
  std::fill_n(lane, width, row[0]);
  for (std::size_t j = 0; j < whole; j += width)
    for (std::size_t i = 0; i < width; ++i) lane[i] = row[j + i] > lane[i] ? row[j + i] : lane[i];
  for (std::size_t j = whole; j < seen; ++j) lane[j - whole] = (std::max)(lane[j - whole], row[j]);
  T const maximum = *std::max_element(lane, lane + width);

  for (std::size_t j = 0; j < seen; ++j) row[j] = (row[j] - maximum) * scale;
  vector_exp(row, seen);
  std::fill_n(lane, width, T(0));
  for (std::size_t j = 0; j < whole; j += width)
    for (std::size_t i = 0; i < width; ++i) lane[i] += row[j + i];
  for (std::size_t j = whole; j < seen; ++j) lane[j - whole] += row[j];
  T const sum = std::accumulate(lane, lane + width, T(0));
  T const inverse = T(1) / sum;
  for (std::size_t j = 0; j < seen; ++j) row[j] *= inverse;
  std::fill(row + seen, row + keys, T(0));
  return maximum * scale + std::log(sum);
}

/// out (L, group * head_dim) and log_normalizers[i * stride + h], both overwritten.
template <class T>
void causal_attention(attention_group<T> in, matrix_view<T> out, T* log_normalizers, std::size_t stride, T* scratch) {
  std::size_t const length = in.k.rows;
  std::size_t const dim = in.k.cols;
  std::size_t const row_stride = (length + 15) / 16 * 16;
  T const scale = T(1) / std::sqrt(static_cast<T>(dim));
  for (std::size_t h = 0; h < in.heads; ++h)
    for (std::size_t first = 0; first < length; first += attention_block) {
      std::size_t const rows = (std::min)(attention_block, length - first);
      std::size_t const keys = first + rows;
      matrix_view<T> const p{scratch, rows, keys, row_stride};
      gemm_nt<T>(columns(in.q.middle_rows(first, rows), h * dim, dim), in.k.middle_rows(0, keys), p);
      for (std::size_t i = 0; i < rows; ++i)
        log_normalizers[(first + i) * stride + h] = softmax_of_prefix(p.row(i), first + i + 1, keys, scale);
      gemm_nn<T>(p, in.v.middle_rows(0, keys), columns(out.middle_rows(first, rows), h * dim, dim));
    }
}

/// The adjoint: given out and d_out, writes dq (L, group * head_dim), dk and dv (L, head_dim), all overwritten.
template <class T>
void causal_attention_adjoint(attention_group<T> in, matrix_view<T const> out, matrix_view<T const> d_out,
                              T const* log_normalizers, std::size_t stride, matrix_view<T> dq, matrix_view<T> dk,
                              matrix_view<T> dv, T* scratch) {
  std::size_t const length = in.k.rows;
  std::size_t const dim = in.k.cols;
  std::size_t const row_stride = (length + 15) / 16 * 16;
  T const scale = T(1) / std::sqrt(static_cast<T>(dim));
  for (std::size_t i = 0; i < length; ++i) {
    std::fill_n(dk.row(i), dim, T(0));
    std::fill_n(dv.row(i), dim, T(0));
  }
  for (std::size_t h = 0; h < in.heads; ++h)
    for (std::size_t first = 0; first < length; first += attention_block) {
      std::size_t const rows = (std::min)(attention_block, length - first);
      std::size_t const keys = first + rows;
      matrix_view<T> const p{scratch, rows, keys, row_stride};
      matrix_view<T> const ds{scratch + attention_block * row_stride, rows, keys, row_stride};
      auto const q = columns(in.q.middle_rows(first, rows), h * dim, dim);
      auto const d_rows = columns(d_out.middle_rows(first, rows), h * dim, dim);
      auto const out_rows = columns(out.middle_rows(first, rows), h * dim, dim);
      gemm_nt<T>(q, in.k.middle_rows(0, keys), p);
      gemm_nt<T>(d_rows, in.v.middle_rows(0, keys), ds);
      for (std::size_t i = 0; i < rows; ++i) {
        T* const row = p.row(i);
        T* const d_row = ds.row(i);
        std::size_t const seen = first + i + 1;
        T const normalizer = log_normalizers[(first + i) * stride + h];
        T projection = 0;  // sum_j p_ij dp_ij, had cheaper as d_out . out
        for (std::size_t c = 0; c < dim; ++c) projection += d_rows(i, c) * out_rows(i, c);
        for (std::size_t j = 0; j < seen; ++j) row[j] = row[j] * scale - normalizer;
        vector_exp(row, seen);
        for (std::size_t j = 0; j < seen; ++j) d_row[j] = row[j] * (d_row[j] - projection) * scale;
        std::fill(row + seen, row + keys, T(0));
        std::fill(d_row + seen, d_row + keys, T(0));
      }
      gemm_nn<T>(ds, in.k.middle_rows(0, keys), columns(dq.middle_rows(first, rows), h * dim, dim));
      gemm_tn<T>(ds, q, dk.middle_rows(0, keys), product::add);
      gemm_tn<T>(p, d_rows, dv.middle_rows(0, keys), product::add);
    }
}

}  // namespace attune
