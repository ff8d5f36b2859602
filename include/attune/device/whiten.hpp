// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/thread_block.hpp>
#include <attune/objective/whiten.hpp>

namespace attune::device {

/// whiten of objective/whiten.hpp by one block: mean, then variance, then the values, which stay in the cache in
/// between; in double, the same bits for the same number of threads. Writes 0 where the mask is 0, whose entries are
/// not read. `whitened` may be the values. Launch it with one block; the others would have nothing to do.
struct whiten {
  whiten_options options;
  float const* values;       // (count)
  std::uint8_t const* mask;  // (count)
  std::size_t count;
  float* whitened;  // (count)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    if (block.block() != 0) return;
    auto const each = [&](auto&& f) {
      for (std::size_t i = block.thread(); i < count; i += block.threads()) f(i, block.load(mask + i) != 0);
    };
    double sum = 0.0, entries = 0.0;
    each([&](std::size_t i, bool in) {
      if (!in) return;
      sum += static_cast<double>(block.load(values + i));
      entries += 1.0;
    });
    sum = block_sum(block, sum);
    entries = block_sum(block, entries);
    double const mean = sum / entries;  // of equal values exactly that: their sum is exact
    double squares = 0.0;
    each([&](std::size_t i, bool in) {
      if (!in) return;
      double const deviation = static_cast<double>(block.load(values + i)) - mean;
      squares += deviation * deviation;
    });
    squares = block_sum(block, squares);
    double const variance = squares == 0.0 ? 0.0 : squares / (options.bessel_correction ? entries - 1.0 : entries);
    using std::sqrt;
    double const deviation = sqrt(variance + 1e-8);
    double const kept = options.shift_mean ? 0.0 : mean;
    each([&](std::size_t i, bool in) {
      block.store(
          whitened + i,
          in ? saturate_cast<float>((static_cast<double>(block.load(values + i)) - mean) / deviation + kept) : 0.0f);
    });
  }
};

}  // namespace attune::device
