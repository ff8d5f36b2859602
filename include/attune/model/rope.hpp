// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

/// Rotary position embedding (Su et al. 2021, eq. 34) on adjacent pairs (2i, 2i+1) of a head, the layout of Meta's
/// Llama and of GGUF files: angle = position * theta^(-2i / head_dim).
namespace attune {

template <class T>
class rope_table {
 public:
  rope_table() = default;

  rope_table(std::size_t window, std::size_t head_dim, double theta) : half_(head_dim / 2) {
    cosine_.resize(window * half_);
    sine_.resize(window * half_);
    for (std::size_t p = 0; p < window; ++p)
      for (std::size_t i = 0; i < half_; ++i) {
        double const angle =
            static_cast<double>(p) * std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
        cosine_[p * half_ + i] = static_cast<T>(std::cos(angle));
        sine_[p * half_ + i] = static_cast<T>(std::sin(angle));
      }
  }

  /// Rotates `heads` consecutive heads of one token at `position`, in place.
  void rotate(T* x, std::size_t heads, std::size_t position) const noexcept { turn(x, heads, position, T(1)); }

  /// The adjoint, which is the inverse rotation.
  void rotate_back(T* x, std::size_t heads, std::size_t position) const noexcept { turn(x, heads, position, T(-1)); }

 private:
  void turn(T* x, std::size_t heads, std::size_t position, T sign) const noexcept {
    T const* const c = cosine_.data() + position * half_;
    T const* const s = sine_.data() + position * half_;
    for (std::size_t h = 0; h < heads; ++h, x += 2 * half_)
      for (std::size_t i = 0; i < half_; ++i) {
        T const a = x[2 * i];
        T const b = x[2 * i + 1];
        x[2 * i] = a * c[i] - sign * b * s[i];
        x[2 * i + 1] = sign * a * s[i] + b * c[i];
      }
  }

  std::size_t half_ = 0;
  std::vector<T> cosine_;  // (window, head_dim / 2)
  std::vector<T> sine_;
};

}  // namespace attune
