// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>

#include <attune/backend/backend_contract.hpp>
#include <attune/core/adamw_update.hpp>
#include <attune/core/contract.hpp>

namespace attune {

/// The operations of concepts/backend.hpp that are not about logits, as plain loops over host memory: a backend
/// inherits them and writes its own of those that it does better. Sums run in double, first to last. Throws
/// contract_violation for sizes that disagree; allocates nothing.
template <std::floating_point T>
struct host_operations {
  void segment_sum(std::span<T const> values, std::span<std::size_t const> offsets, std::span<T> out) const {
    expects_segments(offsets, out.size(), values.size());
    for (std::size_t b = 0; b < out.size(); ++b) {
      double sum = 0.0;
      for (std::size_t t = offsets[b]; t < offsets[b + 1]; ++t) sum += static_cast<double>(values[t]);
      out[b] = static_cast<T>(sum);
    }
  }

  void segment_broadcast(std::span<T const> values, std::span<std::size_t const> offsets, std::span<T> out) const {
    expects_segments(offsets, values.size(), out.size());
    for (std::size_t b = 0; b < values.size(); ++b)
      std::fill_n(out.data() + offsets[b], offsets[b + 1] - offsets[b], values[b]);
  }

  double squared_norm(std::span<T const> values) const noexcept {
    double sum = 0.0;
    for (T const x : values) sum += static_cast<double>(x) * static_cast<double>(x);
    return sum;
  }

  void adamw(adamw_update<T> update, std::span<T> value, std::span<T const> gradient, std::span<T> first,
             std::span<T> second) const {
    expects(gradient.size() == value.size() && first.size() == value.size() && second.size() == value.size(),
            "adamw: value, gradient and both moments of one length");
    for (std::size_t i = 0; i < value.size(); ++i) update(value[i], gradient[i], first[i], second[i]);
  }
};

}  // namespace attune
