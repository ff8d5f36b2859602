// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/thread_block.hpp>
#include <attune/objective/sft.hpp>

namespace attune::device {

/// sft_loss where the numbers lie: a thread a token, any grid. Arithmetic in double; a number beyond float's range is
/// float's largest. Slopes are overwritten, 0 where the mask is 0, whose tokens are not read; they may be the memory of
/// what they are slopes of.
///
/// A token's weight in the loss of the step is `weight`, or weights[t] where weights is not null (token_weights, under
/// sft_normalization::sequence). Each block's share of the loss goes to partials[block], which sum_partials adds up.
/// Options are validated on the host, before the launch.
struct sft_losses {
  sft_options options;
  std::size_t tokens;
  float const* logps;                      // (tokens)
  float const* mean_logps = nullptr;       // (tokens); null without label smoothing
  float const* log_normalizers = nullptr;  // (tokens); null without z-loss
  std::uint8_t const* mask;                // (tokens)
  double weight = 1.0;
  float const* weights = nullptr;
  float* slopes;  // (tokens)
  float* mean_slopes = nullptr;
  float* log_normalizer_slopes = nullptr;
  double* partials;  // (blocks)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    std::size_t const threads = std::size_t{block.blocks()} * block.threads();
    double loss = 0.0;
    for (std::size_t t = std::size_t{block.block()} * block.threads() + block.thread(); t < tokens; t += threads) {
      sft_value_and_slopes<double> one{0.0, 0.0, 0.0, 0.0};
      double w = 0.0;
      if (block.load(mask + t) != 0) {
        one = sft_objective(number(block, logps, t), number(block, mean_logps, t), number(block, log_normalizers, t),
                            options);
        w = weights == nullptr ? weight : static_cast<double>(block.load(weights + t));
      }
      loss = saturate_cast<double>(loss + saturate_cast<double>(w * one.value));
      block.store(slopes + t, saturate_cast<float>(w * one.logp));
      if (mean_slopes != nullptr) block.store(mean_slopes + t, saturate_cast<float>(w * one.mean_logp));
      if (log_normalizer_slopes != nullptr)
        block.store(log_normalizer_slopes + t, saturate_cast<float>(w * one.log_normalizer));
    }
    loss = block_sum(block, loss);
    if (block.thread() == 0) block.store(partials + block.block(), loss);
  }

 private:
  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE static double number(B const& block, float const* values, std::size_t t) {
    return values == nullptr ? 0.0 : static_cast<double>(block.load(values + t));
  }
};

}  // namespace attune::device
