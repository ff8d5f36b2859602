// SPDX-License-Identifier: MIT
#include "stand_in.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <map>
#include <memory>

#include <attune/core/storage.hpp>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#if CUDART_VERSION < 13000 || CUDART_VERSION >= 14000
#error "stand_in.cpp defines internal symbols of CUDA 13's runtime; another version may call others"
#endif

namespace {

struct state {
  std::map<void const*, std::string> names;         // of kernels, by the host function that stands for each
  std::map<std::string, stand_in::simulation> simulations;
  std::map<void*, std::size_t> memory;              // bytes mapped
  std::vector<stand_in::launch> launches;
  int waits = 0, allocations = 0;
  cudaError_t refusal = cudaSuccess, last = cudaSuccess;
  int streams = 0, stream_changes = 0;
  cudaStream_t cublas_stream = nullptr;
};

// Used by initialisers of other translation units, and so made on first use.
state& the() {
  static state* const s = new state;
  return *s;
}

cudaError_t fail(cudaError_t code) {
  the().last = code;
  return code;
}

[[noreturn]] void die(std::string const& what) {
  std::fprintf(stderr, "stand-in CUDA runtime: %s\n", what.c_str());
  std::abort();
}

/// Device memory is within reach for as long as one of these lives.
class reach {
 public:
  reach() { set(PROT_READ | PROT_WRITE); }
  ~reach() { set(PROT_NONE); }
  reach(reach const&) = delete;
  reach& operator=(reach const&) = delete;

 private:
  static void set(int protection) {
    for (auto const& [p, bytes] : the().memory)
      if (mprotect(p, bytes, protection) != 0) die("mprotect");
  }
};

cudaError_t run(void const* function, dim3 grid, dim3 block, void** arguments, std::size_t shared, cudaStream_t stream) {
  auto const name = the().names.find(function);
  if (name == the().names.end()) return fail(cudaErrorInvalidDeviceFunction);
  if (the().refusal != cudaSuccess) {
    cudaError_t const code = the().refusal;
    the().refusal = cudaSuccess;
    return fail(code);
  }
  if (grid.x == 0 || grid.y != 1 || grid.z != 1 || block.x == 0 || block.x > 1024 || block.y != 1 || block.z != 1)
    return fail(cudaErrorInvalidConfiguration);
  the().launches.push_back({name->second, grid.x, block.x, shared, stream});
  std::string const key = name->second.substr(0, name->second.rfind(">(") + 1);
  auto const found = the().simulations.find(key);
  if (found == the().simulations.end()) die("nobody simulates " + key);
  reach const within;
  found->second(grid.x, block.x, arguments[0]);
  return cudaSuccess;
}

double element(void const* p, cudaDataType_t type, std::int64_t i) {
  if (type == CUDA_R_32F) return static_cast<double>(static_cast<float const*>(p)[i]);
  std::uint16_t const bits = static_cast<std::uint16_t const*>(p)[i];
  if (type == CUDA_R_16BF) return static_cast<double>(static_cast<float>(attune::bf16::from_bits(bits)));
  if (type == CUDA_R_16F) return static_cast<double>(static_cast<float>(attune::f16::from_bits(bits)));
  die("a product of a type that is none of the adapter's");
}
void set_element(void* p, cudaDataType_t type, std::int64_t i, float x) {
  if (type == CUDA_R_32F) static_cast<float*>(p)[i] = x;
  if (type == CUDA_R_16BF) static_cast<std::uint16_t*>(p)[i] = attune::bf16(x).bits;
  if (type == CUDA_R_16F) static_cast<std::uint16_t*>(p)[i] = attune::f16(x).bits;
}

}  // namespace

namespace stand_in {

std::vector<launch> const& launches() { return the().launches; }
int waits() { return the().waits; }
int allocations() { return the().allocations; }
int stream_changes() { return the().stream_changes; }
void forget() {
  the().launches.clear();
  the().stream_changes = 0;
  the().waits = the().allocations = 0;
}
int live_allocations() { return static_cast<int>(the().memory.size()); }
void refuse_next_launch(int code) { the().refusal = static_cast<cudaError_t>(code); }
void simulate(std::string const& body, unsigned threads, simulation run) {
  the().simulations["void attune::cuda::kernel<" + body + ", " + std::to_string(threads) + "u>"] = std::move(run);
}

}  // namespace stand_in

