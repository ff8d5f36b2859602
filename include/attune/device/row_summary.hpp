// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include <attune/core/host_device.hpp>
#include <attune/device/row_packs.hpp>
#include <attune/device/thread_block.hpp>

/// What one reading of a row of logits tells: its maximum, and sums relative to it ("online softmax", Milakov and
/// Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3, and its moments besides).
namespace attune::device {

/// Which sums are taken besides the first.
struct row_terms {
  bool plain = false;
  bool products = false;
  bool squares = false;
};

/// With d = x - maximum over some of a row's elements x. NaN or +inf among them makes the sums NaN.
struct row_summary {
  float maximum = -std::numeric_limits<float>::infinity();
  double sum = 0.0;       ///< of e^d
  double plain = 0.0;     ///< of x
  double products = 0.0;  ///< of d e^d, where e^d does not underflow
  double squares = 0.0;   ///< of e^2d

  /// Sums relative to another maximum, not below this one.
  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void rise_to(B const& block, float higher) noexcept {
    if (maximum == higher) return;
    bool const first = maximum == -std::numeric_limits<float>::infinity();  // sums are 0 or NaN, and stay so
    float const step = first ? 0.0f : maximum - higher;
    double const factor = first ? 0.0 : static_cast<double>(block.exp(step));
    products = factor * (products + static_cast<double>(step) * sum);
    sum *= factor;
    squares *= factor * factor;
    maximum = higher;
  }

  /// n more elements.
  template <ThreadBlock B, std::size_t n>
  ATTUNE_HOST_DEVICE void add(B const& block, float const (&x)[n], row_terms with) noexcept {
    float highest = x[0];
    for (std::size_t k = 1; k < n; ++k) highest = x[k] > highest ? x[k] : highest;
    if (highest > maximum) rise_to(block, highest);
    float const shift = maximum > -std::numeric_limits<float>::infinity() ? maximum : 0.0f;
    float e[n];
    float exps = 0.0f;
    for (std::size_t k = 0; k < n; ++k) {
      e[k] = block.exp(x[k] - shift);
      exps += e[k];
    }
    sum += static_cast<double>(exps);
    if (with.plain) {
      double all = 0.0;
      for (std::size_t k = 0; k < n; ++k) all += static_cast<double>(x[k]);
      plain += all;
    }
    if (with.products) {
      float all = 0.0f;
      for (std::size_t k = 0; k < n; ++k) all += e[k] > 0.0f ? e[k] * (x[k] - shift) : 0.0f;
      products += static_cast<double>(all);
    }
    if (with.squares) {
      float all = 0.0f;
      for (std::size_t k = 0; k < n; ++k) all += e[k] * e[k];
      squares += static_cast<double>(all);
    }
  }

  /// log of the sum; NaN where the row has no distribution.
  [[nodiscard]] ATTUNE_HOST_DEVICE double log_sum() const noexcept {
    using std::log;
    return maximum > -std::numeric_limits<float>::infinity() ? log(sum) : std::numeric_limits<double>::quiet_NaN();
  }
  /// -sum of p log p in nats: two terms of one sign, so nothing cancels.
  [[nodiscard]] ATTUNE_HOST_DEVICE double entropy() const noexcept { return log_sum() - products / sum; }
  /// log of the sum of p^2.
  [[nodiscard]] ATTUNE_HOST_DEVICE double collision() const noexcept {
    using std::log;
    return log(squares) - 2.0 * log_sum();
  }
};

/// The summaries of all lanes of a warp as one, in every lane.
template <ThreadBlock B>
ATTUNE_HOST_DEVICE row_summary merge_in_warp(B const& block, row_summary own, row_terms with) noexcept {
  float highest = own.maximum;
  for (unsigned lanes = B::warp_size / 2; lanes > 0; lanes /= 2) {
    float const other = block.shuffle_xor(highest, lanes);
    highest = other > highest ? other : highest;
  }
  own.rise_to(block, highest);
  for (unsigned lanes = B::warp_size / 2; lanes > 0; lanes /= 2) {
    own.sum += block.shuffle_xor(own.sum, lanes);
    if (with.plain) own.plain += block.shuffle_xor(own.plain, lanes);
    if (with.products) own.products += block.shuffle_xor(own.products, lanes);
    if (with.squares) own.squares += block.shuffle_xor(own.squares, lanes);
  }
  return own;
}

/// The summary of a row (count), read by all threads of the block together; the result is the whole row's in the first
/// warp. Ends with a barrier, so that it may be called again at once.
template <class S, ThreadBlock B>
ATTUNE_HOST_DEVICE row_summary summarize_row(B const& block, S const* row, std::size_t count, row_terms with) {
  struct scratch {
    row_summary warp[32];
  };
  scratch& shared = block.template shared<scratch>();
  row_summary own;
  read_row(block, row, count, [&](auto const& values) { own.add(block, values, with); });
  own = merge_in_warp(block, own, with);
  unsigned const lane = block.thread() % B::warp_size;
  if (lane == 0) shared.warp[block.thread() / B::warp_size] = own;
  block.sync();
  if (block.thread() < B::warp_size) {
    own = lane < block.threads() / B::warp_size ? shared.warp[lane] : row_summary{};
    own = merge_in_warp(block, own, with);
  }
  block.sync();  // the next row's warps write where the first one has just read
  return own;
}

}  // namespace attune::device
