// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include <attune/concepts/backend.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/view.hpp>
#include <attune/cuda/backend.cuh>
#include <attune/cuda/error.cuh>
#include <attune/cuda/launch.cuh>
#include <attune/cuda/token_objectives.cuh>
#include <attune/cuda/workspace.cuh>
#include <attune/device/gemm_plan.hpp>
#include <attune/device/next_targets.hpp>
#include <attune/device/sequence_sums.hpp>

/// objective/loss_on_logits.hpp on a CUDA stream: logits, or hidden states and the output matrix, in; gradients and the
/// loss out, all of them in device memory, and nothing comes to the host in between. Rows and tokens meet as they do
/// there: row t belongs to batch.tokens[t] and predicts the token after it; the shift is done here.
///
/// The batch is a sequences_view whose spans lie on the device. It cannot be looked at from here: pass the host's copy
/// to validate(batch, vocabulary) before it goes there. Nothing is allocated, nothing waits; the workspace, at a
/// multiple of 16 bytes, holds what workspace_bytes says and may be that of any other call on the same stream.
namespace attune::cuda {

namespace detail {

/// The arrays of loss_workspace in a caller's memory. Those over tokens have one entry more than the batch: entry t + 1
/// is at once what row t predicts and what token t + 1 got. Entry 0 is nobody's row, and no token that the mask has in.
struct row_arrays {
  std::span<token_id> targets;
  std::span<float> logps, slopes, log_normalizers, normalizer_slopes;
  std::span<float> mean_logps, mean_slopes, entropies, entropy_slopes, collisions;

  [[nodiscard]] static constexpr std::size_t bytes(std::size_t tokens, token_terms terms) noexcept {
    std::size_t const arrays = 3u + (terms.log_normalizers ? 1u : 0u) + (terms.mean_logps ? 2u : 0u) +
                               (terms.entropies ? 2u : 0u) + (terms.collisions ? 1u : 0u);
    return workspace_cursor::bytes<token_id>(tokens) + arrays * workspace_cursor::bytes<float>(tokens + 1);
  }

  row_arrays(std::size_t tokens, token_terms terms, workspace_cursor& scratch) : terms_(terms) {
    auto const numbers = [&](bool wanted) { return wanted ? scratch.take<float>(tokens + 1) : std::span<float>(); };
    targets = scratch.take<token_id>(tokens);
    logps = numbers(true);
    slopes = numbers(true);
    log_normalizers = numbers(true);
    normalizer_slopes = numbers(terms.log_normalizers);
    mean_logps = numbers(terms.mean_logps);
    mean_slopes = numbers(terms.mean_logps);
    entropies = numbers(terms.entropies);
    entropy_slopes = numbers(terms.entropies);
    collisions = numbers(terms.collisions);
  }

  row_logps<float> forward() const {
    return {by_row(logps), by_row(log_normalizers), by_row(mean_logps), by_row(entropies), by_row(collisions)};
  }
  row_slopes<float> backward() const {
    return {by_row(slopes), by_row(mean_slopes), by_row(entropies), by_row(entropy_slopes), by_row(normalizer_slopes)};
  }
  term_values<float const> values() const {
    return {by_token(logps), by_token(mean_logps), by_token(entropies),
            terms_.log_normalizers ? by_token(log_normalizers) : std::span<float>(), by_token(collisions)};
  }
  term_slopes<float> value_slopes() const {
    return {by_token(slopes), by_token(mean_slopes), by_token(entropy_slopes), by_token(normalizer_slopes)};
  }

  static std::span<float> by_row(std::span<float> values) { return values.empty() ? values : values.subspan(1); }
  static std::span<float> by_token(std::span<float> values) {
    return values.empty() ? values : values.first(values.size() - 1);
  }

