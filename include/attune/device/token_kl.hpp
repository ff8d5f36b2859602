// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>

#include <attune/concepts/backend.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/view.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/row_packs.hpp>
#include <attune/device/row_summary.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// token_kl of concepts/backend.hpp: the Kullback-Leibler divergence of a row's softmax from another's, and both rows'
/// log-normalisers. Two readings of both rows: the normalisers first, then the divergence, which needs them; nothing of
/// their shape is written. A block a row, the grid striding over rows; any grid, any block of whole warps.
///
/// S is float, bf16 or f16, what comes out float. Per-element arithmetic in float, in at most eight additions in a row; sums
/// in double. Where the probability that weighs a term underflows the term is 0, whatever the other is; where that one is
/// 0 and this is not it is +inf. NaN where either row has no distribution. Never negative, and exactly 0 between equal
/// rows. A row's results are a function of its values, of the alignment of both to sixteen bytes and of the threads of a
/// block, on the latter two by rounding only. Rows that are aligned differently are read element by element.
///
/// Outputs are overwritten, 0 in rows without a target, which are not read; they alias nothing. Of a target only
/// whether there is one counts.
template <class S>
struct token_kl {
  matrix_view<S const> logits;      // (N, V)
  matrix_view<S const> ref_logits;  // (N, V)
  token_id const* targets;          // (N)
  kl_direction direction;
  float* kl;                   // (N)
  float* log_normalizers;      // (N)
  float* ref_log_normalizers;  // (N)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    struct scratch {
      normalizer warp[32], other_warp[32];
      double sums[32];
    };
    scratch& shared = block.template shared<scratch>();
    bool const reverse = direction == kl_direction::reverse;
    unsigned const lane = block.thread() % B::warp_size, warp = block.thread() / B::warp_size;
    bool const stands_for_a_warp = lane < block.threads() / B::warp_size;
    for (std::size_t i = block.block(); i < logits.rows; i += block.blocks()) {
      if (block.load(targets + i) == no_target) {
        if (block.thread() == 0) write(block, i, 0.0f, 0.0f, 0.0f);
        continue;
      }
      S const* const x = reverse ? logits.row(i) : ref_logits.row(i);  // weighs the terms
      S const* const y = reverse ? ref_logits.row(i) : logits.row(i);
      row_summary s, r;
      read_two_rows(block, x, y, logits.cols, [&](auto const& a, auto const& b) {
        s.add(block, a, {});
        r.add(block, b, {});
      });
      s = merge_in_warp(block, s, {});
      r = merge_in_warp(block, r, {});
      if (lane == 0) {
        shared.warp[warp] = {s.maximum, s.sum};
        shared.other_warp[warp] = {r.maximum, r.sum};
      }
      block.sync();
      s = merge_in_warp(block, stands_for_a_warp ? shared.warp[lane].summary() : row_summary{}, {});
      r = merge_in_warp(block, stands_for_a_warp ? shared.other_warp[lane].summary() : row_summary{}, {});
      double const log_sum = s.log_sum(), other_log_sum = r.log_sum();
      float const shift = static_cast<float>(log_sum - other_log_sum);
      double sum = 0.0;
      read_two_rows(block, x, y, logits.cols, [&](auto const& a, auto const& b) {
        float terms = 0.0f;
        for (std::size_t k = 0; k < sizeof a / sizeof a[0]; ++k) {
          float const d = a[k] - s.maximum;
          float const e = block.exp(d);
          float const term = e * ((d - (b[k] - r.maximum)) - shift);  // always, or a compiler makes b's pack wait for e
          terms += e > 0.0f ? term : 0.0f;
        }
        sum += static_cast<double>(terms);
      });
      sum = warp_sum(block, sum);
      if (lane == 0) shared.sums[warp] = sum;
      block.sync();  // and with it all are done with shared.warp; the next row's first barrier guards the sums
      sum = warp_sum(block, stands_for_a_warp ? shared.sums[lane] : 0.0);
      if (block.thread() != 0) continue;
      using std::exp;
      double const divergence = sum * exp(-log_sum);
      float const z = static_cast<float>(s.maximum + log_sum), w = static_cast<float>(r.maximum + other_log_sum);
      write(block, i, divergence < 0.0 ? 0.0f : static_cast<float>(divergence), reverse ? z : w, reverse ? w : z);
    }
  }

 private:
  struct normalizer {
    float maximum;
    double sum;

    ATTUNE_HOST_DEVICE row_summary summary() const noexcept {
      row_summary s;
      s.maximum = maximum;
      s.sum = sum;
      return s;
    }
  };

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void write(B const& block, std::size_t i, float divergence, float z, float ref_z) const {
    block.store(kl + i, divergence);
    block.store(log_normalizers + i, z);
    block.store(ref_log_normalizers + i, ref_z);
  }
};

}  // namespace attune::device
