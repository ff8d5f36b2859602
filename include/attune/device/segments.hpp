// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <attune/core/host_device.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/thread_block.hpp>

/// Sequences that lie end to end, a warp each, the warps of the grid striding over them; any grid. Segment b is
/// [offsets[b], offsets[b + 1]); an empty one has the sum 0.
namespace attune::device {

/// Calls f(b) for the segments of this thread's warp; all of its lanes together.
template <ThreadBlock B, class F>
ATTUNE_HOST_DEVICE void each_segment_of_warp(B const& block, std::size_t segments, F&& f) {
  std::size_t const warps = block.threads() / B::warp_size;
  for (std::size_t b = block.block() * warps + block.thread() / B::warp_size; b < segments; b += block.blocks() * warps)
    f(b);
}

/// out[b] = sum of values over segment b, in double and rounded once.
struct segment_sum {
  float const* values;         // (T)
  std::size_t const* offsets;  // (segments + 1)
  std::size_t segments;
  float* out;  // (segments)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    each_segment_of_warp(block, segments, [&](std::size_t b) {
      std::size_t const end = block.load(offsets + b + 1);
      double sum = 0.0;
      for (std::size_t t = block.load(offsets + b) + block.thread() % B::warp_size; t < end; t += B::warp_size)
        sum += static_cast<double>(block.load(values + t));
      sum = warp_sum(block, sum);
      if (block.thread() % B::warp_size == 0) block.store(out + b, static_cast<float>(sum));
    });
  }
};

/// out[t] = values[b] for t in segment b.
struct segment_broadcast {
  float const* values;         // (segments)
  std::size_t const* offsets;  // (segments + 1)
  std::size_t segments;
  float* out;  // (T)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    each_segment_of_warp(block, segments, [&](std::size_t b) {
      float const value = block.load(values + b);
      std::size_t const end = block.load(offsets + b + 1);
      for (std::size_t t = block.load(offsets + b) + block.thread() % B::warp_size; t < end; t += B::warp_size)
        block.store(out + t, value);
    });
  }
};

}  // namespace attune::device