 private:
  token_terms terms_;
};

inline void queue_targets(sequences_view batch, std::span<token_id> targets, stream_view stream) {
  expects(batch.mask.size() == batch.total_tokens(), "cuda: mask.size() == tokens.size()", batch.mask.size());
  launch<objective_threads>("next_targets",
                            device::next_targets{.tokens = batch.tokens.data(),
                                                 .mask = batch.mask.data(),
                                                 .offsets = batch.offsets.data(),
                                                 .sequences = batch.size(),
                                                 .targets = targets.data()},
                            blocks_of_warps(batch.size()), stream);
}

}  // namespace detail

/// Bytes that loss_on_logits needs for a batch of so many tokens and sequences.
template <StreamObjective O>
[[nodiscard]] std::size_t loss_on_logits_bytes(O const& objective, std::size_t tokens, std::size_t sequences) {
  return detail::row_arrays::bytes(tokens, objective.terms()) + objective.workspace_bytes(tokens, sequences);
}

/// Bytes that loss_on_hidden needs, chunks of logits included.
template <class S, StreamObjective O>
[[nodiscard]] std::size_t loss_on_hidden_bytes(cuda_backend<S> const& backend, O const& objective, std::size_t tokens,
                                               std::size_t sequences, std::size_t vocabulary, std::size_t width) {
  return loss_on_logits_bytes(objective, tokens, sequences) + backend.workspace_bytes(tokens, vocabulary, width);
}

/// *loss and dlogits (T, V) of a batch from its logits (T, V). dlogits may be the logits themselves.
template <class S, StreamObjective O>
void loss_on_logits(cuda_backend<S> const& backend, O const& objective,
                    std::type_identity_t<matrix_view<S const>> logits, sequences_view batch,
                    std::type_identity_t<matrix_view<S>> dlogits, double* loss, std::span<std::byte> workspace,
                    stream_view stream) {
  std::size_t const tokens = batch.total_tokens();
  expects(logits.rows == tokens, "cuda::loss_on_logits: logits.rows == batch.total_tokens()", logits.rows);
  expects(dlogits.rows == tokens, "cuda::loss_on_logits: dlogits.rows == logits.rows", dlogits.rows);
  expects(dlogits.cols == logits.cols, "cuda::loss_on_logits: dlogits.cols == logits.cols", dlogits.cols);
  workspace_cursor scratch(workspace);
  detail::row_arrays const rows(tokens, objective.terms(), scratch);
  detail::queue_targets(batch, rows.targets, stream);
  backend.token_logps(logits, rows.targets, rows.forward(), stream);
  objective(batch, rows.values(), rows.value_slopes(), loss, scratch.rest(), stream);
  backend.token_logps_adjoint(logits, rows.targets, detail::row_arrays::by_row(rows.log_normalizers), rows.backward(),
                              dlogits, stream);
}

/// The same from hidden states (T, D) and the output matrix (V, D), without logits ever existing as a whole. Overwrites
/// dhidden (T, D) and adds to dhead (V, D), in float. No aliasing.
template <class S, StreamObjective O, class G>
void loss_on_hidden(cuda_backend<S> const& backend, O const& objective,
                    std::type_identity_t<matrix_view<S const>> hidden, std::type_identity_t<matrix_view<S const>> head,
                    sequences_view batch, std::type_identity_t<matrix_view<S>> dhidden, matrix_view<float> dhead,
                    double* loss, std::span<std::byte> workspace, G const& gemm, stream_view stream) {
  std::size_t const tokens = batch.total_tokens();
  expects(hidden.rows == tokens, "cuda::loss_on_hidden: hidden.rows == batch.total_tokens()", hidden.rows);
  workspace_cursor scratch(workspace);
  detail::row_arrays const rows(tokens, objective.terms(), scratch);
  std::span<std::byte> const chunk =
      scratch.template take<std::byte>(backend.workspace_bytes(tokens, head.rows, head.cols));
  detail::queue_targets(batch, rows.targets, stream);
  backend.linear_token_logps(hidden, head, rows.targets, rows.forward(), chunk, gemm, stream);
  objective(batch, rows.values(), rows.value_slopes(), loss, scratch.rest(), stream);
  backend.linear_token_logps_adjoint(hidden, head, rows.targets, detail::row_arrays::by_row(rows.log_normalizers),
                                     rows.backward(), dhidden, dhead, chunk, gemm, stream);
}

/// Bytes that logps_on_logits needs.
[[nodiscard]] constexpr std::size_t logps_on_logits_bytes(std::size_t tokens) noexcept {
  return workspace_cursor::bytes<token_id>(tokens) + workspace_cursor::bytes<float>(tokens);
}

/// Token log-probabilities alone, for a reference or an evaluation: logps[t] scores batch.tokens[t], 0 where the mask
/// is 0. sequence_sums makes of them what pairs_on_tokens reads of a reference. Workspace: logps_on_logits_bytes.
template <class S>
void logps_on_logits(cuda_backend<S> const& backend, std::type_identity_t<matrix_view<S const>> logits,
                     sequences_view batch, std::span<float> logps, std::span<std::byte> workspace, stream_view stream) {
  std::size_t const tokens = batch.total_tokens();
  expects(logits.rows == tokens, "cuda::logps_on_logits: logits.rows == batch.total_tokens()", logits.rows);
  expects(logps.size() == tokens, "cuda::logps_on_logits: logps.size() == batch.total_tokens()", logps.size());
  if (tokens == 0) return;
  workspace_cursor scratch(workspace);
  std::span<token_id> const targets = scratch.take<token_id>(tokens);
  std::span<float> const log_normalizers = scratch.take<float>(tokens);
  detail::queue_targets(batch, targets, stream);
  // What the last row predicts, which is nothing, has no place among the tokens; the first token has no row.
  std::size_t const rows = tokens - 1;
  backend.token_logps(logits.middle_rows(0, rows), targets.first(rows), {logps.subspan(1), log_normalizers.first(rows)},
                      stream);
  check("logps_on_logits", cudaMemsetAsync(logps.data(), 0, sizeof(float), stream.get()));
}

/// sums[b] = the sum over the masked-in tokens of sequence b, in double.
inline void sequence_sums(std::span<float const> logps, sequences_view batch, std::span<double> sums,
                          stream_view stream) {
  expects(logps.size() == batch.total_tokens(), "cuda::sequence_sums: logps.size() == batch.total_tokens()",
          logps.size());
  expects(batch.mask.size() == batch.total_tokens(), "cuda: mask.size() == tokens.size()", batch.mask.size());
  expects(sums.size() == batch.size(), "cuda::sequence_sums: sums.size() == batch.size()", sums.size());
  launch<objective_threads>("sequence_sums",
                            device::sequence_sums{.logps = logps.data(),
                                                  .mask = batch.mask.data(),
                                                  .offsets = batch.offsets.data(),
                                                  .sequences = batch.size(),
                                                  .sums = sums.data()},
                            detail::blocks_of_warps(batch.size()), stream);
}

}  // namespace attune::cuda
