// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/segments.hpp>
#include <attune/device/thread_block.hpp>
#include <attune/device/token_losses.hpp>
#include <attune/device/token_weights.hpp>
#include <attune/objective/kl.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/policy_gradient.hpp>

namespace attune::device {

/// policy_gradient_loss of a surrogate that sees the ratio of a whole response (gspo_options), where the numbers lie: a
/// warp a sequence, any grid; it reads its tokens once for the ratio, once for what all of them owe to it, and once for
/// their slopes. Arithmetic, masks, aliasing and partials as token_losses has them, which is for ratios of tokens.
template <PolicyGradientSurrogate O>
struct sequence_losses {
  O options;
  loss_aggregation aggregation;
  aggregation_totals totals;
  float const* logps;  // (T)
  float const* old_logps;
  float const* advantages;
  float const* ref_logps = nullptr;  // null: no KL
  std::uint8_t const* mask;          // (T)
  std::size_t const* offsets;        // (sequences + 1)
  std::size_t sequences;
  float* slopes;     // (T)
  double* partials;  // (blocks, token_sums::count)
  kl_loss_options kl_loss = {};

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    bool const shared = ratio_level_of(options) == ratio_level::sequence;
    token_sums sums;
    each_segment_of_warp(block, sequences, [&](std::size_t b) {
      std::size_t const first = block.load(offsets + b) + block.thread() % B::warp_size,
                        end = block.load(offsets + b + 1);
      auto const each_token = [&](auto&& f) {
        for (std::size_t t = first; t < end; t += B::warp_size)
          if (block.load(mask + t) != 0) f(t);
      };
      auto const number = [&](float const* values, std::size_t t) {
        return static_cast<double>(block.load(values + t));
      };
      double own = 0.0;
      std::size_t length = 0;
      each_token([&](std::size_t t) {
        own = saturate_cast<double>(own + (number(logps, t) - number(old_logps, t)));
        ++length;
      });
      length = warp_sum(block, length);
      double const ratio = saturate_cast<double>(warp_sum(block, own)) / static_cast<double>(length);  // its logarithm
      auto const objective = [&](std::size_t t) {
        return policy_gradient_objective(ratio, 0.0, number(advantages, t), options);
      };
      auto const to_reference = [&](std::size_t t) {
        return saturate_cast<double>(number(logps, t) - number(ref_logps, t));
      };
      double owed = 0.0;  // by every token to the ratio: its share of what the ratio moves
      if (shared) {
        each_token([&](std::size_t t) {
          auto const one = objective(t);
          double moved = one.slope;
          if (kl_loss.bias_correction) {
            double const kl = kl_estimate(to_reference(t), kl_loss.kl_loss_estimator).value;
            moved = saturate_cast<double>(moved + kl_loss.kl_loss_coef * saturate_cast<double>(one.ratio * kl));
          }
          owed = saturate_cast<double>(owed + moved / static_cast<double>(length));
        });
        owed = saturate_cast<double>(warp_sum(block, owed));
      }
      double const weight = length == 0 ? 0.0 : token_weight(aggregation, totals, length);
      for (std::size_t t = first; t < end; t += B::warp_size) {
        if (block.load(mask + t) == 0) {
          block.store(slopes + t, 0.0f);
          continue;
        }
        auto one = objective(t);
        if (shared) one.slope = owed;
        if (ref_logps != nullptr) sums.add_kl(one, to_reference(t), kl_loss, !shared);
        double const logp = number(logps, t), old_logp = number(old_logps, t);
        block.store(slopes + t, saturate_cast<float>(sums.add(one, logp, old_logp, weight)));
      }
    });
    sums.write(block, partials);
  }
};

}  // namespace attune::device
