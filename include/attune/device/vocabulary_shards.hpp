// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>

#include <attune/concepts/backend.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/view.hpp>
#include <attune/device/row_summary.hpp>
#include <attune/device/thread_block.hpp>

/// token_logps of a vocabulary that is divided over devices: every shard summarises its columns, the summaries (48
/// bytes a row and shard) are gathered, and every device makes the same results of them. The adjoint of a shard is
/// token_logps_adjoint with `first` and `vocabulary`.
namespace attune::device {

/// What a shard knows of a row.
struct shard_summary {
  row_summary row;
  float target_logit = 0.0f;  // 0 unless the target lies in the shard
};

/// Columns [first, first + cols) of the logits, targets counted over all of them; else as token_logps. Rows without a
/// target are not read.
template <class S>
struct summarize_shard {
  matrix_view<S const> logits;  // (N, columns of this shard)
  std::size_t first;
  token_id const* targets;  // (N)
  row_terms with;
  shard_summary* out;  // (N)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    for (std::size_t i = block.block(); i < logits.rows; i += block.blocks()) {
      token_id const target = block.load(targets + i);
      shard_summary s;
      if (target != no_target) {
        S const* const row = logits.row(i);
        s.row = summarize_row(block, row, logits.cols, with);
        std::size_t const own = static_cast<std::size_t>(target) - first;  // beyond cols where another shard has it
        if (block.thread() == 0 && own < logits.cols) s.target_logit = static_cast<float>(block.load(row + own));
      }
      if (block.thread() == 0) out[i] = s;
    }
  }
};

/// The summaries of all shards, (shards, N), to what token_logps writes; a thread a row, any grid. Shards are added up
/// in their order, so that every device has the same bits. Outputs as token_logps has them, NaN too where a target is no
/// entry of any shard; what is not null has been summarised.
struct combine_shards {
  shard_summary const* parts;  // (shards, N)
  std::size_t shards;
  std::size_t rows;
  std::size_t vocabulary;       // of all shards
  token_id const* targets;      // (N)
  float* logps;                 // (N)
  float* log_normalizers;       // (N)
  float* mean_logps = nullptr;  // (N) or null, like the rest
  float* entropies = nullptr;
  float* collisions = nullptr;

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    std::size_t const threads = std::size_t{block.blocks()} * block.threads();
    for (std::size_t i = std::size_t{block.block()} * block.threads() + block.thread(); i < rows; i += threads) {
      row_summary all;
      double target_logit = 0.0;
      token_id const target = block.load(targets + i);
      bool const counts = target != no_target;
      if (counts && static_cast<std::size_t>(target) >= vocabulary)
        target_logit = all.sum = std::numeric_limits<double>::quiet_NaN();
      for (std::size_t k = 0; counts && k < shards; ++k) {
        shard_summary part = parts[k * rows + i];
        target_logit += static_cast<double>(part.target_logit);
        float const highest = part.row.maximum > all.maximum ? part.row.maximum : all.maximum;
        all.rise_to(block, highest);
        part.row.rise_to(block, highest);
        all.sum += part.row.sum;
        all.plain += part.row.plain;
        all.products += part.row.products;
        all.squares += part.row.squares;
      }
      double const log_sum = all.log_sum();
      auto const write = [&](float* to, double x) {
        if (to != nullptr) block.store(to + i, counts ? static_cast<float>(x) : 0.0f);
      };
      write(logps, (target_logit - all.maximum) - log_sum);
      write(log_normalizers, all.maximum + log_sum);
      write(mean_logps, (all.plain / static_cast<double>(vocabulary) - all.maximum) - log_sum);
      write(entropies, all.entropy());
      write(collisions, all.collision());
    }
  }
};

}  // namespace attune::device
