// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <attune/core/host_device.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/segments.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// The sum of the masked-in values of [first, end) by a warp, in double, in every lane.
template <ThreadBlock B>
[[nodiscard]] ATTUNE_HOST_DEVICE double masked_sum(B const& block, float const* values, std::uint8_t const* mask,
                                                   std::size_t first, std::size_t end) {
  double own = 0.0;
  for (std::size_t t = first + block.thread() % B::warp_size; t < end; t += B::warp_size)
    if (block.load(mask + t) != 0) own += static_cast<double>(block.load(values + t));
  return warp_sum(block, own);
}

/// sequence_sums of objective/: log pi(completion) of every sequence, in double, what is masked out not read; a warp a
/// sequence, any grid. A loss of pairs reads such sums of its reference.
struct sequence_sums {
  float const* logps;          // (T)
  std::uint8_t const* mask;    // (T)
  std::size_t const* offsets;  // (sequences + 1)
  std::size_t sequences;
  double* sums;  // (sequences)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    each_segment_of_warp(block, sequences, [&](std::size_t b) {
      double const sum = masked_sum(block, logps, mask, block.load(offsets + b), block.load(offsets + b + 1));
      if (block.thread() % B::warp_size == 0) block.store(sums + b, sum);
    });
  }
};

}  // namespace attune::device
