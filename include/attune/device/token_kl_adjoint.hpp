// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>

#include <attune/concepts/backend.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/view.hpp>
#include <attune/device/row_packs.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// token_kl_adjoint of concepts/backend.hpp: adds what a divergence's slopes are in the logits to the gradient that lies
/// there, from what token_kl wrote; one reading of both rows and of the gradient, one writing of it. Every thread reads
/// what it writes and nothing that another writes, so there is nothing to wait for. Storage, shapes and launch as
/// token_kl has them; arithmetic in float, the sum rounded to S once.
///
/// A divergence, normaliser or slope that is not finite makes the whole row NaN. Rows without a target are neither read
/// nor written. dlogits aliases nothing; where the three rows are not aligned alike they are moved element by element.
template <class S>
struct token_kl_adjoint {
  matrix_view<S const> logits;      // (N, V)
  matrix_view<S const> ref_logits;  // (N, V)
  token_id const* targets;          // (N)
  kl_direction direction;
  float const* kl;                   // (N)
  float const* log_normalizers;      // (N)
  float const* ref_log_normalizers;  // (N)
  float const* slopes;               // (N) dL/dkl
  matrix_view<S> dlogits;            // (N, V) added to

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    for (std::size_t i = block.block(); i < logits.rows; i += block.blocks()) {
      if (block.load(targets + i) == no_target) continue;
      S const* const x = logits.row(i);
      S const* const y = ref_logits.row(i);
      S* const out = dlogits.row(i);
      float const divergence = block.load(kl + i), slope = block.load(slopes + i);
      float const z = block.load(log_normalizers + i), ref_z = block.load(ref_log_normalizers + i);
      if (!finite(divergence) || !finite(slope) || !finite(z) || !finite(ref_z)) {
        fill_row(block, out, logits.cols, static_cast<S>(std::numeric_limits<float>::quiet_NaN()));
        continue;
      }
      bool const reverse = direction == kl_direction::reverse;
      add_of_two_rows(block, x, y, out, logits.cols, [&](float a, float b) {
        float const logp = a - z, logq = b - ref_z, p = block.exp(logp);
        float const bent = p * ((logp - logq) - divergence);  // always, as in token_kl
        return (reverse ? p > 0.0f ? bent : 0.0f : p - block.exp(logq)) * slope;
      });
    }
  }

 private:
  ATTUNE_HOST_DEVICE static bool finite(float x) noexcept { return x - x == 0.0f; }
};

}  // namespace attune::device
