// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <attune/core/contract.hpp>
#include <attune/core/view.hpp>

/// Products of row-major matrices on a library that knows column-major ones, as BLAS, cuBLAS and cuBLASLt do.
///
/// A row-major matrix read by columns is its own transpose, so C = op(A) op(B) is asked for as C^T = op(B)^T op(A)^T:
/// the factors change places, m and n change places, and each keeps its op. Nothing is copied and no element is touched
/// here; the memory may be a device's.
namespace attune {

enum class transpose : bool { no, yes };

/// The arguments of a BLAS call out = alpha op(first) op(second) + beta out, all column-major: op(first) is m x k,
/// op(second) k x n, out m x n; ld is the distance between columns. T is what the factors are stored in, U the result.
template <class T, class U = T>
struct gemm_call {
  transpose first_op, second_op;
  std::int64_t m, n, k;
  T const* first;
  std::int64_t first_ld;
  T const* second;
  std::int64_t second_ld;
  U* out;
  std::int64_t out_ld;
};

/// The call that computes the row-major C = op(A) op(B). Refuses shapes that do not fit (contract_violation).
template <class T, class U>
[[nodiscard]] constexpr gemm_call<T, U> plan_gemm(transpose a_op, matrix_view<T const> a, transpose b_op,
                                                  matrix_view<T const> b, matrix_view<U> c) {
  std::size_t const m = a_op == transpose::no ? a.rows : a.cols;
  std::size_t const k = a_op == transpose::no ? a.cols : a.rows;
  std::size_t const b_rows = b_op == transpose::no ? b.rows : b.cols;
  std::size_t const n = b_op == transpose::no ? b.cols : b.rows;
  if (b_rows != k) expects(false, "plan_gemm: op(B) with as many rows as op(A) has columns", b_rows);
  if (c.rows != m || c.cols != n) expects(false, "plan_gemm: C with the rows of op(A) and the columns of op(B)");
  if (a.row_stride < a.cols || b.row_stride < b.cols || c.row_stride < c.cols)
    expects(false, "plan_gemm: row_stride >= cols");
  // BLAS refuses a distance of 0, which an empty matrix may have.
  auto const distance = [](std::size_t stride) {
    return stride == 0 ? std::int64_t{1} : static_cast<std::int64_t>(stride);
  };
  return {b_op,
          a_op,
          static_cast<std::int64_t>(n),
          static_cast<std::int64_t>(m),
          static_cast<std::int64_t>(k),
          b.data,
          distance(b.row_stride),
          a.data,
          distance(a.row_stride),
          c.data,
          distance(c.row_stride)};
}

/// A library's product. For g of type G, a call, numbers alpha and beta, and where (a stream, say):
///   g(call, alpha, beta, where)   out = alpha op(first) op(second) + beta out; with beta = 0 out is not read
/// Sums run in float at least. m, n and k may be 0: nothing is written if m or n is, and out = beta out if k is.
template <class G, class Where, class T, class U = T>
concept Gemm = requires(G const& g, gemm_call<T, U> const& call, float x, Where where) {
  g(call, x, x, where);
};

}  // namespace attune