extern "C" {

// What nvcc's object calls before main, and from the stubs of its kernels.
void** __cudaRegisterFatBinary(void* binary) {
  static void* handle;
  handle = binary;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterFunction(void**, char const* function, char*, char const* symbol, int, uint3*, uint3*, dim3*, dim3*, int*) {
  std::unique_ptr<char, void (*)(void*)> const text(abi::__cxa_demangle(symbol, nullptr, nullptr, nullptr), std::free);
  the().names[function] = text ? text.get() : symbol;
}
unsigned __cudaPushCallConfiguration(dim3, dim3, std::size_t, cudaStream_t) { die("a launch by <<<>>>"); }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, std::size_t*, void*) { die("a launch by <<<>>>"); }
cudaError_t __cudaGetKernel(cudaKernel_t*, void const*) { die("a launch by <<<>>>"); }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, std::size_t, cudaStream_t) { die("a launch by <<<>>>"); }

// What the adapter and the cases call.
cudaError_t cudaLaunchKernel(void const* function, dim3 grid, dim3 block, void** arguments, std::size_t shared,
                             cudaStream_t stream) {
  return run(function, grid, block, arguments, shared, stream);
}
cudaError_t cudaGetLastError() {
  cudaError_t const code = the().last;
  the().last = cudaSuccess;
  return code;
}
char const* cudaGetErrorName(cudaError_t code) {
  return code == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration" : "cudaErrorOfTheStandIn";
}
char const* cudaGetErrorString(cudaError_t) { return "said by the stand-in runtime"; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  std::size_t const page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::size_t const whole = (bytes + page) / page * page;
  void* const memory = mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
  the().memory[memory] = whole;
  ++the().allocations;
  *p = memory;
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  auto const found = the().memory.find(p);
  if (p == nullptr) return cudaSuccess;
  if (found == the().memory.end()) return fail(cudaErrorInvalidValue);
  munmap(p, found->second);
  the().memory.erase(found);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, void const* from, std::size_t bytes, cudaMemcpyKind) {
  ++the().waits;
  reach const within;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  reach const within;
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = reinterpret_cast<cudaStream_t>(static_cast<std::size_t>(0x1000 + 16 * ++the().streams));
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++the().waits;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  ++the().waits;
  return cudaSuccess;
}

// cuBLAS: one product as its manual defines it, on columns.
cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  *handle = reinterpret_cast<cublasHandle_t>(&the());
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetStream_v2(cublasHandle_t, cudaStream_t* stream) {
  *stream = the().cublas_stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t stream) {
  the().cublas_stream = stream;
  ++the().stream_changes;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t first_op, cublasOperation_t second_op, std::int64_t m,
                               std::int64_t n, std::int64_t k, void const* alpha, void const* first, cudaDataType_t first_type,
                               std::int64_t first_ld, void const* second, cudaDataType_t second_type, std::int64_t second_ld,
                               void const* beta, void* out, cudaDataType_t out_type, std::int64_t out_ld,
                               cublasComputeType_t compute, cublasGemmAlgo_t) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  bool const first_t = first_op == CUBLAS_OP_T, second_t = second_op == CUBLAS_OP_T;
  if (first_ld < (std::max<std::int64_t>)(1, first_t ? k : m) || second_ld < (std::max<std::int64_t>)(1, second_t ? n : k) ||
      out_ld < (std::max<std::int64_t>)(1, m) || compute != CUBLAS_COMPUTE_32F || first_type != second_type)
    return CUBLAS_STATUS_INVALID_VALUE;
  the().launches.push_back({"cublasGemmEx", 1, 1, 0, the().cublas_stream});
  reach const within;
  float const a = *static_cast<float const*>(alpha), b = *static_cast<float const*>(beta);
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t i = 0; i < m; ++i) {
      double sum = 0.0;
      for (std::int64_t l = 0; l < k; ++l)
        sum += element(first, first_type, first_t ? l + i * first_ld : i + l * first_ld) *
               element(second, second_type, second_t ? j + l * second_ld : l + j * second_ld);
      std::int64_t const at = i + j * out_ld;
      float const before = b == 0.0f ? 0.0f : b * static_cast<float>(element(out, out_type, at));
      set_element(out, out_type, at, a * static_cast<float>(sum) + before);
    }
  return CUBLAS_STATUS_SUCCESS;
}
char const* cublasGetStatusName(cublasStatus_t) { return "CUBLAS_STATUS_OF_THE_STAND_IN"; }
char const* cublasGetStatusString(cublasStatus_t) { return "said by the stand-in cuBLAS"; }

}  // extern "C"
