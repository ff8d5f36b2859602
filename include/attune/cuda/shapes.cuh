// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include <attune/concepts/backend.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/view.hpp>

/// What the operations of backend.cuh ask of views and spans before they launch anything: their shapes alone, since what
/// they hold lies on the device. contract_violation, which says what does not fit and by how much.
namespace attune::cuda {

template <class T>
void expects_matrix(matrix_view<T> m) {
  expects(m.rows == 0 || m.row_stride >= m.cols, "cuda_backend: row_stride >= cols", m.row_stride);
  expects(m.rows == 0 || m.cols == 0 || m.data != nullptr, "cuda_backend: a matrix with elements has memory");
}

template <class S>
void expects_rows(matrix_view<S const> logits, std::span<token_id const> targets) {
  expects_matrix(logits);
  expects(targets.size() == logits.rows, "cuda_backend: one target per row", targets.size());
  expects(logits.rows == 0 || logits.cols > 0, "cuda_backend: a vocabulary of at least one entry");
}

inline void expects_outputs(row_logps<float> const& out, std::size_t rows) {
  auto const fits = [rows](std::span<float> s) { return s.empty() || s.size() == rows; };
  expects(out.logps.size() == rows, "row_logps.logps: one per row", out.logps.size());
  expects(out.log_normalizers.size() == rows, "row_logps.log_normalizers: one per row", out.log_normalizers.size());
  expects(fits(out.mean_logps), "row_logps.mean_logps: empty, or one per row", out.mean_logps.size());
  expects(fits(out.entropies), "row_logps.entropies: empty, or one per row", out.entropies.size());
  expects(fits(out.collisions), "row_logps.collisions: empty, or one per row", out.collisions.size());
}

inline void expects_slopes(std::span<float const> log_normalizers, row_slopes<float> const& slopes,
                           std::size_t rows) {
  auto const fits = [rows](std::span<float const> s) { return s.empty() || s.size() == rows; };
  expects(log_normalizers.size() == rows, "cuda_backend: one log_normalizer per row", log_normalizers.size());
  expects(slopes.logps.size() == rows, "row_slopes.logps: one per row", slopes.logps.size());
  expects(fits(slopes.mean_logps), "row_slopes.mean_logps: empty, or one per row", slopes.mean_logps.size());
  expects(fits(slopes.entropy_slopes), "row_slopes.entropy_slopes: empty, or one per row",
          slopes.entropy_slopes.size());
  expects(slopes.entropies.size() == slopes.entropy_slopes.size(), "row_slopes.entropies: as many as entropy_slopes",
          slopes.entropies.size());
  expects(fits(slopes.log_normalizers), "row_slopes.log_normalizers: empty, or one per row",
          slopes.log_normalizers.size());
}

template <class S>
void expects_two(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets) {
  expects_rows(logits, targets);
  expects_matrix(ref_logits);
  expects(ref_logits.rows == logits.rows && ref_logits.cols == logits.cols,
          "cuda_backend: ref_logits shaped as logits");
}

inline void expects_divergences(row_kl<float const> const& of, std::size_t rows) {
  expects(of.kl.size() == rows, "row_kl.kl: one per row", of.kl.size());
  expects(of.log_normalizers.size() == rows, "row_kl.log_normalizers: one per row", of.log_normalizers.size());
  expects(of.ref_log_normalizers.size() == rows, "row_kl.ref_log_normalizers: one per row",
          of.ref_log_normalizers.size());
}

inline void expects_segments(std::span<std::size_t const> offsets, std::size_t segments, std::size_t total) {
  expects(offsets.size() == segments + 1 || (offsets.empty() && segments == 0 && total == 0),
          "cuda_backend: offsets.size() == segments + 1", offsets.size());
}

}  // namespace attune::cuda
