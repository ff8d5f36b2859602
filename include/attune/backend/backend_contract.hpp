// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include <attune/concepts/backend.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/view.hpp>

/// What every backend in host memory refuses at its boundary, O(rows), before it writes anything. Each function throws
/// contract_violation.
namespace attune {

template <class T>
void expects_matrix(matrix_view<T> m) {
  expects(m.rows == 0 || m.row_stride >= m.cols, "backend: row_stride >= cols", m.row_stride);
  expects(m.rows == 0 || m.cols == 0 || m.data != nullptr, "backend: a matrix with elements has memory");
}

/// Every target is an id below the vocabulary, or no_target.
inline void expects_targets(std::span<token_id const> targets, std::size_t rows, std::size_t vocabulary) {
  expects(targets.size() == rows, "backend: one target per row", targets.size());
  expects(rows == 0 || vocabulary > 0, "backend: a vocabulary of at least one entry");
  for (std::size_t i = 0; i < rows; ++i)
    if (targets[i] != no_target && (targets[i] < 0 || static_cast<std::size_t>(targets[i]) >= vocabulary))
      throw contract_violation("backend: row " + std::to_string(i) + ": expected a target below " +
                               std::to_string(vocabulary) + " or no_target, got " + std::to_string(targets[i]));
}

template <class T>
void expects_outputs(row_logps<T> const& out, std::size_t rows) {
  expects(out.logps.size() == rows, "row_logps.logps: one per row", out.logps.size());
  expects(out.log_normalizers.size() == rows, "row_logps.log_normalizers: one per row", out.log_normalizers.size());
  expects(out.mean_logps.empty() || out.mean_logps.size() == rows, "row_logps.mean_logps: empty, or one per row",
          out.mean_logps.size());
  expects(out.entropies.empty() || out.entropies.size() == rows, "row_logps.entropies: empty, or one per row",
          out.entropies.size());
  expects(out.collisions.empty() || out.collisions.size() == rows, "row_logps.collisions: empty, or one per row",
          out.collisions.size());
}

template <class T>
void expects_slopes(std::span<T const> log_normalizers, row_slopes<T> const& slopes, std::size_t rows) {
  expects(log_normalizers.size() == rows, "backend: one log_normalizer per row", log_normalizers.size());
  expects(slopes.logps.size() == rows, "row_slopes.logps: one per row", slopes.logps.size());
  expects(slopes.mean_logps.empty() || slopes.mean_logps.size() == rows, "row_slopes.mean_logps: empty, or one per row",
          slopes.mean_logps.size());
  expects(slopes.entropy_slopes.empty() || slopes.entropy_slopes.size() == rows,
          "row_slopes.entropy_slopes: empty, or one per row", slopes.entropy_slopes.size());
  expects(slopes.entropies.size() == slopes.entropy_slopes.size(), "row_slopes.entropies: as many as entropy_slopes",
          slopes.entropies.size());
  expects(slopes.log_normalizers.empty() || slopes.log_normalizers.size() == rows,
          "row_slopes.log_normalizers: empty, or one per row", slopes.log_normalizers.size());
}

/// What token_logps_adjoint is called with.
template <class S, class T>
void expects_adjoint(matrix_view<S const> logits, std::span<token_id const> targets, std::span<T const> log_normalizers,
                     row_slopes<T> const& slopes, matrix_view<S> dlogits) {
  expects_matrix(logits);
  expects_matrix(dlogits);
  expects(dlogits.rows == logits.rows && dlogits.cols == logits.cols, "token_logps_adjoint: dlogits shaped as logits");
  expects_targets(targets, logits.rows, logits.cols);
  expects_slopes(log_normalizers, slopes, logits.rows);
}

/// What both linear operations are called with; `least`: linear_workspace(N, V, D).
template <class S, class T>
void expects_linear(matrix_view<S const> hidden, matrix_view<S const> head, std::span<token_id const> targets,
                    std::span<T> workspace, std::size_t least) {
  expects_matrix(hidden);
  expects_matrix(head);
  expects(hidden.cols == head.cols, "backend: hidden and head of one width", head.cols);
  expects_targets(targets, hidden.rows, head.rows);
  expects(workspace.size() >= least, "backend: workspace.size() >= linear_workspace(N, V, D)", workspace.size());
}

/// And what their adjoint is called with besides.
template <class S, class T>
void expects_linear_adjoint(matrix_view<S const> hidden, matrix_view<S const> head, std::span<T const> log_normalizers,
                            row_slopes<T> const& slopes, matrix_view<S> dhidden, matrix_view<T> dhead) {
  expects_slopes(log_normalizers, slopes, hidden.rows);
  expects_matrix(dhidden);
  expects_matrix(dhead);
  expects(dhidden.rows == hidden.rows && dhidden.cols == hidden.cols,
          "linear_token_logps_adjoint: dhidden shaped as hidden");
  expects(dhead.rows == head.rows && dhead.cols == head.cols, "linear_token_logps_adjoint: dhead shaped as head");
}

/// Two matrices of logits of one shape, targets for their rows, and one of each result per row.
template <class T, class U>
void expects_divergence(matrix_view<T const> logits, matrix_view<T const> ref_logits, std::span<token_id const> targets,
                        row_kl<U> const& of) {
  expects_matrix(logits);
  expects_matrix(ref_logits);
  expects(ref_logits.rows == logits.rows && ref_logits.cols == logits.cols, "token_kl: ref_logits shaped as logits");
  expects_targets(targets, logits.rows, logits.cols);
  expects(of.kl.size() == logits.rows, "row_kl.kl: one per row", of.kl.size());
  expects(of.log_normalizers.size() == logits.rows, "row_kl.log_normalizers: one per row", of.log_normalizers.size());
  expects(of.ref_log_normalizers.size() == logits.rows, "row_kl.ref_log_normalizers: one per row",
          of.ref_log_normalizers.size());
}

template <class S, class T>
void expects_divergence_slopes(matrix_view<S const> logits, std::span<T const> slopes, matrix_view<S> dlogits) {
  expects_matrix(dlogits);
  expects(slopes.size() == logits.rows, "token_kl_adjoint: one slope per row", slopes.size());
  expects(dlogits.rows == logits.rows && dlogits.cols == logits.cols, "token_kl_adjoint: dlogits shaped as logits");
}

/// Offsets of `segments` segments that cover `total` values in order.
inline void expects_segments(std::span<std::size_t const> offsets, std::size_t segments, std::size_t total) {
  expects(offsets.size() == segments + 1 || (offsets.empty() && segments == 0),
          "backend: offsets.size() == segments + 1", offsets.size());
  expects(offsets.empty() ? total == 0 : offsets.front() == 0 && offsets.back() == total,
          "backend: offsets run from 0 to the number of values");
  for (std::size_t b = 0; b < segments; ++b)
    expects(offsets[b] <= offsets[b + 1], "backend: offsets in order", offsets[b + 1]);
}

}  // namespace attune
