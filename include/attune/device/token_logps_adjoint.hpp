// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

#include <attune/concepts/backend.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/view.hpp>
#include <attune/device/row_packs.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// token_logps_adjoint of concepts/backend.hpp: from slopes per row to gradients in the logits, one reading and one
/// writing of their size. dlogits may be the logits themselves. Every thread reads what it writes and nothing else, so
/// there is nothing to wait for. Storage, shapes and launch as token_logps has them; arithmetic in float, in double for
/// the target's own element and per row.
///
/// A shard of the vocabulary: columns [first, first + cols) of `vocabulary` in all, targets counted over all of them.
///
/// dlogits may be of a narrower D than the logits, to be a factor of a product; then it is no part of them. Each element is
/// rounded to D once, and `rests`, laid out as dlogits, gets what that left of it: the sum of both is the gradient to twice
/// D's places.
///
/// Beyond the concept: a NaN among a row's log_normalizer and slopes makes its gradient NaN throughout.
template <class S, class D = S>
struct token_logps_adjoint {
  matrix_view<S const> logits;         // (N, V)
  token_id const* targets;             // (N)
  float const* log_normalizers;        // (N)
  float const* slopes;                 // (N) dL/dlogps
  matrix_view<D> dlogits;              // (N, V)
  float const* mean_slopes = nullptr;  // (N) or null, like the rest
  float const* entropies = nullptr;    // values; null if and only if entropy_slopes is
  float const* entropy_slopes = nullptr;
  float const* log_normalizer_slopes = nullptr;
  std::size_t first = 0;       ///< of a shard
  std::size_t vocabulary = 0;  ///< over all shards; 0: cols, there being one
  D* rests = nullptr;          ///< (N, V) where D is not S, or null

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    for (std::size_t i = block.block(); i < logits.rows; i += block.blocks()) {
      token_id const target = block.load(targets + i);
      if (target == no_target) {
        fill(block, i, 0.0f);
        continue;
      }
      row_factors const f = factors(block, i);
      if (f.any_nan()) {
        fill(block, i, std::numeric_limits<float>::quiet_NaN());
        continue;
      }
      float const factor = static_cast<float>(f.normalizer_slope - (f.slope + f.mean_slope));
      float const offset = static_cast<float>(f.mean_slope * f.share);
      std::size_t const own = static_cast<std::size_t>(target) - first;  // beyond cols where another shard has it
      auto const gradient = [&](std::size_t v, float x) {
        if (x == -std::numeric_limits<float>::infinity()) return 0.0f;
        if (v == own) return at_target(f, x);
        float const logp = x - f.log_normalizer;
        float const p = block.exp(logp);
        float const bent = p > 0.0f ? f.entropy_slope * p * (logp + f.entropy) : 0.0f;
        return p * factor + offset - bent;
      };
      if constexpr (std::is_same_v<S, D>)
        map_row(block, logits.row(i), dlogits.row(i), logits.cols, gradient);
      else
        convert_row(block, logits.row(i), dlogits.row(i), rests_of(i), logits.cols, gradient);
    }
  }

 private:
  ATTUNE_HOST_DEVICE D* rests_of(std::size_t i) const noexcept {
    return rests == nullptr ? nullptr : rests + i * dlogits.row_stride;
  }

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void fill(B const& block, std::size_t i, float value) const {
    fill_row(block, dlogits.row(i), logits.cols, static_cast<D>(value));
    if (rests != nullptr) fill_row(block, rests_of(i), logits.cols, static_cast<D>(value));
  }

  /// What a row's elements have in common.
  struct row_factors {
    float log_normalizer;
    double slope, mean_slope, normalizer_slope, share;
    float entropy_slope, entropy;

    ATTUNE_HOST_DEVICE bool any_nan() const noexcept {
      return log_normalizer != log_normalizer || slope != slope || mean_slope != mean_slope ||
             normalizer_slope != normalizer_slope || entropy_slope != entropy_slope || entropy != entropy;
    }
  };

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE row_factors factors(B const& block, std::size_t i) const {
    auto const entry = [&](float const* values) { return values == nullptr ? 0.0f : block.load(values + i); };
    return {.log_normalizer = block.load(log_normalizers + i),
            .slope = static_cast<double>(block.load(slopes + i)),
            .mean_slope = static_cast<double>(entry(mean_slopes)),
            .normalizer_slope = static_cast<double>(entry(log_normalizer_slopes)),
            .share = 1.0 / static_cast<double>(vocabulary == 0 ? logits.cols : vocabulary),
            .entropy_slope = entry(entropy_slopes),
            .entropy = entry(entropies)};
  }

  /// 1 - p of a target that is nearly certain would lose its digits; expm1 keeps them.
  ATTUNE_HOST_DEVICE static float at_target(row_factors const& f, float x) noexcept {
    using std::exp;
    using std::expm1;
    double const logp = static_cast<double>(x) - static_cast<double>(f.log_normalizer);
    double const p = exp(logp);
    double const bent =
        p > 0.0 ? static_cast<double>(f.entropy_slope) * p * (logp + static_cast<double>(f.entropy)) : 0.0;
    return static_cast<float>(f.slope * -expm1(logp) + f.mean_slope * (f.share - p) + f.normalizer_slope * p - bent);
  }
};

}  // namespace attune::device
