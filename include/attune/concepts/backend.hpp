// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>

#include <attune/core/adamw_update.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>

/// The primitive operations a tensor library or a device lends to attune, over raw views: any memory that has a pointer
/// and a row stride. Tensors of a library are viewed into, never copied; see the adapters in backend/.
namespace attune {

/// A target that asks for nothing: the row is skipped forward (logp 0) and gets a zero gradient backward.
inline constexpr token_id no_target = -1;

/// What the forward pass writes per row of logits. What is empty of all but the first two is not computed.
template <class T>
struct row_logps {
  std::span<T> logps;            // (N) log softmax(logits[i])[targets[i]]
  std::span<T> log_normalizers;  // (N) log sum over v of exp(logits[i][v])
  std::span<T> mean_logps = {};  // (N) or empty: 1/V sum over v of log softmax(logits[i])[v]
  std::span<T> entropies = {};   // (N) or empty: -sum over v of p_iv log p_iv, in nats, where p_i = softmax(logits[i])
  std::span<T> collisions = {};  // (N) or empty: log sum over v of p_iv^2; a weight, without an adjoint
};

/// What the backward pass reads per row: dL/d(row_logps), where what is empty is zero; and with slopes of entropies the
/// entropies themselves, as the forward pass wrote them.
template <class T>
struct row_slopes {
  std::span<T const> logps;
  std::span<T const> mean_logps = {};
  std::span<T const> entropies = {};       // values, not slopes
  std::span<T const> entropy_slopes = {};  // empty if and only if entropies is
  std::span<T const> log_normalizers = {};
};

/// Which way round the Kullback-Leibler divergence between a policy pi and its reference is taken.
enum class kl_direction {
  reverse,  ///< KL(pi || ref) = sum over v of pi log(pi / ref): that of reinforcement learning
  forward,  ///< KL(ref || pi) = sum over v of ref log(ref / pi): that of distillation
};

/// What token_kl writes per row, and what its adjoint reads back.
template <class T>
struct row_kl {
  std::span<T> kl;                   // (N) in nats, never negative
  std::span<T> log_normalizers;      // (N) of the policy's rows
  std::span<T> ref_log_normalizers;  // (N) of the reference's rows
};

/// Shapes: N rows, V vocabulary, D width. Numbers lie in two types: matrices of logits, hidden states and the head, and
/// the gradients that overwrite them, in B::storage; whatever is one per row or token, parameters' gradients and
/// moments, and the workspace in B::scalar, which is what storage is computed in (storage.hpp: float for bf16 and f16,
/// else the same). Sums over the vocabulary run in at least scalar's precision with the row's maximum subtracted, sums
/// over a segment in double. What goes to storage is rounded once. Nothing is allocated; scratch is passed in.
///
///   token_logps(logits (N,V), targets (N), row_logps)
///   token_logps_adjoint(logits, targets, log_normalizers (N), row_slopes, dlogits (N,V))
///       dlogits[i][v] = slope_i (1[v = target] - p_iv) + mean_slope_i (1/V - p_iv)
///                       - entropy_slope_i p_iv (log p_iv + entropy_i) + log_normalizer_slope_i p_iv;
///       overwritten; may be logits itself
///   linear_token_logps(hidden (N,D), head (V,D), targets, row_logps, workspace)
///       the same for logits = hidden head^T, of which only a chunk of rows exists at a time; rows without a target
///       are dropped before the product
///   linear_token_logps_adjoint(hidden, head, targets, log_normalizers, row_slopes, dhidden (N,D), dhead (V,D),
///                              workspace)
///       dhidden is overwritten (zero rows where there is no target), dhead, in scalar, is added to; no aliasing
///   linear_workspace(N, V, D)                     elements of scalar that both linear calls need
///   token_kl(logits (N,V), ref_logits (N,V), targets (N), direction, row_kl)
///       the divergence of whole rows, p_i = softmax(logits[i]) from q_i = softmax(ref_logits[i]); targets say only
///       which rows count, the others get 0
///   token_kl_adjoint(logits, ref_logits, targets, direction, row_kl, slopes (N), dlogits (N,V))
///       reverse: slope_i p_iv (log p_iv - log q_iv - kl_i), forward: slope_i (p_iv - q_iv); added to dlogits, of which
///       rows without a target are not touched; nothing flows to the reference; no aliasing
///   segment_sum(values (T), offsets (B+1), out (B))
///   segment_broadcast(values (B), offsets (B+1), out (T))
///   squared_norm(values) -> double
///   adamw(update, value, gradient, first, second)  in place, elementwise: core/adamw_update.hpp
///
/// A row of logits may hold -inf (a masked vocabulary entry): its probability and gradient are exactly 0, and p log p
/// counts as 0, as does that of any probability that underflows. A target with
/// logit -inf has logp -inf. A row that is all -inf, or holds NaN or +inf, gives NaN for that row only.
/// In a divergence 0 log(0 / q) is 0, also where both are 0, and p log(p / 0) is +inf; the adjoint of a row whose
/// divergence is not finite is NaN. Laws are executable: testing::check_backend_laws. Modelled by: reference_backend
/// (plain loops, the oracle), eigen_backend, both with any storage. Those of the operations that are not about logits a
/// backend in host memory may inherit from host_operations.
template <class B>
concept Backend =
    std::floating_point<typename B::scalar> && StorageScalar<typename B::storage> &&
    std::same_as<typename B::scalar, arithmetic_t<typename B::storage>> &&
    requires(B& b, matrix_view<typename B::storage const> in, matrix_view<typename B::storage> out,
             matrix_view<typename B::scalar> dhead, std::span<token_id const> targets,
             row_logps<typename B::scalar> forward, row_slopes<typename B::scalar> slopes,
             std::span<typename B::scalar const> values, std::span<typename B::scalar> result,
             std::span<std::size_t const> offsets, std::size_t n, adamw_update<typename B::scalar> update,
             kl_direction direction, row_kl<typename B::scalar> divergence, row_kl<typename B::scalar const> seen) {
      b.token_logps(in, targets, forward);
      b.token_logps_adjoint(in, targets, values, slopes, out);
      b.linear_token_logps(in, in, targets, forward, result);
      b.linear_token_logps_adjoint(in, in, targets, values, slopes, out, dhead, result);
      { b.linear_workspace(n, n, n) } -> std::same_as<std::size_t>;
      b.token_kl(in, in, targets, direction, divergence);
      b.token_kl_adjoint(in, in, targets, direction, seen, values, out);
      b.segment_sum(values, offsets, result);
      b.segment_broadcast(values, offsets, result);
      { b.squared_norm(values) } -> std::same_as<double>;
      b.adamw(update, result, values, result, result);
    };

}  // namespace attune
