// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include <attune/core/host_device.hpp>

namespace attune {

/// A row-major matrix in somebody else's memory: rows x cols, consecutive elements of a row adjacent, rows
/// `row_stride` elements apart (row_stride >= cols). Owns nothing; copying it copies the view. Host or device memory:
/// only code that runs where the memory lives may dereference it.
template <class T>
struct matrix_view {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t row_stride = 0;

  ATTUNE_HOST_DEVICE T* row(std::size_t r) const noexcept { return data + r * row_stride; }
  ATTUNE_HOST_DEVICE T& operator()(std::size_t r, std::size_t c) const noexcept { return row(r)[c]; }

  /// Rows [first, first + count).
  ATTUNE_HOST_DEVICE matrix_view middle_rows(std::size_t first, std::size_t count) const noexcept {
    return {row(first), count, cols, row_stride};
  }

  // A view of mutable elements serves where one of constant elements is wanted. A template, because a class that has a
  // conversion to itself written in it is warned of by nvcc, whatever is required.
  template <class C>
    requires(!std::is_const_v<T> && std::is_same_v<C, T const>)
  ATTUNE_HOST_DEVICE operator matrix_view<C>() const noexcept {
    return {data, rows, cols, row_stride};
  }
};

/// A compact matrix: row_stride = cols.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE constexpr matrix_view<T> as_matrix(T* data, std::size_t rows,
                                                                    std::size_t cols) noexcept {
  return {data, rows, cols, cols};
}

}  // namespace attune
