// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

#include <cublas_v2.h>

#include <attune/core/storage.hpp>
#include <attune/cuda/error.cuh>
#include <attune/cuda/stream_view.cuh>
#include <attune/device/gemm_plan.hpp>

namespace attune::cuda {

/// cuBLAS as a Gemm, over a handle of the caller's, which outlives it and is in its default pointer mode (host).
/// Factors in float, bf16 or f16, results in the same or float; sums in float, never in TF32 unless the handle's math
/// mode says so.
///
/// The handle's stream becomes the call's. cuBLAS then forgets a workspace that cublasSetWorkspace gave it, so it is
/// left alone where it is that stream already. Allocates nothing itself; a handle without such a workspace may. Throws
/// cuda_error.
class cublas_gemm {
 public:
  explicit cublas_gemm(cublasHandle_t handle) noexcept : handle_(handle) {}

  template <class T, class U>
  void operator()(gemm_call<T, U> const& c, float alpha, float beta, stream_view stream) const {
    cudaStream_t now = nullptr;
    expect("cublasGetStream", cublasGetStream(handle_, &now));
    if (now != stream.get()) expect("cublasSetStream", cublasSetStream(handle_, stream.get()));
    expect("cublasGemmEx", cublasGemmEx_64(handle_, op(c.first_op), op(c.second_op), c.m, c.n, c.k, &alpha, c.first,
                                           type<T>(), c.first_ld, c.second, type<T>(), c.second_ld, &beta, c.out,
                                           type<U>(), c.out_ld, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  }

 private:
  static cublasOperation_t op(transpose t) noexcept { return t == transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N; }

  template <class T>
  static constexpr cudaDataType_t type() noexcept {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, bf16> || std::is_same_v<T, f16>, "float, bf16 or f16");
    return std::is_same_v<T, float> ? CUDA_R_32F : std::is_same_v<T, bf16> ? CUDA_R_16BF : CUDA_R_16F;
  }

  static void expect(char const* what, cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS)
      throw cuda_error(what, cublasGetStatusName(status), static_cast<int>(status), cublasGetStatusString(status));
  }

  cublasHandle_t handle_;
};

}  // namespace attune::cuda
