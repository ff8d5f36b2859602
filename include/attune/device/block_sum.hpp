// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <attune/core/host_device.hpp>
#include <attune/device/thread_block.hpp>

/// Sums over the threads of a warp, a block and a grid, in trees that depend on how many threads there are and on
/// nothing else.
namespace attune::device {

/// The sum of x over the lanes of the warp, in every lane; all lanes call it together.
template <class T, ThreadBlock B>
[[nodiscard]] ATTUNE_HOST_DEVICE T warp_sum(B const& block, T x) {
  for (unsigned lanes = B::warp_size / 2; lanes > 0; lanes /= 2) x += block.shuffle_xor(x, lanes);
  return x;
}

/// The sum of x over the threads of the block, in every thread; all threads call it together. Ends with a barrier, so
/// that it may be called again at once.
template <class T, ThreadBlock B>
[[nodiscard]] ATTUNE_HOST_DEVICE T block_sum(B const& block, T x) {
  struct scratch {
    T warp[32];
  };
  scratch& shared = block.template shared<scratch>();
  unsigned const lane = block.thread() % B::warp_size;
  T const own = warp_sum(block, x);
  if (lane == 0) shared.warp[block.thread() / B::warp_size] = own;
  block.sync();
  T const total = warp_sum(block, lane < block.threads() / B::warp_size ? shared.warp[lane] : T(0));
  block.sync();  // the next sum is written where this one has just been read
  return total;
}

/// The end of a sum over a grid, by a launch of one block: out[k] = sum over p of partials[p * width + k] (partials,
/// width).
struct sum_partials {
  double const* partials;
  std::size_t count;
  double* out;
  std::size_t width = 1;

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    for (std::size_t k = 0; k < width; ++k) {
      double sum = 0.0;
      for (std::size_t p = block.thread(); p < count; p += block.threads()) sum += block.load(partials + p * width + k);
      sum = block_sum(block, sum);
      if (block.thread() == 0) block.store(out + k, sum);
    }
  }
};

}  // namespace attune::device
