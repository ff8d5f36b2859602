// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <attune/concepts/backend.hpp>
#include <attune/core/random.hpp>
#include <attune/core/view.hpp>

/// Rows of logits of any storage that begin anywhere, surrounded by elements that nothing may touch, and the same rows in
/// double.
template <class S>
struct logit_rows {
  std::size_t rows, cols, stride, shift;
  std::vector<S> memory;
  std::vector<double> wide;  // (rows, cols)
  std::vector<attune::token_id> targets;

  static constexpr float around = 77.0f;

  /// `shift`: elements between an address that is a multiple of sixteen and the first row.
  logit_rows(std::size_t n, std::size_t v, std::size_t between = 0, std::size_t first = 0, std::uint64_t seed = 1,
             double spread = 3.0)
      : rows(n), cols(v), stride(v + between), shift(first), memory(n * stride + first + 16, S(around)), wide(n * v),
        targets(n) {
    attune::random_stream random(seed);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t c = 0; c < v; ++c) set(i, c, static_cast<float>(spread * random.normal()));
      targets[i] = static_cast<attune::token_id>(random.below(v));
    }
  }

  S* data() {
    std::size_t const past = reinterpret_cast<std::uintptr_t>(memory.data()) % 16 / sizeof(S);  // 0 of any usual allocator
    return memory.data() + (past == 0 ? 0 : 16 / sizeof(S) - past) + shift;
  }
  attune::matrix_view<S> view() { return {data(), rows, cols, stride}; }
  attune::matrix_view<double const> wide_view() const { return {wide.data(), rows, cols, cols}; }
  void set(std::size_t i, std::size_t c, float x) {
    view()(i, c) = S(x);
    wide[i * cols + c] = static_cast<double>(static_cast<float>(S(x)));
  }

  /// Whether what is no row's is as it was.
  bool surroundings_untouched() {
    std::vector<S> seen = memory;
    S* const start = seen.data() + (data() - memory.data());
    for (std::size_t i = 0; i < rows; ++i) std::fill_n(start + i * stride, cols, S(around));
    return std::all_of(seen.begin(), seen.end(), [](S x) { return static_cast<float>(x) == around; });
  }
};

/// |a - b|, 0 where both are the same infinity or both NaN, infinite where one alone is.
inline double far_apart(double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0.0;
  double const d = std::abs(a - b);
  return std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
}
