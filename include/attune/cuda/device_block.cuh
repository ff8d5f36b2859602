// SPDX-License-Identifier: MIT
#pragma once

#include <attune/device/thread_block.hpp>

#if defined(__USE_FAST_MATH__)
#error "attune states the accuracy of expf and logf, which -use_fast_math replaces. Compile without it."
#endif

namespace attune::cuda {

/// The ThreadBlock of a CUDA device: one intrinsic a line, no state. One-dimensional grids and blocks; threads() is a
/// multiple of 32, which launch sees to.
///
/// exp and log are expf and logf with subnormals kept: within 2 and 1 units in the last place over the whole range
/// (CUDA C++ Programming Guide, "Mathematical Functions"). Not __expf, whose error grows with |x|: 2 + 1.173 |x| units.
/// A softmax waits for memory and not for its exponentials.
struct device_block {
  static constexpr unsigned warp_size = 32;

  __device__ unsigned thread() const noexcept { return threadIdx.x; }
  __device__ unsigned threads() const noexcept { return blockDim.x; }
  __device__ unsigned block() const noexcept { return blockIdx.x; }
  __device__ unsigned blocks() const noexcept { return gridDim.x; }
  __device__ void sync() const noexcept { __syncthreads(); }

  template <class T>
  __device__ T shuffle_xor(T x, unsigned lanes) const noexcept {
    return __shfl_xor_sync(0xffffffffu, x, static_cast<int>(lanes));
  }

  /// One S per block and type, whoever asks: a body that needs two makes two types.
  template <class S>
  __device__ S& shared() const noexcept {
    __shared__ S object;
    return object;
  }

  template <class T>
  __device__ T load(T const* p) const noexcept {
    return *p;
  }
  template <class T>
  __device__ void store(T* p, T x) const noexcept {
    *p = x;
  }

  /// ld.global.v4.b32 and st.global.v4.b32, whatever T is: a copy of the struct might be split into its elements.
  template <class T>
  __device__ pack<T> load_pack(T const* p) const noexcept {
    return __builtin_bit_cast(pack<T>, *reinterpret_cast<uint4 const*>(p));
  }
  template <class T>
  __device__ void store_pack(T* p, pack<T> x) const noexcept {
    *reinterpret_cast<uint4*>(p) = __builtin_bit_cast(uint4, x);
  }

  __device__ float exp(float x) const noexcept { return ::expf(x); }
  __device__ float log(float x) const noexcept { return ::logf(x); }
};

static_assert(ThreadBlock<device_block>);

}  // namespace attune::cuda
