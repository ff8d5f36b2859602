// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

namespace attune {

/// One named parameter tensor of a model: two views into the model's own memory.
///
/// value and gradient have equal length and stable addresses for the life of the model; the name is unique in it and
/// outlives the view. Gradients are added to, never overwritten, by accumulate_gradient; whoever steps sets them to
/// zero. decay says whether weight decay applies: true for matrices, false for norms, biases and embeddings by custom.
template <class T>
struct parameter {
  std::string_view name;
  std::span<T> value;
  std::span<T> gradient;
  std::array<std::size_t, 2> shape{};  // (rows, cols), row-major; a vector has rows = 1
  bool decay = true;
};

}  // namespace attune
