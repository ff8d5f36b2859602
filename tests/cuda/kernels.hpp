// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <attune/concepts/backend.hpp>
#include <attune/core/adamw_update.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>
#include <attune/cuda/chunk_workspace.cuh>
#include <attune/device/gemm_plan.hpp>
#include <attune/device/vocabulary_shards.hpp>
#include <attune/objective/bradley_terry.hpp>
#include <attune/objective/gae.hpp>
#include <attune/objective/gspo.hpp>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/objective/pairwise/pair_loss.hpp>
#include <attune/objective/pairwise/simpo.hpp>
#include <attune/objective/ppo.hpp>
#include <attune/objective/sft.hpp>
#include <attune/objective/whiten.hpp>

#include "probe.hpp"

/// The adapter for code that g++ compiles: kernels.cu defines each for S = float, bf16 and f16. Pointers are the device's.
namespace kernels {

using namespace attune;

void run_probe(probe const& body, std::size_t blocks, cudaStream_t stream);

void segment_sum(std::span<float const> values, std::span<std::size_t const> offsets, std::span<float> out, cudaStream_t stream);
void segment_broadcast(std::span<float const> values, std::span<std::size_t const> offsets, std::span<float> out,
                       cudaStream_t stream);

void dpo_loss(pair_logps<float> logps, pair_slopes<float> slopes, dpo_options const& options, std::size_t total, double* loss,
              std::span<double> workspace, cudaStream_t stream, pair_ratios const& ratios = {});
void bradley_terry_loss(pair_scores<float> scores, pair_slopes<float> slopes, bradley_terry_options const& options,
                        std::size_t total_pairs, double* loss, std::span<double> workspace, cudaStream_t stream);

/// sums: cuda::policy_gradient_sums, eight doubles.
void ppo_loss(policy_gradient_tokens<float> of, std::span<std::uint8_t const> mask, std::span<float> slopes, double weight,
              std::span<float const> weights, ppo_options const& surrogate, double* sums, std::span<double> workspace,
              cudaStream_t stream, kl_loss_options const& kl_loss = {});
void gae(gae_inputs<float> of, std::span<std::uint8_t const> mask, std::span<std::size_t const> offsets, gae_outputs<float> out,
         gae_options const& options, cudaStream_t stream);
void whiten(std::span<float const> values, std::span<std::uint8_t const> mask, std::span<float> whitened,
            whiten_options const& options, cudaStream_t stream);

/// Rows of a chunk of the linear head, and how their gradients are stored.
struct chunks {
  std::size_t rows;
  cuda::logit_gradients gradients = cuda::logit_gradients::split;
};

/// What makes a product: cuda::cublaslt_gemm's arguments.
struct products {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

void product(gemm_call<float> const& call, float alpha, float beta, products by, cudaStream_t stream);

template <class S>
struct operations {
  static void token_logps(matrix_view<S const> logits, std::span<token_id const> targets, row_logps<float> out,
                          cudaStream_t stream);
  static void token_logps_adjoint(matrix_view<S const> logits, std::span<token_id const> targets,
                                  std::span<float const> log_normalizers, row_slopes<float> slopes, matrix_view<S> dlogits,
                                  cudaStream_t stream);
  static void summarize_shard(matrix_view<S const> logits, std::size_t first, std::span<token_id const> targets,
                              device::row_terms with, std::span<device::shard_summary> out, cudaStream_t stream);
  static void combine_shards(std::span<device::shard_summary const> parts, std::size_t shards, std::size_t vocabulary,
                             std::span<token_id const> targets, row_logps<float> out, cudaStream_t stream);
  static void shard_adjoint(matrix_view<S const> logits, std::size_t first, std::size_t vocabulary,
                            std::span<token_id const> targets, std::span<float const> log_normalizers, row_slopes<float> slopes,
                            matrix_view<S> dlogits, cudaStream_t stream);
  static void sample_tokens(matrix_view<S const> logits, float temperature, std::uint64_t seed,
                            std::span<std::uint64_t const> streams, std::uint32_t position, std::span<token_id> out,
                            cudaStream_t stream);
  static std::size_t workspace_bytes(chunks of, std::size_t rows, std::size_t vocabulary, std::size_t width);
  static void linear_token_logps(chunks of, matrix_view<S const> hidden, matrix_view<S const> head,
                                 std::span<token_id const> targets, row_logps<float> out, std::span<std::byte> workspace,
                                 products by, cudaStream_t stream);
  static void linear_token_logps_adjoint(chunks of, matrix_view<S const> hidden, matrix_view<S const> head,
                                         std::span<token_id const> targets, std::span<float const> log_normalizers,
                                         row_slopes<float> slopes, matrix_view<S> dhidden, matrix_view<float> dhead,
                                         std::span<std::byte> workspace, products by, cudaStream_t stream);
  static void token_kl(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
                       kl_direction direction, row_kl<float> out, cudaStream_t stream);
  static void token_kl_adjoint(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
                               kl_direction direction, row_kl<float const> of, std::span<float const> slopes,
                               matrix_view<S> dlogits, cudaStream_t stream);
  static std::size_t squared_norm_workspace(std::size_t count);
  static void squared_norm(std::span<S const> values, double* out, std::span<double> workspace, cudaStream_t stream);
  static void adamw(adamw_update<float> update, std::span<float> value, std::span<S const> gradient, std::span<float> first,
                    std::span<float> second, std::span<S> copy, cudaStream_t stream);
};

/// The objectives of cuda/token_objectives.cuh: the same members.
struct sft_question {
  sft_options options = {};
  sft_totals totals = {};
};
template <class O>
struct pairs_question {
  std::span<double const> ref_logps = {};
  O options = {};
  pair_totals totals = {};
  pair_ratios ratios = {};
};
template <class O>
struct policy_question {
  std::span<float const> old_logps = {}, advantages = {}, ref_logps = {};
  aggregation_totals totals = {};
  loss_aggregation aggregation = O::paper_aggregation;
  O options = {};
  double* statistics = nullptr;  ///< cuda::policy_gradient_sums, eight doubles
  kl_loss_options kl_loss = {};
};
using question = std::variant<sft_question, pairs_question<dpo_options>, pairs_question<simpo_options>,
                              policy_question<ppo_options>, policy_question<gspo_options>>;

template <class S>
struct losses {
  static std::size_t on_logits_bytes(question const& ask, std::size_t tokens, std::size_t sequences);
  static void on_logits(question const& ask, matrix_view<S const> logits, sequences_view batch, matrix_view<S> dlogits,
                        double* loss, std::span<std::byte> workspace, cudaStream_t stream);
  static std::size_t on_hidden_bytes(std::size_t chunk, question const& ask, std::size_t tokens, std::size_t sequences,
                                     std::size_t vocabulary, std::size_t width);
  static void on_hidden(std::size_t chunk, question const& ask, matrix_view<S const> hidden, matrix_view<S const> head,
                        sequences_view batch, matrix_view<S> dhidden, matrix_view<float> dhead, double* loss,
                        std::span<std::byte> workspace, cublasLtHandle_t cublas, cudaStream_t stream);
  static std::size_t logps_bytes(std::size_t tokens);
  static void logps(matrix_view<S const> logits, sequences_view batch, std::span<float> logps, std::span<std::byte> workspace,
                    cudaStream_t stream);
};
void sequence_sums(std::span<float const> logps, sequences_view batch, std::span<double> sums, cudaStream_t stream);

}  // namespace kernels
