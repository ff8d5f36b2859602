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

/// What a thread adds up over its masked-in tokens: the loss, then approxkl, clipped, dual_clipped, ratio, ratio
/// squared and KL to the reference, and how many there were.
struct token_sums {
  static constexpr std::size_t count = 8;

  double of[count] = {};

  /// One more token, of which the surrogate says `one`. Returns its slope in the loss of the step.
  ATTUNE_HOST_DEVICE double add(policy_gradient_value_and_slope<double> const& one, double logp, double old_logp,
                                double weight) noexcept {
    of[0] = saturate_cast<double>(of[0] + weight * one.value);
    of[1] = saturate_cast<double>(of[1] + kl_estimate(saturate_cast<double>(logp - old_logp), kl_estimator::k2).value);
    of[2] += one.clipped ? 1.0 : 0.0;
    of[3] += one.dual_clipped ? 1.0 : 0.0;
    of[4] = saturate_cast<double>(of[4] + one.ratio);
    of[5] = saturate_cast<double>(of[5] + saturate_cast<double>(one.ratio * one.ratio));
    of[7] += 1.0;
    return weight * one.slope;
  }

  /// The KL to the reference joins `one`, before it is added. own_ratio: whether the token's own log-probability moves
  /// the ratio that corrects the bias.
  ATTUNE_HOST_DEVICE void add_kl(policy_gradient_value_and_slope<double>& one, double log_ratio,
                                 kl_loss_options const& kl_loss, bool own_ratio) noexcept {
    auto kl = kl_estimate(log_ratio, kl_loss.kl_loss_estimator);
    of[6] = saturate_cast<double>(of[6] + kl.value);
    if (kl_loss.bias_correction) {
      kl.value = saturate_cast<double>(one.ratio * kl.value);
      kl.slope = saturate_cast<double>(one.ratio * kl.slope);
      if (own_ratio) kl.slope = saturate_cast<double>(kl.slope + kl.value);
    }
    one.value = saturate_cast<double>(one.value + saturate_cast<double>(kl_loss.kl_loss_coef * kl.value));
    one.slope = saturate_cast<double>(one.slope + saturate_cast<double>(kl_loss.kl_loss_coef * kl.slope));
  }

  /// The block's share, to partials (blocks, count); all of its threads together.
  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void write(B const& block, double* partials) const {
    for (std::size_t k = 0; k < count; ++k) {
      double const sum = block_sum(block, of[k]);
      if (block.thread() == 0) block.store(partials + block.block() * count + k, sum);
    }
  }
};

/// policy_gradient_loss of a surrogate that sees each token's own ratio (ppo_options, cispo_options, sapo_options),
/// where the numbers lie: a thread a token, any grid. Arithmetic in double; a number beyond float's range is float's
/// largest. Slopes are overwritten, 0 where the mask is 0, whose tokens are not read; they may be the memory of the
/// logps.
///
/// A token's weight in the loss of the step is `weight`, or weights[t] where weights is not null: token_weight of
/// objective/loss_aggregation.hpp, on the device a segment_broadcast of one number per sequence.
///
/// Each block's share goes to partials (blocks, token_sums::count), which sum_partials adds up. Options are validated
/// on the host, before the launch.
template <PolicyGradientSurrogate O>
struct token_losses {
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
  double* partials;  // (blocks, token_sums::count)
  kl_loss_options kl_loss = {};

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    std::size_t const threads = std::size_t{block.blocks()} * block.threads();
    token_sums sums;
    for (std::size_t t = std::size_t{block.block()} * block.threads() + block.thread(); t < tokens; t += threads) {
      if (block.load(mask + t) == 0) {
        block.store(slopes + t, 0.0f);
        continue;
      }
      double const logp = static_cast<double>(block.load(logps + t));
      double const old_logp = static_cast<double>(block.load(old_logps + t));
      auto one = policy_gradient_objective(logp, old_logp, static_cast<double>(block.load(advantages + t)), options);
      if (ref_logps != nullptr)
        sums.add_kl(one, saturate_cast<double>(logp - static_cast<double>(block.load(ref_logps + t))), kl_loss, true);
      double const w = weights == nullptr ? weight : static_cast<double>(block.load(weights + t));
      block.store(slopes + t, saturate_cast<float>(sums.add(one, logp, old_logp, w)));
    }
    sums.write(block, partials);
  }
};

}  // namespace attune::device
