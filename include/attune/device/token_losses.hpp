// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/thread_block.hpp>
#include <attune/objective/kl.hpp>
#include <attune/objective/policy_gradient.hpp>
#include <attune/objective/value_and_slope.hpp>

namespace attune::device {

/// policy_gradient_loss of a surrogate that sees each token's own ratio (ppo_options, cispo_options, sapo_options),
/// where the numbers lie: a thread a token, any grid. Arithmetic in double; a number beyond float's range is float's
/// largest. Slopes are overwritten, 0 where the mask is 0, whose tokens are not read; they may be the memory of the
/// logps.
///
/// A token's weight in the loss of the step is `weight`, or weights[t] where weights is not null: token_weight of
/// objective/loss_aggregation.hpp, on the device a segment_broadcast of one number per sequence.
///
/// Each block's share goes to partials (blocks, sums), which sum_partials adds up with width = sums: the loss, then
/// over tokens with mask 1 the sums of approxkl, clipped, dual_clipped, ratio, ratio squared and KL, and their number.
/// Options are validated on the host, before the launch.
template <PolicyGradientSurrogate O>
struct token_losses {
  static constexpr std::size_t sums = 8;

  O options;
  std::size_t tokens;
  float const* logps;  // (tokens)
  float const* old_logps;
  float const* advantages;
  float const* ref_logps = nullptr;  // null: no KL
  std::uint8_t const* mask;
  double weight = 1.0;
  float const* weights = nullptr;
  float* slopes;     // (tokens)
  double* partials;  // (blocks, sums)
  kl_loss_options kl_loss = {};

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    std::size_t const threads = std::size_t{block.blocks()} * block.threads();
    double all[sums] = {};
    for (std::size_t t = std::size_t{block.block()} * block.threads() + block.thread(); t < tokens; t += threads) {
      if (block.load(mask + t) == 0) {
        block.store(slopes + t, 0.0f);
        continue;
      }
      double const logp = static_cast<double>(block.load(logps + t));
      double const old_logp = static_cast<double>(block.load(old_logps + t));
      auto const one =
          policy_gradient_objective(logp, old_logp, static_cast<double>(block.load(advantages + t)), options);
      double value = one.value, slope = one.slope;
      if (ref_logps != nullptr) {
        auto kl = kl_estimate(saturate_cast<double>(logp - static_cast<double>(block.load(ref_logps + t))),
                              kl_loss.kl_loss_estimator);
        all[6] = saturate_cast<double>(all[6] + kl.value);
        if (kl_loss.bias_correction) {
          kl.value = saturate_cast<double>(one.ratio * kl.value);
          kl.slope = saturate_cast<double>(saturate_cast<double>(one.ratio * kl.slope) + kl.value);
        }
        value = saturate_cast<double>(value + saturate_cast<double>(kl_loss.kl_loss_coef * kl.value));
        slope = saturate_cast<double>(slope + saturate_cast<double>(kl_loss.kl_loss_coef * kl.slope));
      }
      double const w = weights == nullptr ? weight : static_cast<double>(block.load(weights + t));
      block.store(slopes + t, saturate_cast<float>(w * slope));
      all[0] = saturate_cast<double>(all[0] + w * value);
      all[1] =
          saturate_cast<double>(all[1] + kl_estimate(saturate_cast<double>(logp - old_logp), kl_estimator::k2).value);
      all[2] += one.clipped ? 1.0 : 0.0;
      all[3] += one.dual_clipped ? 1.0 : 0.0;
      all[4] = saturate_cast<double>(all[4] + one.ratio);
      all[5] = saturate_cast<double>(all[5] + saturate_cast<double>(one.ratio * one.ratio));
      all[7] += 1.0;
    }
    for (std::size_t k = 0; k < sums; ++k) {
      double const sum = block_sum(block, all[k]);
      if (block.thread() == 0) block.store(partials + block.block() * sums + k, sum);
    }
  }
};

}  // namespace attune::device
