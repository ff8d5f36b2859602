// SPDX-License-Identifier: MIT
#include "stand_in.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <map>
#include <memory>

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
  int streams = 0;
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

}  // namespace

namespace stand_in {

std::vector<launch> const& launches() { return the().launches; }
int waits() { return the().waits; }
int allocations() { return the().allocations; }
void forget() {
  the().launches.clear();
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

}  // extern "C"
