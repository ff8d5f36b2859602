// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>

#include <attune/backend/eigen_gemm.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>

namespace attune {

/// to[i] = To(from[i]) for `count` elements; to does not overlap from.
template <class From, class To>
void convert(From const* from, std::size_t count, To* to) noexcept {
  if constexpr (std::same_as<From, To>)
    std::copy_n(from, count, to);
  else
    for (std::size_t i = 0; i < count; ++i) to[i] = To(from[i]);
}

/// A head (V, D) as matrix products want it, in T. In sixteen bits it is widened, a block of rows at a time, into
/// memory that each thread has of its own; in T already it is read where it lies, and no such memory is needed.
///
/// Borrows the head and the memory, and allocates nothing beside Eigen's packing buffers. Different threads may call it
/// at once, each under its own number.
template <StorageScalar S>
class eigen_head {
 public:
  using T = arithmetic_t<S>;

  static constexpr bool widens = !std::same_as<S, T>;
  static constexpr std::size_t block = 192;  // a task of a product; a multiple of Eigen's register blocks

  /// Elements of memory that each thread needs: a block, or two less an entry where the last takes what is left over.
  static constexpr std::size_t elements_per_thread(std::size_t vocabulary, std::size_t width) noexcept {
    return widens ? (std::min)(vocabulary, 2 * block) * width : 0;
  }

  /// room: elements_per_thread(head.rows, head.cols) for each thread, end to end; may be null if that is 0.
  eigen_head(matrix_view<S const> head, T* room) noexcept : head_(head), room_(room) {}

  /// Rows [first, first + count) of the head, fewer than two blocks, until this thread asks for others.
  matrix_view<T const> rows(std::size_t first, std::size_t count, std::size_t thread) const noexcept {
    if constexpr (widens) {
      T* const to = room_ + thread * elements_per_thread(head_.rows, head_.cols);
      for (std::size_t r = 0; r < count; ++r) convert(head_.row(first + r), head_.cols, to + r * head_.cols);
      return as_matrix<T const>(to, count, head_.cols);
    } else {
      return head_.middle_rows(first, count);
    }
  }

  /// to (n, D) = dlogits (n, V) times the head; a head that is widened block by block is added up in this order.
  void multiply(matrix_view<T const> dlogits, matrix_view<T> to, std::size_t thread) const {
    std::size_t const step = widens ? block : head_.rows;
    for (std::size_t first = 0; first < head_.rows; first += step) {
      std::size_t const count = (std::min)(step, head_.rows - first);
      gemm_nn<T>({dlogits.data + first, dlogits.rows, count, dlogits.row_stride}, rows(first, count, thread), to,
                 first == 0 ? product::overwrite : product::add);
    }
  }

 private:
  matrix_view<S const> head_;
  T* room_;
};

}  // namespace attune
