// SPDX-License-Identifier: MIT
#pragma once

#include <span>

#include <attune/concepts/backend.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/view.hpp>
#include <attune/cuda/launch.cuh>
#include <attune/cuda/shapes.cuh>
#include <attune/device/token_kl.hpp>
#include <attune/device/token_kl_adjoint.hpp>

/// Divergences of whole rows, as cuda_backend queues them: its memory, its errors, its storage.
namespace attune::cuda {

template <unsigned threads, class S>
void token_kl(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
              kl_direction direction, row_kl<float> out, stream_view stream) {
  expects_two(logits, ref_logits, targets);
  expects_divergences(row_kl<float const>{out.kl, out.log_normalizers, out.ref_log_normalizers}, logits.rows);
  launch<threads>("token_kl",
                  device::token_kl<S>{.logits = logits,
                                      .ref_logits = ref_logits,
                                      .targets = targets.data(),
                                      .direction = direction,
                                      .kl = out.kl.data(),
                                      .log_normalizers = out.log_normalizers.data(),
                                      .ref_log_normalizers = out.ref_log_normalizers.data()},
                  logits.rows, stream);
}

template <unsigned threads, class S>
void token_kl_adjoint(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
                      kl_direction direction, row_kl<float const> of, std::span<float const> slopes,
                      matrix_view<S> dlogits, stream_view stream) {
  expects_two(logits, ref_logits, targets);
  expects_divergences(of, logits.rows);
  expects(slopes.size() == logits.rows, "token_kl_adjoint: one slope per row", slopes.size());
  expects_matrix(dlogits);
  expects(dlogits.rows == logits.rows && dlogits.cols == logits.cols, "token_kl_adjoint: dlogits shaped as logits");
  launch<threads>("token_kl_adjoint",
                  device::token_kl_adjoint<S>{.logits = logits,
                                              .ref_logits = ref_logits,
                                              .targets = targets.data(),
                                              .direction = direction,
                                              .kl = of.kl.data(),
                                              .log_normalizers = of.log_normalizers.data(),
                                              .ref_log_normalizers = of.ref_log_normalizers.data(),
                                              .slopes = slopes.data(),
                                              .dlogits = dlogits},
                  logits.rows, stream);
}

}  // namespace attune::cuda
