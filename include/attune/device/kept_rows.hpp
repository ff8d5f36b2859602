// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <attune/concepts/backend.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/view.hpp>
#include <attune/device/row_packs.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// A matrix's rows with a target, and zeros in place of those without, which are not read: what a product with
/// gradients of logits wants for a factor, whose rows without a target are 0, since 0 times a NaN is none. A block a row,
/// the grid striding over rows; one reading and one writing, nothing to wait for.
///
/// S is float, bf16 or f16; values are copied to the bit, but for what is in a NaN. Rows may begin at any element of
/// either matrix, which do not overlap; out is written in packs where it is aligned to sixteen bytes as `rows` is.
template <class S>
struct kept_rows {
  matrix_view<S const> rows;  // (N, D)
  token_id const* targets;    // (N)
  matrix_view<S> out;         // (N, D)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    for (std::size_t i = block.block(); i < rows.rows; i += block.blocks()) {
      if (block.load(targets + i) == no_target)
        fill_row(block, out.row(i), rows.cols, static_cast<S>(0.0f));
      else
        map_row(block, rows.row(i), out.row(i), rows.cols, [](std::size_t, float x) { return x; });
    }
  }
};

}  // namespace attune::device
