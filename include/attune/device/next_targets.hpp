// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include <attune/concepts/backend.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/sequences.hpp>
#include <attune/device/segments.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// What each row of a model's logits predicts: the token after it, if the mask has that one in; no_target in the last
/// row of a sequence and before tokens that are masked out. A masked-in token that is no_target itself becomes an id
/// that no vocabulary has, so that it makes its row NaN like any other that is not there. A warp a sequence, any grid.
///
/// Expects offsets (sequences + 1) that begin at 0 and do not fall. Nothing else is written or read; the targets
/// overlap nothing.
struct next_targets {
  static constexpr token_id nowhere = (std::numeric_limits<token_id>::min)();

  token_id const* tokens;      // (T)
  std::uint8_t const* mask;    // (T) 1 for a token of a completion, else 0
  std::size_t const* offsets;  // (sequences + 1)
  std::size_t sequences;
  token_id* targets;  // (T)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    each_segment_of_warp(block, sequences, [&](std::size_t b) {
      std::size_t const end = block.load(offsets + b + 1);
      for (std::size_t t = block.load(offsets + b) + block.thread() % B::warp_size; t < end; t += B::warp_size) {
        bool const predicts = t + 1 < end && block.load(mask + t + 1) != 0;
        token_id const next = predicts ? block.load(tokens + t + 1) : no_target;
        block.store(targets + t, predicts && next == no_target ? nowhere : next);
      }
    });
  }
};

}  // namespace attune::device
