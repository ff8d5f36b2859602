// SPDX-License-Identifier: MIT
//
// Kernels whose machine code is known without looking: what evidence.cpp must read from them before it is believed about any
// other. The name says what is inside. Compiled as the library's kernels are, but spilling is no error here.
namespace {

template <class T>
__device__ void move(T const* from, T* to) {
  to[threadIdx.x] = from[threadIdx.x];
}

}  // namespace

extern "C" {

__global__ void one_byte(unsigned char const* from, unsigned char* to) { move(from, to); }
__global__ void two_bytes(unsigned short const* from, unsigned short* to) { move(from, to); }
__global__ void four_bytes(float const* from, float* to) { move(from, to); }
__global__ void eight_bytes(float2 const* from, float2* to) { move(from, to); }
__global__ void sixteen_bytes(float4 const* from, float4* to) { move(from, to); }

// One barrier, one store to and one load from shared memory.
__global__ void shared_memory(float const* from, float* to) {
  __shared__ float s[256];
  s[threadIdx.x] = from[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = s[threadIdx.x ^ 1u];
}

__global__ void two_shuffles(float const* from, float* to) {
  float x = from[threadIdx.x];
  x += __shfl_xor_sync(0xffffffffu, x, 16);
  x *= __shfl_xor_sync(0xffffffffu, x, 1);
  to[threadIdx.x] = x;
}

// An array that is indexed by what only the run knows lives in local memory.
__global__ void local_memory(int const* from, int* to, int count) {
  int a[64];
#pragma unroll 1
  for (int i = 0; i < count; ++i) a[from[i] & 63] = i;
  to[threadIdx.x] = a[from[threadIdx.x] & 63];
}

// A sixteen-byte load and store in the one loop, and a four-byte load and store outside it.
__global__ void one_loop(float4 const* from, float4* to, float* first, int count) {
  first[threadIdx.x] = first[threadIdx.x + 1024];
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < count; i += 1024) to[i] = from[i];
}

}  // extern "C"
