// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <Eigen/Core>

#include <attune/core/contract.hpp>
#include <attune/core/view.hpp>

/// Matrix products of row-major views on Eigen, on the calling thread. Threads are the caller's: split the rows.
///
/// Naming follows BLAS: n is "as it is", t is "transposed"; the first letter is the left factor's.
///   gemm_nt   C (m,n)  =  A (m,k) B (n,k)^T     activations times a weight stored (out, in)
///   gemm_nn   C (m,n)  =  A (m,k) B (k,n)       gradients back through that weight
///   gemm_tn   C (m,n)  =  A (k,m)^T B (k,n)     the weight's own gradient
/// With product::add the result is added to C. C aliases neither factor. Eigen may take its packing buffers, about a
/// level-2 cache, from malloc; nothing else is allocated.
///
/// Determinism: one order of summation for given shapes. In gemm_nt and gemm_nn a row of C is the same bits whatever
/// the other rows hold and wherever it stands, as long as m is a multiple of gemm_row_multiple and m + n + k is at
/// least 20 (below that Eigen takes another path): then every row goes through the same register block of Eigen's
/// kernel. Callers pad with zero rows.
namespace attune {

inline constexpr std::size_t gemm_row_multiple = 4;

enum class product { overwrite, add };

/// The smallest multiple of gemm_row_multiple that is >= rows.
[[nodiscard]] constexpr std::size_t padded_rows(std::size_t rows) noexcept {
  return (rows + gemm_row_multiple - 1) / gemm_row_multiple * gemm_row_multiple;
}

template <class T>
using eigen_row_major = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
[[nodiscard]] auto eigen_map(matrix_view<T const> m) {
  return Eigen::Map<eigen_row_major<T> const, Eigen::Unaligned, Eigen::OuterStride<>>(
      m.data, static_cast<Eigen::Index>(m.rows), static_cast<Eigen::Index>(m.cols),
      Eigen::OuterStride<>(static_cast<Eigen::Index>(m.row_stride)));
}

template <class T>
[[nodiscard]] auto eigen_map(matrix_view<T> m) {
  return Eigen::Map<eigen_row_major<T>, Eigen::Unaligned, Eigen::OuterStride<>>(
      m.data, static_cast<Eigen::Index>(m.rows), static_cast<Eigen::Index>(m.cols),
      Eigen::OuterStride<>(static_cast<Eigen::Index>(m.row_stride)));
}

template <class T>
void gemm_nt(matrix_view<T const> a, matrix_view<T const> b, matrix_view<T> c, product how = product::overwrite) {
  expects(a.cols == b.cols && c.rows == a.rows && c.cols == b.rows, "gemm_nt: (m,k) (n,k) (m,n)");
  if (how == product::add)
    eigen_map(c).noalias() += eigen_map(a) * eigen_map(b).transpose();
  else
    eigen_map(c).noalias() = eigen_map(a) * eigen_map(b).transpose();
}

template <class T>
void gemm_nn(matrix_view<T const> a, matrix_view<T const> b, matrix_view<T> c, product how = product::overwrite) {
  expects(a.cols == b.rows && c.rows == a.rows && c.cols == b.cols, "gemm_nn: (m,k) (k,n) (m,n)");
  if (how == product::add)
    eigen_map(c).noalias() += eigen_map(a) * eigen_map(b);
  else
    eigen_map(c).noalias() = eigen_map(a) * eigen_map(b);
}

template <class T>
void gemm_tn(matrix_view<T const> a, matrix_view<T const> b, matrix_view<T> c, product how = product::overwrite) {
  expects(a.rows == b.rows && c.rows == a.cols && c.cols == b.cols, "gemm_tn: (k,m) (k,n) (m,n)");
  if (how == product::add)
    eigen_map(c).noalias() += eigen_map(a).transpose() * eigen_map(b);
  else
    eigen_map(c).noalias() = eigen_map(a).transpose() * eigen_map(b);
}

}  // namespace attune
