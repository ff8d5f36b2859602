// SPDX-License-Identifier: MIT
#pragma once

#include <array>

#include "tensors.hpp"

// The reader's tensors: xtensor's, or where it is absent something with the interface that matters.
#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
using reader_matrix = xt::xtensor<float, 2>;
#elif __has_include(<xtensor/xtensor.hpp>)
#include <xtensor/xtensor.hpp>
using reader_matrix = xt::xtensor<float, 2>;
#else
struct reader_matrix {
  using expression_tag = void;
  std::array<std::size_t, 2> sizes;
  std::vector<float> memory = std::vector<float>(sizes[0] * sizes[1]);
  float* data() { return memory.data(); }
  std::size_t data_offset() const { return 0; }
  std::size_t dimension() const { return 2; }
  std::array<std::size_t, 2> shape() const { return sizes; }
  std::array<std::ptrdiff_t, 2> strides() const { return {static_cast<std::ptrdiff_t>(sizes[1]), 1}; }
};
#endif
inline std::array<std::size_t, 2> const reader_shape{tokens, vocabulary};
inline reader_matrix scores(reader_shape), gradient(reader_shape);
