// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>

#include <attune/concepts/backend.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/view.hpp>
#include <attune/device/row_packs.hpp>
#include <attune/device/row_summary.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// token_logps of concepts/backend.hpp: log-probabilities of targets from logits, the log-softmax and the gather in one
/// reading of the logits, with the row's mean log-probability, entropy and collisions where they are asked for; nothing
/// of the shape of the logits is written. A block a row, the grid striding over rows; any grid, any block of whole
/// warps.
///
/// S is float, bf16 or f16, the storage of the logits; what comes out is float. Rows may begin at any element and lie
/// row_stride apart. Per-element arithmetic in float, in at most eight additions in a row; sums over the vocabulary in
/// double. A row's results are a function of its values, its alignment to sixteen bytes and the threads of a block; on
/// the latter two they depend by rounding only.
///
/// Expects pointers of device memory. Outputs are overwritten and alias nothing: 0 in rows without a target, NaN in those
/// whose target is no entry of the vocabulary; neither are read.
template <class S>
struct token_logps {
  matrix_view<S const> logits;  // (N, V)
  token_id const* targets;      // (N)
  float* logps;                 // (N)
  float* log_normalizers;       // (N)
  float* mean_logps = nullptr;  // (N) or null, like the rest
  float* entropies = nullptr;
  float* collisions = nullptr;

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    for (std::size_t i = block.block(); i < logits.rows; i += block.blocks()) {
      token_id const target = block.load(targets + i);
      if (static_cast<std::size_t>(target) >= logits.cols) {  // none, or one that is not there
        float const x = target == no_target ? 0.0f : std::numeric_limits<float>::quiet_NaN();
        if (block.thread() == 0) write(block, i, x, x, x, x, x);
        continue;
      }
      S const* const row = logits.row(i);
      row_summary const s = summarize_row(block, row, logits.cols, wanted());
      if (block.thread() != 0) continue;
      double const target_logit = static_cast<double>(static_cast<float>(block.load(row + target)));
      double const log_sum = s.log_sum();
      write(block, i, static_cast<float>((target_logit - s.maximum) - log_sum), static_cast<float>(s.maximum + log_sum),
            static_cast<float>((s.plain / static_cast<double>(logits.cols) - s.maximum) - log_sum),
            static_cast<float>(s.entropy()), static_cast<float>(s.collision()));
    }
  }

  ATTUNE_HOST_DEVICE row_terms wanted() const noexcept {
    return {.plain = mean_logps != nullptr, .products = entropies != nullptr, .squares = collisions != nullptr};
  }

 private:
  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void write(B const& block, std::size_t i, float logp, float log_normalizer, float mean_logp,
                                float entropy, float collision) const {
    block.store(logps + i, logp);
    block.store(log_normalizers + i, log_normalizer);
    if (mean_logps != nullptr) block.store(mean_logps + i, mean_logp);
    if (entropies != nullptr) block.store(entropies + i, entropy);
    if (collisions != nullptr) block.store(collisions + i, collision);
  }
};

}  // namespace attune::device
