// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <attune/core/contract.hpp>
#include <attune/core/storage.hpp>
#include <attune/cuda/error.cuh>
#include <attune/cuda/stream_view.cuh>
#include <attune/device/gemm_plan.hpp>

namespace attune::cuda {

/// cuBLASLt as a Gemm, over a handle of the caller's, which outlives it. Factors in float, bf16 or f16, results in the
/// same or float. Sums run in float (CUBLAS_COMPUTE_32F: never in TF32), also where a product is divided over k: partial
/// sums are then added up in float, in an order that is the algorithm's own, and a result is rounded to its storage once.
///
/// Device memory of `workspace_bytes`, aligned to 256, lets cuBLASLt choose among more algorithms; some MiB are enough,
/// and none is correct as well. Whoever calls from several streams at once gives each a cublaslt_gemm with a workspace
/// of its own. Nothing is set on the handle and no memory of the device is taken; descriptors lie on the stack. The
/// algorithm is asked for before each product, which cuBLASLt remembers: the first time for a shape costs the host some
/// tens of microseconds, and memory of the host where its cache grows.
///
/// m or n of 0 is no product. k of 0 makes out = beta out, for the beta of 0 and 1; another is refused, as cuBLASLt knows
/// no such product. Throws contract_violation, and cuda_error for what cuBLASLt refuses.
class cublaslt_gemm {
 public:
  explicit cublaslt_gemm(cublasLtHandle_t handle, void* workspace = nullptr, std::size_t workspace_bytes = 0)
      : handle_(handle), workspace_(workspace), workspace_bytes_(workspace == nullptr ? 0 : workspace_bytes) {
    expects(reinterpret_cast<std::uintptr_t>(workspace) % 256 == 0, "cublaslt_gemm: workspace aligned to 256 bytes");
    expects(workspace != nullptr || workspace_bytes == 0, "cublaslt_gemm: a workspace with bytes has memory",
            workspace_bytes);
  }

  template <class T, class U>
  void operator()(gemm_call<T, U> const& c, float alpha, float beta, stream_view stream) const {
    if (c.m == 0 || c.n == 0) return;
    if (c.k == 0) {
      expects(beta == 0.0f || beta == 1.0f, "cublaslt_gemm: beta of 0 or 1 where k is 0", beta);
      if (beta == 0.0f)
        check("cudaMemset2DAsync", cudaMemset2DAsync(c.out, bytes<U>(c.out_ld), 0, bytes<U>(c.m),
                                                     static_cast<std::size_t>(c.n), stream.get()));
      return;
    }
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t first, second, out;
    cublasLtMatmulPreferenceOpaque_t preference;
    expect("cublasLtMatmulDescInit", cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(product, CUBLASLT_MATMUL_DESC_TRANSA, op(c.first_op));
    set(product, CUBLASLT_MATMUL_DESC_TRANSB, op(c.second_op));
    lay_out<T>(first, c.first_op, c.m, c.k, c.first_ld);
    lay_out<T>(second, c.second_op, c.k, c.n, c.second_ld);
    lay_out<U>(out, transpose::no, c.m, c.n, c.out_ld);
    expect("cublasLtMatmulPreferenceInit", cublasLtMatmulPreferenceInit(&preference));
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_bytes_));
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(c.first));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(c.second));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(c.out));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(c.out));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    expect("cublasLtMatmulAlgoGetHeuristic",
           cublasLtMatmulAlgoGetHeuristic(handle_, &product, &first, &second, &out, &out, &preference, 1, &best,
                                          &found));
    expect("cublasLtMatmulAlgoGetHeuristic", found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : best.state);
    expect("cublasLtMatmul",
           cublasLtMatmul(handle_, &product, &alpha, c.first, &first, c.second, &second, &beta, c.out, &out, c.out,
                          &out, &best.algo, workspace_, workspace_bytes_, stream.get()));
  }

 private:
  template <class T>
  static constexpr cudaDataType_t type() noexcept {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, bf16> || std::is_same_v<T, f16>, "float, bf16 or f16");
    return std::is_same_v<T, float> ? CUDA_R_32F : std::is_same_v<T, bf16> ? CUDA_R_16BF : CUDA_R_16F;
  }
  template <class T>
  static constexpr std::size_t bytes(std::int64_t elements) noexcept {
    return static_cast<std::size_t>(elements) * sizeof(T);
  }

  static std::int32_t op(transpose t) noexcept { return t == transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N; }

  /// The largest power of two, up to 256, that divides the address.
  static std::uint32_t alignment(void const* p) noexcept {
    auto const address = reinterpret_cast<std::uintptr_t>(p) | 256u;
    return static_cast<std::uint32_t>(address & (~address + 1));
  }

  static void set(cublasLtMatmulDescOpaque_t& product, cublasLtMatmulDescAttributes_t what, std::int32_t value) {
    expect("cublasLtMatmulDescSetAttribute", cublasLtMatmulDescSetAttribute(&product, what, &value, sizeof value));
  }
  template <class V>
  static void set(cublasLtMatmulPreferenceOpaque_t& preference, cublasLtMatmulPreferenceAttributes_t what, V value) {
    expect("cublasLtMatmulPreferenceSetAttribute",
           cublasLtMatmulPreferenceSetAttribute(&preference, what, &value, sizeof value));
  }

  /// op(x) is rows x cols; x itself lies in memory the other way round where op transposes.
  template <class T>
  static void lay_out(cublasLtMatrixLayoutOpaque_t& x, transpose t, std::int64_t rows, std::int64_t cols,
                      std::int64_t ld) {
    bool const turned = t == transpose::yes;
    expect("cublasLtMatrixLayoutInit",
           cublasLtMatrixLayoutInit(&x, type<T>(), static_cast<std::uint64_t>(turned ? cols : rows),
                                    static_cast<std::uint64_t>(turned ? rows : cols), ld));
  }

  static void expect(char const* what, cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS)
      throw cuda_error(what, cublasLtGetStatusName(status), static_cast<int>(status), cublasLtGetStatusString(status));
  }

  cublasLtHandle_t handle_;
  void* workspace_;
  std::size_t workspace_bytes_;
};

}  // namespace attune::cuda
