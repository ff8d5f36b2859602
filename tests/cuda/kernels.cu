// SPDX-License-Identifier: MIT
#include "kernels.hpp"

#include <attune/cuda/backend.cuh>
#include <attune/cuda/cublaslt_gemm.cuh>
#include <attune/cuda/loss_on_logits.cuh>
#include <attune/cuda/objectives.cuh>

namespace kernels {

using cuda::cuda_backend;
using cuda::cublaslt_gemm;

void run_probe(probe const& body, std::size_t blocks, cudaStream_t stream) {
  cuda::launch<probe::width>("probe", body, blocks, stream);
}

void segment_sum(std::span<float const> values, std::span<std::size_t const> offsets, std::span<float> out, cudaStream_t stream) {
  cuda_backend<float>{}.segment_sum(values, offsets, out, stream);
}

void segment_broadcast(std::span<float const> values, std::span<std::size_t const> offsets, std::span<float> out,
                       cudaStream_t stream) {
  cuda_backend<float>{}.segment_broadcast(values, offsets, out, stream);
}

void dpo_loss(pair_logps<float> logps, pair_slopes<float> slopes, dpo_options const& options, std::size_t total, double* loss,
              std::span<double> workspace, cudaStream_t stream, pair_ratios const& ratios) {
  cuda::pair_loss(logps, slopes, options, total, loss, workspace, stream, ratios);
}

void bradley_terry_loss(pair_scores<float> scores, pair_slopes<float> slopes, bradley_terry_options const& options,
                        std::size_t total_pairs, double* loss, std::span<double> workspace, cudaStream_t stream) {
  cuda::bradley_terry_loss(scores, slopes, options, total_pairs, loss, workspace, stream);
}

void ppo_loss(policy_gradient_tokens<float> of, std::span<std::uint8_t const> mask, std::span<float> slopes, double weight,
              std::span<float const> weights, ppo_options const& surrogate, double* sums, std::span<double> workspace,
              cudaStream_t stream, kl_loss_options const& kl_loss) {
  cuda::policy_gradient_loss(of, mask, slopes, weight, weights, surrogate,
                             reinterpret_cast<cuda::policy_gradient_sums*>(sums), workspace, stream, kl_loss);
}

void gae(gae_inputs<float> of, std::span<std::uint8_t const> mask, std::span<std::size_t const> offsets, gae_outputs<float> out,
         gae_options const& options, cudaStream_t stream) {
  cuda::gae(of, mask, offsets, out, options, stream);
}

void whiten(std::span<float const> values, std::span<std::uint8_t const> mask, std::span<float> whitened,
            whiten_options const& options, cudaStream_t stream) {
  cuda::whiten(values, mask, whitened, options, stream);
}

template <class S>
void operations<S>::token_logps(matrix_view<S const> logits, std::span<token_id const> targets, row_logps<float> out, cudaStream_t stream) {
  cuda_backend<S>{}.token_logps(logits, targets, out, stream);
}

template <class S>
void operations<S>::token_logps_adjoint(matrix_view<S const> logits, std::span<token_id const> targets,
                         std::span<float const> log_normalizers, row_slopes<float> slopes, matrix_view<S> dlogits,
                         cudaStream_t stream) {
  cuda_backend<S>{}.token_logps_adjoint(logits, targets, log_normalizers, slopes, dlogits, stream);
}

template <class S>
void operations<S>::summarize_shard(matrix_view<S const> logits, std::size_t first, std::span<token_id const> targets,
                                    device::row_terms with, std::span<device::shard_summary> out, cudaStream_t stream) {
  cuda_backend<S>{}.summarize_shard(logits, first, targets, with, out, stream);
}

template <class S>
void operations<S>::combine_shards(std::span<device::shard_summary const> parts, std::size_t shards, std::size_t vocabulary,
                                   std::span<token_id const> targets, row_logps<float> out, cudaStream_t stream) {
  cuda_backend<S>{}.combine_shards(parts, shards, vocabulary, targets, out, stream);
}

template <class S>
void operations<S>::shard_adjoint(matrix_view<S const> logits, std::size_t first, std::size_t vocabulary,
                                  std::span<token_id const> targets, std::span<float const> log_normalizers,
                                  row_slopes<float> slopes, matrix_view<S> dlogits, cudaStream_t stream) {
  cuda_backend<S>{}.shard_adjoint(logits, first, vocabulary, targets, log_normalizers, slopes, dlogits, stream);
}

template <class S>
void operations<S>::sample_tokens(matrix_view<S const> logits, float temperature, std::uint64_t seed,
                                  std::span<std::uint64_t const> streams, std::uint32_t position, std::span<token_id> out,
                                  cudaStream_t stream) {
  cuda_backend<S>{}.sample_tokens(logits, temperature, seed, streams, position, out, stream);
}

static cublaslt_gemm gemm_of(products by) { return cublaslt_gemm(by.handle, by.workspace, by.workspace_bytes); }

void product(gemm_call<float> const& call, float alpha, float beta, products by, cudaStream_t stream) {
  gemm_of(by)(call, alpha, beta, stream);
}

template <class S>
std::size_t operations<S>::workspace_bytes(chunks of, std::size_t rows, std::size_t vocabulary, std::size_t width) {
  return cuda_backend<S>(of.rows, of.gradients).workspace_bytes(rows, vocabulary, width);
}

template <class S>
void operations<S>::linear_token_logps(chunks of, matrix_view<S const> hidden, matrix_view<S const> head,
                                       std::span<token_id const> targets, row_logps<float> out,
                                       std::span<std::byte> workspace, products by, cudaStream_t stream) {
  cuda_backend<S>(of.rows, of.gradients)
      .linear_token_logps(hidden, head, targets, out, workspace, gemm_of(by), stream);
}

template <class S>
void operations<S>::linear_token_logps_adjoint(chunks of, matrix_view<S const> hidden, matrix_view<S const> head,
                                               std::span<token_id const> targets, std::span<float const> log_normalizers,
                                               row_slopes<float> slopes, matrix_view<S> dhidden, matrix_view<float> dhead,
                                               std::span<std::byte> workspace, products by, cudaStream_t stream) {
  cuda_backend<S>(of.rows, of.gradients)
      .linear_token_logps_adjoint(hidden, head, targets, log_normalizers, slopes, dhidden, dhead, workspace, gemm_of(by),
                                  stream);
}

template <class S>
void operations<S>::token_kl(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
                             kl_direction direction, row_kl<float> out, cudaStream_t stream) {
  cuda_backend<S>{}.token_kl(logits, ref_logits, targets, direction, out, stream);
}

template <class S>
void operations<S>::token_kl_adjoint(matrix_view<S const> logits, matrix_view<S const> ref_logits,
                                     std::span<token_id const> targets, kl_direction direction, row_kl<float const> of,
                                     std::span<float const> slopes, matrix_view<S> dlogits, cudaStream_t stream) {
  cuda_backend<S>{}.token_kl_adjoint(logits, ref_logits, targets, direction, of, slopes, dlogits, stream);
}

template <class S>
std::size_t operations<S>::squared_norm_workspace(std::size_t count) {
  return cuda_backend<S>::squared_norm_workspace(count);
}

template <class S>
void operations<S>::squared_norm(std::span<S const> values, double* out, std::span<double> workspace, cudaStream_t stream) {
  cuda_backend<S>{}.squared_norm(values, out, workspace, stream);
}

template <class S>
void operations<S>::adamw(adamw_update<float> update, std::span<float> value, std::span<S const> gradient,
                          std::span<float> first, std::span<float> second, std::span<S> copy, cudaStream_t stream) {
  cuda_backend<S>{}.adamw(update, value, gradient, first, second, copy, stream);
}

namespace {

cuda::sft_on_tokens objective_of(sft_question const& q) { return {q.options, q.totals}; }
template <class O>
cuda::pairs_on_tokens<O> objective_of(pairs_question<O> const& q) {
  return {q.ref_logps, q.options, q.totals, q.ratios};
}
template <class O>
cuda::policy_gradient_on_tokens<O> objective_of(policy_question<O> const& q) {
  return {q.old_logps, q.advantages, q.ref_logps, q.totals, q.aggregation, q.options,
          reinterpret_cast<cuda::policy_gradient_sums*>(q.statistics), q.kl_loss};
}

}  // namespace

template <class S>
std::size_t losses<S>::on_logits_bytes(question const& ask, std::size_t tokens, std::size_t sequences) {
  return std::visit([&](auto const& q) { return cuda::loss_on_logits_bytes(objective_of(q), tokens, sequences); }, ask);
}

template <class S>
void losses<S>::on_logits(question const& ask, matrix_view<S const> logits, sequences_view batch, matrix_view<S> dlogits,
                          double* loss, std::span<std::byte> workspace, cudaStream_t stream) {
  std::visit(
      [&](auto const& q) {
        cuda::loss_on_logits(cuda_backend<S>{}, objective_of(q), logits, batch, dlogits, loss, workspace, stream);
      },
      ask);
}

template <class S>
std::size_t losses<S>::on_hidden_bytes(std::size_t chunk, question const& ask, std::size_t tokens, std::size_t sequences,
                                       std::size_t vocabulary, std::size_t width) {
  return std::visit(
      [&](auto const& q) {
        return cuda::loss_on_hidden_bytes(cuda_backend<S>(chunk), objective_of(q), tokens, sequences, vocabulary, width);
      },
      ask);
}

template <class S>
void losses<S>::on_hidden(std::size_t chunk, question const& ask, matrix_view<S const> hidden, matrix_view<S const> head,
                          sequences_view batch, matrix_view<S> dhidden, matrix_view<float> dhead, double* loss,
                          std::span<std::byte> workspace, cublasLtHandle_t cublas, cudaStream_t stream) {
  std::visit(
      [&](auto const& q) {
        cuda::loss_on_hidden(cuda_backend<S>(chunk), objective_of(q), hidden, head, batch, dhidden, dhead, loss, workspace,
                             cublaslt_gemm(cublas), stream);
      },
      ask);
}

template <class S>
std::size_t losses<S>::logps_bytes(std::size_t tokens) {
  return cuda::logps_on_logits_bytes(tokens);
}

template <class S>
void losses<S>::logps(matrix_view<S const> logits, sequences_view batch, std::span<float> logps, std::span<std::byte> workspace,
                      cudaStream_t stream) {
  cuda::logps_on_logits(cuda_backend<S>{}, logits, batch, logps, workspace, stream);
}

void sequence_sums(std::span<float const> logps, sequences_view batch, std::span<double> sums, cudaStream_t stream) {
  cuda::sequence_sums(logps, batch, sums, stream);
}

template struct losses<float>;
template struct losses<bf16>;
template struct losses<f16>;
template struct operations<float>;
template struct operations<bf16>;
template struct operations<f16>;

}  // namespace kernels
