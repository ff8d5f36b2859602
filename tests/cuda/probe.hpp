// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <attune/device/thread_block.hpp>

/// A body that writes down what it was given and where it ran, so that a launch can be read back: element i of `seen`
/// belongs to thread i of the grid. Its members are of different sizes, so that none can stand in another's place.
struct probe {
  struct entry {
    unsigned thread, threads, block, blocks;
    float scaled;
    unsigned char mark;
  };

  entry* seen;
  unsigned char mark;
  double scale;
  float const* values;
  unsigned short count;

  template <attune::ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& b) const {
    unsigned const i = b.block() * b.threads() + b.thread();
    seen[i] = {b.thread(), b.threads(), b.block(), b.blocks(),
               i < count ? static_cast<float>(scale * static_cast<double>(b.load(values + i))) : 0.0f, mark};
  }

  static constexpr unsigned width = 96;  // threads of a block
};
