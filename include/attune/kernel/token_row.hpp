// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include <attune/concepts/backend.hpp>
#include <attune/core/storage.hpp>
#include <attune/kernel/softmax_row.hpp>

/// One row of logits with a target on a CPU, as concepts/backend.hpp has it: from the row to its entries of row_logps,
/// and from those of row_slopes back. What nobody asks for costs a test per row and nothing per element.
namespace attune {

/// Writes entry i of everything in `out` that is not empty; 0 without a target, and then x is not read.
template <class S>
void score_row(S const* x, std::size_t count, token_id target, row_logps<arithmetic_t<S>> out, std::size_t i) noexcept {
  using T = arithmetic_t<S>;
  bool const with_mean = !out.mean_logps.empty();
  bool const with_entropy = !out.entropies.empty();
  bool const with_collisions = !out.collisions.empty();
  if (target == no_target) {
    out.logps[i] = out.log_normalizers[i] = T(0);
    if (with_mean) out.mean_logps[i] = T(0);
    if (with_entropy) out.entropies[i] = T(0);
    if (with_collisions) out.collisions[i] = T(0);
    return;
  }
  softmax_summary const s = summarize_logits(x, count, with_mean);
  out.logps[i] = static_cast<T>((static_cast<double>(x[target]) - s.maximum) - s.log_sum);
  out.log_normalizers[i] = static_cast<T>(s.log_normalizer());
  if (with_mean) out.mean_logps[i] = static_cast<T>((s.mean_logit - s.maximum) - s.log_sum);
  if (with_entropy) out.entropies[i] = static_cast<T>(softmax_entropy(x, count, s));
  if (with_collisions) out.collisions[i] = static_cast<T>(softmax_collision(x, count, s));
}

/// Overwrites out (count), which may be x, with the gradient in the logits that entry i of the slopes asks for; 0
/// without a target. The slope of the normaliser joins the factor of p that is there anyway.
template <class S>
void score_row_adjoint(S const* x, std::size_t count, token_id target, arithmetic_t<S> log_normalizer,
                       row_slopes<arithmetic_t<S>> slopes, std::size_t i, S* out) noexcept {
  using T = arithmetic_t<S>;
  if (target == no_target) {
    std::fill_n(out, count, S(0));
    return;
  }
  double const slope = static_cast<double>(slopes.logps[i]);
  double const mean_slope = slopes.mean_logps.empty() ? 0.0 : static_cast<double>(slopes.mean_logps[i]);
  double const normalizer_slope = slopes.log_normalizers.empty() ? 0.0 : static_cast<double>(slopes.log_normalizers[i]);
  double const share = 1.0 / static_cast<double>(count);
  bool const with_entropy = !slopes.entropy_slopes.empty();
  T const target_logit = static_cast<T>(x[target]);  // out may be x
  T const factor = static_cast<T>(normalizer_slope - (slope + mean_slope)), offset = static_cast<T>(mean_slope * share);
  if (with_entropy)
    scaled_softmax(x, count, log_normalizer, factor, offset, slopes.entropy_slopes[i], slopes.entropies[i], out);
  else
    scaled_softmax(x, count, log_normalizer, factor, offset, out);
  double const logp = static_cast<double>(target_logit) - static_cast<double>(log_normalizer);
  if (target_logit == -std::numeric_limits<T>::infinity()) return;
  double const p = std::exp(logp);
  double const bent = !with_entropy || p == 0.0 ? 0.0
                                                : static_cast<double>(slopes.entropy_slopes[i]) * p *
                                                      (logp + static_cast<double>(slopes.entropies[i]));
  // 1 - p of a target that is nearly certain would lose its digits; expm1 keeps them.
  out[target] =
      S(static_cast<T>(slope * -std::expm1(logp) + mean_slope * (share - p) + normalizer_slope * p - bent));
}

}  // namespace attune
