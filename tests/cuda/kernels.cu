// SPDX-License-Identifier: MIT
#include "kernels.hpp"

#include <attune/cuda/backend.cuh>
#include <attune/cuda/cublas_gemm.cuh>

namespace kernels {

using cuda::cuda_backend;
using cuda::cublas_gemm;

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
std::size_t operations<S>::linear_workspace(std::size_t chunk, std::size_t rows, std::size_t vocabulary, std::size_t width) {
  return cuda_backend<S>(chunk).linear_workspace(rows, vocabulary, width);
}

template <class S>
void operations<S>::linear_token_logps(std::size_t chunk, matrix_view<S const> hidden, matrix_view<S const> head,
                        std::span<token_id const> targets, row_logps<float> out, std::span<S> workspace,
                        cublasHandle_t cublas, cudaStream_t stream) {
  cuda_backend<S>(chunk).linear_token_logps(hidden, head, targets, out, workspace, cublas_gemm(cublas), stream);
}

template <class S>
void operations<S>::linear_token_logps_adjoint(std::size_t chunk, matrix_view<S const> hidden, matrix_view<S const> head,
                                std::span<token_id const> targets, std::span<float const> log_normalizers,
                                row_slopes<float> slopes, matrix_view<S> dhidden, matrix_view<float> dhead,
                                std::span<S> workspace, cublasHandle_t cublas, cudaStream_t stream) {
  cuda_backend<S>(chunk).linear_token_logps_adjoint(hidden, head, targets, log_normalizers, slopes, dhidden, dhead, workspace,
                                                    cublas_gemm(cublas), stream);
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

template struct operations<float>;
template struct operations<bf16>;
template struct operations<f16>;

}  // namespace kernels
