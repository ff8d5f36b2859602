// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <type_traits>

#include <attune/core/view.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::cuda {

/// How the gradient of a chunk's logits is stored where S has 16 bits, as a factor of the products that make dhidden and
/// dhead. For float it makes no difference. In f16 an element below 6e-8 is lost either way, as it is in dhidden: scale the
/// loss.
enum class logit_gradients {
  split,    ///< as a sum of two of S, to 16 places (bf16) or 22 (f16), for two products more
  rounded,  ///< each element rounded to S once, as a framework's gradients of such logits are; in bf16, whose rounding is
            ///< 2^-8, not within what the concept's laws grant dhidden and dhead
};

/// Where a chunk's matrices lie in a workspace that begins at a multiple of 16 bytes. Their rows do too, whatever the
/// vocabulary and the width.
template <class S>
struct chunk_workspace {
  matrix_view<float> logits;  // (rows, V)
  matrix_view<S> dlogits;     // (rows, V); the logits themselves where S is float
  matrix_view<S> rests;       // (rows, V): what dlogits left; null unless split
  matrix_view<S> hidden;      // (rows, D)

  static constexpr bool in_place = std::is_same_v<S, float>;

  [[nodiscard]] static constexpr std::size_t bytes(std::size_t rows, std::size_t vocabulary, std::size_t width,
                                                   logit_gradients gradients) noexcept {
    std::size_t const copies = in_place ? 0 : gradients == logit_gradients::split ? 2 : 1;
    return rows * (padded<float>(vocabulary) * sizeof(float) + copies * padded<S>(vocabulary) * sizeof(S) +
                   padded<S>(width) * sizeof(S));
  }

  [[nodiscard]] static chunk_workspace in(std::byte* memory, std::size_t rows, std::size_t vocabulary,
                                          std::size_t width, logit_gradients gradients) noexcept {
    auto const take = [&]<class T>(matrix_view<T>& m, std::size_t cols) {
      m = {reinterpret_cast<T*>(memory), rows, cols, padded<T>(cols)};
      memory += rows * m.row_stride * sizeof(T);
    };
    chunk_workspace w;
    take(w.logits, vocabulary);
    take(w.hidden, width);
    if constexpr (in_place) {
      w.dlogits = w.logits;
    } else {
      take(w.dlogits, vocabulary);
      if (gradients == logit_gradients::split) take(w.rests, vocabulary);
    }
    return w;
  }

 private:
  template <class T>
  static constexpr std::size_t padded(std::size_t cols) noexcept {
    constexpr std::size_t width = pack<T>::size;
    return (cols + width - 1) / width * width;
  }
};

}  // namespace attune::cuda
