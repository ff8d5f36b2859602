// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/pair_losses.hpp>
#include <attune/device/segments.hpp>
#include <attune/device/sequence_sums.hpp>
#include <attune/device/thread_block.hpp>
#include <attune/device/token_weights.hpp>
#include <attune/objective/pairwise/f_divergence.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

namespace attune::device {

/// A pairwise loss from the tokens' log-probabilities to the tokens' slopes, in one go: sequences 2i and 2i + 1 are the
/// chosen and the rejected response of pair i. A warp a pair, any grid: sums over a response, the loss and its slopes
/// in double, a number beyond float's range is float's largest.
///
/// Slopes are overwritten, 0 where the mask is 0, whose tokens are not read; they may be the memory of the logps. Each
/// block's share of the loss goes to partials[block], which sum_partials adds up. A pair of which a response has no
/// masked-in token makes the loss NaN, since nobody could be told. Options are validated on the host, before the
/// launch.
template <PairObjective O>
struct pair_token_losses {
  O options;
  double total;                // pairs of the whole step, or its chosen tokens: see pair_totals
  float const* logps;          // (T)
  std::uint8_t const* mask;    // (T)
  std::size_t const* offsets;  // (2 pairs + 1)
  std::size_t pairs;
  double const* ref_logps = nullptr;  // (2 pairs) the reference's sums over responses; null: reference-free
  float* slopes;                      // (T)
  double* partials;                   // (blocks)
  f_divergence_options divergence = {};

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    double loss = 0.0;
    each_segment_of_warp(block, pairs, [&](std::size_t i) {
      std::size_t const first = block.load(offsets + 2 * i), second = block.load(offsets + 2 * i + 1),
                        end = block.load(offsets + 2 * i + 2);
      response const chosen = read(block, 2 * i, first, second), rejected = read(block, 2 * i + 1, second, end);
      pair_value_and_slopes<double> const one =
          share_of_pair({chosen.log_ratio, rejected.log_ratio, chosen.tokens, rejected.tokens}, options, divergence,
                        1.0, total);
      write(block, first, second, saturate_cast<float>(one.chosen));
      write(block, second, end, saturate_cast<float>(one.rejected));
      bool const whole = chosen.tokens > 0.0 && rejected.tokens > 0.0;
      if (block.thread() % B::warp_size == 0) loss += whole ? one.value : std::numeric_limits<double>::quiet_NaN();
    });
    loss = block_sum(block, loss);
    if (block.thread() == 0) block.store(partials + block.block(), loss);
  }

 private:
  struct response {
    double log_ratio, tokens;
  };

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE response read(B const& block, std::size_t b, std::size_t first, std::size_t end) const {
    double const sum = masked_sum(block, logps, mask, first, end);
    double const tokens = static_cast<double>(masked_in(block, mask, first, end));
    return {ref_logps == nullptr ? sum : saturate_cast<double>(sum - block.load(ref_logps + b)), tokens};
  }

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void write(B const& block, std::size_t first, std::size_t end, float slope) const {
    for (std::size_t t = first + block.thread() % B::warp_size; t < end; t += B::warp_size)
      block.store(slopes + t, block.load(mask + t) != 0 ? slope : 0.0f);
  }
};

}  // namespace attune::device
