// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>

#include <attune/core/adamw_update.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/view.hpp>

/// The primitive operations a tensor library or a device lends to attune, over raw views: any memory that has a pointer
/// and a row stride. Tensors of a library are viewed into, never copied; see the adapters in backend/.
namespace attune {

/// A target that asks for nothing: the row is skipped forward (logp 0) and gets a zero gradient backward.
inline constexpr token_id no_target = -1;

/// What the forward pass writes per row of logits. What is empty of the last two is not computed.
template <class T>
struct row_logps {
  std::span<T> logps;            // (N) log softmax(logits[i])[targets[i]]
  std::span<T> log_normalizers;  // (N) log sum over v of exp(logits[i][v])
  std::span<T> mean_logps = {};  // (N) or empty: 1/V sum over v of log softmax(logits[i])[v]
  std::span<T> entropies = {};   // (N) or empty: -sum over v of p_iv log p_iv, in nats, where p_i = softmax(logits[i])
};

/// What the backward pass reads per row: dL/d(row_logps), where what is empty is zero; and with slopes of entropies the
/// entropies themselves, as the forward pass wrote them.
template <class T>
struct row_slopes {
  std::span<T const> logps;
  std::span<T const> mean_logps = {};
  std::span<T const> entropies = {};       // values, not slopes
  std::span<T const> entropy_slopes = {};  // empty if and only if entropies is
};

/// Shapes: N rows, V vocabulary, D width. Storage is T; sums over the vocabulary run in at least T's precision with the
/// row's maximum subtracted, sums over a segment in double. Nothing is allocated; scratch is passed in.
///
///   token_logps(logits (N,V), targets (N), row_logps)
///   token_logps_adjoint(logits, targets, log_normalizers (N), row_slopes, dlogits (N,V))
///       dlogits[i][v] = slope_i (1[v = target] - p_iv) + mean_slope_i (1/V - p_iv)
///                       - entropy_slope_i p_iv (log p_iv + entropy_i); overwritten; may be logits itself
///   linear_token_logps(hidden (N,D), head (V,D), targets, row_logps, workspace)
///       the same for logits = hidden head^T, of which only a chunk of rows exists at a time; rows without a target
///       are dropped before the product
///   linear_token_logps_adjoint(hidden, head, targets, log_normalizers, row_slopes, dhidden (N,D), dhead (V,D), workspace)
///       dhidden is overwritten (zero rows where there is no target), dhead is added to; no aliasing
///   linear_workspace(N, V, D)                     elements of T that both linear calls need
///   segment_sum(values (T), offsets (B+1), out (B))
///   segment_broadcast(values (B), offsets (B+1), out (T))
///   squared_norm(values) -> double
///   adamw(update, value, gradient, first, second)  in place, elementwise: core/adamw_update.hpp
///
/// A row of logits may hold -inf (a masked vocabulary entry): its probability and gradient are exactly 0, and p log p
/// counts as 0, as does that of any probability that underflows. A target with
/// logit -inf has logp -inf. A row that is all -inf, or holds NaN or +inf, gives NaN for that row only.
/// Laws are executable: testing::check_backend_laws.
/// Modelled by: reference_backend (plain loops, the oracle), eigen_backend.
template <class B>
concept Backend =
    std::floating_point<typename B::scalar> &&
    requires(B& b, matrix_view<typename B::scalar const> in, matrix_view<typename B::scalar> out,
             std::span<token_id const> targets, row_logps<typename B::scalar> forward,
             row_slopes<typename B::scalar> slopes, std::span<typename B::scalar const> values,
             std::span<typename B::scalar> result, std::span<std::size_t const> offsets, std::size_t n,
             adamw_update<typename B::scalar> update) {
      b.token_logps(in, targets, forward);
      b.token_logps_adjoint(in, targets, values, slopes, out);
      b.linear_token_logps(in, in, targets, forward, result);
      b.linear_token_logps_adjoint(in, in, targets, values, slopes, out, out, result);
      { b.linear_workspace(n, n, n) } -> std::same_as<std::size_t>;
      b.segment_sum(values, offsets, result);
      b.segment_broadcast(values, offsets, result);
      { b.squared_norm(values) } -> std::same_as<double>;
      b.adamw(update, result, values, result, result);
    };

}  // namespace attune
