// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <attune/core/host_device.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/segments.hpp>
#include <attune/device/thread_block.hpp>
#include <attune/objective/loss_aggregation.hpp>

namespace attune::device {

/// Masked-in tokens of [first, end), counted by a warp, in every lane.
template <ThreadBlock B>
[[nodiscard]] ATTUNE_HOST_DEVICE std::size_t masked_in(B const& block, std::uint8_t const* mask, std::size_t first,
                                                       std::size_t end) {
  std::size_t own = 0;
  for (std::size_t t = first + block.thread() % B::warp_size; t < end; t += B::warp_size)
    own += block.load(mask + t) != 0 ? 1 : 0;
  return warp_sum(block, own);
}

/// weights[t] = token_weight(aggregation, totals, masked-in tokens of t's sequence), rounded once: what the losses of
/// tokens take where it is not the same for all. A warp a sequence, any grid. In a sequence that has no masked-in
/// token, where nobody reads it, 0.
struct token_weights {
  loss_aggregation aggregation;
  aggregation_totals totals;
  std::uint8_t const* mask;    // (T)
  std::size_t const* offsets;  // (sequences + 1)
  std::size_t sequences;
  float* weights;  // (T)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    each_segment_of_warp(block, sequences, [&](std::size_t b) {
      std::size_t const first = block.load(offsets + b), end = block.load(offsets + b + 1);
      std::size_t const length = masked_in(block, mask, first, end);
      float const weight = length == 0 ? 0.0f : static_cast<float>(token_weight(aggregation, totals, length));
      for (std::size_t t = first + block.thread() % B::warp_size; t < end; t += B::warp_size)
        block.store(weights + t, weight);
    });
  }
};

}  // namespace attune::device
