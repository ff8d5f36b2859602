// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <attune/concepts/backend.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/random.hpp>
#include <attune/core/view.hpp>
#include <attune/device/row_packs.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// One token of every row, drawn from softmax(logits / temperature) in one reading of the logits: the largest of
/// logit / temperature + g with a Gumbel number g per entry (Gumbel 1954; Maddison et al. 2014, "A* sampling", section
/// 2). Temperature 0 takes the largest logit, the first of equals. A block a row, the grid striding over rows.
///
/// The numbers are counter-based (core/random.hpp), a function of (seed, streams[i], position, entry) alone: a draw
/// does not depend on the batch, the grid or the row's alignment. Entries 4k to 4k + 3 share the philox block that
/// random_stream has at position (k + 1) 2^32 + position, so that they meet no number that the host draws at a position
/// below 2^32.
///
/// A row of -inf, or one that holds NaN or +inf, has no distribution and gives no_target. -inf is never drawn.
template <class S>
struct sample_tokens {
  matrix_view<S const> logits;  // (N, V)
  float temperature;            // >= 0
  std::uint64_t seed;
  std::uint64_t const* streams;  // (N) one per sequence
  std::uint32_t position;        // how many tokens the sequences have drawn before
  token_id* out;                 // (N)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    struct scratch {
      candidate warp[32];
    };
    scratch& shared = block.template shared<scratch>();
    unsigned const lane = block.thread() % B::warp_size;
    for (std::size_t i = block.block(); i < logits.rows; i += block.blocks()) {
      candidate best = best_of_row(block, logits.row(i), block.load(streams + i));
      best = best_in_warp(block, best);
      if (lane == 0) shared.warp[block.thread() / B::warp_size] = best;
      block.sync();
      if (block.thread() < B::warp_size) {
        best = best_in_warp(block, lane < block.threads() / B::warp_size ? shared.warp[lane] : candidate{});
        if (lane == 0) block.store(out + i, best.token);
      }
      block.sync();  // the next row's warps write where the first one has just read
    }
  }

  /// A Gumbel number from 32 bits: -log of the exponential number -log(1 - u), u in (0, 1), fine where u is small and g
  /// large.
  template <ThreadBlock B>
  [[nodiscard]] ATTUNE_HOST_DEVICE static float gumbel(B const& block, std::uint32_t bits) noexcept {
    using std::log1p;
    float const u = (static_cast<float>(bits) + 0.5f) * 0x1p-32f;
    return -block.log(-log1p(u < 1.0f ? -u : -0x1.fffffep-1f));
  }

 private:
  struct candidate {
    float score = -std::numeric_limits<float>::infinity();
    token_id token = no_target;

    /// The larger score, the lower token of equals; a token before none.
    ATTUNE_HOST_DEVICE bool before(candidate const& o) const noexcept {
      if (score != o.score) return score > o.score;
      return static_cast<std::uint32_t>(token) < static_cast<std::uint32_t>(o.token);
    }
  };

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE candidate best_of_row(B const& block, S const* row, std::uint64_t stream) const {
    constexpr float infinite = std::numeric_limits<float>::infinity();
    candidate best;
    bool broken = false;
    std::size_t drawn = ~std::size_t{0};  // whose philox block is at hand
    std::array<std::uint32_t, 4> bits{};
    read_indexed_row(block, row, logits.cols, [&](std::size_t v, float x) {
      if (!(x < infinite)) broken = true;
      if (x == -infinite) return;
      candidate one{x, static_cast<token_id>(v)};
      if (temperature > 0.0f) {
        if (v / 4 != drawn) {
          drawn = v / 4;
          bits = philox({position, static_cast<std::uint32_t>(drawn + 1), static_cast<std::uint32_t>(stream),
                         static_cast<std::uint32_t>(stream >> 32)},
                        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
        }
        one.score = x / temperature + gumbel(block, v % 4 == 0   ? bits[0]
                                                    : v % 4 == 1 ? bits[1]
                                                    : v % 4 == 2 ? bits[2]
                                                                 : bits[3]);
      }
      if (one.before(best)) best = one;
    });
    return broken ? candidate{std::numeric_limits<float>::infinity(), no_target} : best;
  }

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE static candidate best_in_warp(B const& block, candidate best) {
    for (unsigned lanes = B::warp_size / 2; lanes > 0; lanes /= 2) {
      candidate const other{block.shuffle_xor(best.score, lanes), block.shuffle_xor(best.token, lanes)};
      if (other.before(best)) best = other;
    }
    return best;
  }
};

}  // namespace attune::device
