// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <attune/core/host_device.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/row_packs.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// The sum of squares of values, in double, each block's share to partials[block]; sum_partials of a second launch adds
/// them up. The same bits for the same grid, blocks and alignment. S is float, bf16 or f16.
template <class S>
struct squared_norm {
  S const* values;
  std::size_t count;
  double* partials;  // (blocks)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    constexpr std::size_t piece = 4096;  // elements that a block takes at a time
    double sum = 0.0;
    for (std::size_t first = block.block() * piece; first < count; first += block.blocks() * piece)
      read_row(block, values + first, count - first < piece ? count - first : piece, [&](auto const& x) {
        for (float const one : x) sum += static_cast<double>(one) * static_cast<double>(one);
      });
    sum = block_sum(block, sum);
    if (block.thread() == 0) block.store(partials + block.block(), sum);
  }
};

}  // namespace attune::device
