// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <attune/core/host_device.hpp>
#include <attune/device/segments.hpp>
#include <attune/device/thread_block.hpp>
#include <attune/objective/gae.hpp>

namespace attune::device {

/// gae of objective/gae.hpp: advantages and returns, backwards over each sequence, by a warp that takes 32 tokens at a
/// time in a scan of affine maps; any grid. Masked-out tokens are stepped over, not read, and get 0. Advantages may be
/// the memory of the rewards, returns that of the values. In double; a sum's order differs from the host's. A
/// sequence's result has the same bits whatever stands beside it. Options are validated on the host, before the launch.
struct gae {
  gae_options options;
  float const* rewards;        // (T)
  float const* values;         // (T)
  std::uint8_t const* mask;    // (T)
  std::size_t const* offsets;  // (sequences + 1)
  std::size_t sequences;
  float* advantages;  // (T)
  float* returns;     // (T)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    each_segment_of_warp(block, sequences, [&](std::size_t b) {
      std::size_t const first = block.load(offsets + b);
      std::size_t left = block.load(offsets + b + 1) - first;
      double advantage = 0.0, value = 0.0;  // of the masked-in token after those that are left
      unsigned const lane = block.thread() % B::warp_size;
      while (left > 0) {
        std::size_t const t = first + left - 1 - lane;  // the later token in the lower lane
        bool const inside = lane < left;
        bool const active = inside && block.load(mask + t) != 0;
        step own;
        if (active)
          own = step_of(static_cast<double>(block.load(rewards + t)), static_cast<double>(block.load(values + t)));
        double const own_value = own.next_value;
        step const seen = scan(block, own);  // of the lanes up to this one
        double const here = seen.of_advantage * advantage + seen.of_value * value + seen.plus;
        if (inside) {
          block.store(advantages + t, active ? static_cast<float>(here) : 0.0f);
          block.store(returns + t, active ? static_cast<float>(here + own_value) : 0.0f);
        }
        // The last lane has seen all 32.
        bool const last = lane == B::warp_size - 1;
        double const next_value = warp_sum(block, last ? seen.keeps * value + seen.next_value : 0.0);
        advantage = warp_sum(block, last ? here : 0.0);
        value = next_value;
        left = left > B::warp_size ? left - B::warp_size : 0;
      }
    });
  }

 private:
  /// What some tokens make of the (advantage, value) after them: (of_advantage A + of_value V + plus, keeps V +
  /// next_value).
  struct step {
    double of_advantage = 1.0, of_value = 0.0, plus = 0.0;
    double keeps = 1.0, next_value = 0.0;
  };

  ATTUNE_HOST_DEVICE step step_of(double reward, double value) const noexcept {
    return {options.gamma * options.lam, options.gamma, reward - value, 0.0, value};
  }

  /// First a, then b.
  ATTUNE_HOST_DEVICE static step then(step const& a, step const& b) noexcept {
    return {b.of_advantage * a.of_advantage, b.of_advantage * a.of_value + b.of_value * a.keeps,
            b.of_advantage * a.plus + b.of_value * a.next_value + b.plus, b.keeps * a.keeps,
            b.keeps * a.next_value + b.next_value};
  }

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE static step scan(B const& block, step own) {
    step all = own;  // of the group of lanes that have met
    for (unsigned lanes = 1; lanes < B::warp_size; lanes *= 2) {
      step const other{block.shuffle_xor(all.of_advantage, lanes), block.shuffle_xor(all.of_value, lanes),
                       block.shuffle_xor(all.plus, lanes), block.shuffle_xor(all.keeps, lanes),
                       block.shuffle_xor(all.next_value, lanes)};
      if ((block.thread() & lanes) != 0) {
        own = then(other, own);
        all = then(other, all);
      } else {
        all = then(all, other);
      }
    }
    return own;
  }
};

}  // namespace attune::device
