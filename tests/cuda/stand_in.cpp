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
#include <type_traits>

#include <attune/core/storage.hpp>
#include <cublasLt.h>
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

// What the adapter says to cuBLASLt, where it says it: in the opaque structures.
struct layout {
  cudaDataType_t type;
  std::int64_t rows, cols, ld;
};
struct product {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  std::int32_t first_op = CUBLAS_OP_N, second_op = CUBLAS_OP_N;
};
struct preference {
  std::uint64_t workspace_bytes = 0;
  std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t alignments[4] = {256, 256, 256, 256};
};
struct algorithm {
  std::int64_t k, rows, cols;
  preference of;
};

template <class T>
void put(void* opaque, std::size_t size, T const& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (size < sizeof value) die("an opaque structure of cuBLASLt's is too narrow for what the stand-in keeps there");
  std::memcpy(opaque, &value, sizeof value);
}
template <class T>
T got(void const* opaque) {
  T value;
  std::memcpy(&value, opaque, sizeof value);
  return value;
}
template <class T>
bool set(T& field, void const* value, std::size_t size) {
  if (size != sizeof field) return false;
  std::memcpy(&field, value, size);
  return true;
}
bool aligned(void const* p, std::uint64_t to) { return reinterpret_cast<std::uintptr_t>(p) % to == 0; }
std::int64_t depth(product const& of, layout const& first) { return of.first_op == CUBLAS_OP_T ? first.rows : first.cols; }

/// Types, shapes and distances as the library wants them; of no size, which it may refuse, this one does.
bool agree(product const& of, layout const& first, layout const& second, layout const& in, layout const& out) {
  auto const sound = [](layout const& x) { return x.rows > 0 && x.cols > 0 && x.ld >= x.rows; };
  std::int64_t const m = of.first_op == CUBLAS_OP_T ? first.cols : first.rows;
  std::int64_t const n = of.second_op == CUBLAS_OP_T ? second.rows : second.cols;
  std::int64_t const k = of.second_op == CUBLAS_OP_T ? second.cols : second.rows;
  return of.compute == CUBLAS_COMPUTE_32F && of.scale == CUDA_R_32F && sound(first) && sound(second) && sound(in) && sound(out) &&
         k == depth(of, first) && out.rows == m && out.cols == n && in.rows == m && in.cols == n && first.type == second.type &&
         in.type == out.type && (out.type == first.type || out.type == CUDA_R_32F);
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

cudaError_t cudaMemset2DAsync(void* to, std::size_t pitch, int value, std::size_t width, std::size_t height,
                              cudaStream_t stream) {
  if (width > pitch) return fail(cudaErrorInvalidValue);
  the().launches.push_back({"cudaMemset2DAsync", 1, 1, 0, stream});
  reach const within;
  for (std::size_t i = 0; i < height; ++i) std::memset(static_cast<char*>(to) + i * pitch, value, width);
  return cudaSuccess;
}

// cuBLASLt: one product as its manual defines it, on columns.
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(&the());
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t x, std::size_t size, cudaDataType type,
                                                 std::uint64_t rows, std::uint64_t cols, std::int64_t ld) {
  put(x, size, layout{.type = type, .rows = static_cast<std::int64_t>(rows), .cols = static_cast<std::int64_t>(cols), .ld = ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t x, std::size_t size, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  put(x, size, product{.compute = compute, .scale = scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t x, std::size_t size) {
  put(x, size, preference{});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t x, cublasLtMatmulDescAttributes_t what, void const* value,
                                              std::size_t size) {
  auto of = got<product>(x);
  bool const known = what == CUBLASLT_MATMUL_DESC_TRANSA ? set(of.first_op, value, size)
                                                         : what == CUBLASLT_MATMUL_DESC_TRANSB && set(of.second_op, value, size);
  put(x, sizeof *x, of);
  return known ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t x, cublasLtMatmulPreferenceAttributes_t what,
                                                    void const* value, std::size_t size) {
  auto of = got<preference>(x);
  bool known = false;
  if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) known = set(of.workspace_bytes, value, size);
  if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) known = set(of.reductions, value, size);
  if (what == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES) known = set(of.alignments[0], value, size);
  if (what == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES) known = set(of.alignments[1], value, size);
  if (what == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES) known = set(of.alignments[2], value, size);
  if (what == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES) known = set(of.alignments[3], value, size);
  put(x, sizeof *x, of);
  return known ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t of, cublasLtMatrixLayout_t first,
                                              cublasLtMatrixLayout_t second, cublasLtMatrixLayout_t in,
                                              cublasLtMatrixLayout_t out, cublasLtMatmulPreference_t preferring, int asked,
                                              cublasLtMatmulHeuristicResult_t* results, int* count) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  *count = 0;
  auto const p = got<preference>(preferring);
  // Partial sums in the storage of the result would be rounded before they are added up.
  if ((p.reductions & ~std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE}) != 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (asked < 1 || !agree(got<product>(of), got<layout>(first), got<layout>(second), got<layout>(in), got<layout>(out)))
    return CUBLAS_STATUS_INVALID_VALUE;
  auto const d = got<layout>(out);
  results[0] = {};
  results[0].workspaceSize = p.workspace_bytes;
  put(&results[0].algo, sizeof results[0].algo,
      algorithm{.k = depth(got<product>(of), got<layout>(first)), .rows = d.rows, .cols = d.cols, .of = p});
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t descriptor, void const* alpha, void const* first,
                              cublasLtMatrixLayout_t first_layout, void const* second, cublasLtMatrixLayout_t second_layout,
                              void const* beta, void const* in, cublasLtMatrixLayout_t in_layout, void* out,
                              cublasLtMatrixLayout_t out_layout, cublasLtMatmulAlgo_t const* algo, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  auto const of = got<product>(descriptor);
  auto const a = got<layout>(first_layout), b = got<layout>(second_layout), c = got<layout>(in_layout), d = got<layout>(out_layout);
  if (algo == nullptr || !agree(of, a, b, c, d)) return CUBLAS_STATUS_INVALID_VALUE;
  auto const chosen = got<algorithm>(algo);
  if (chosen.k != depth(of, a) || chosen.rows != d.rows || chosen.cols != d.cols || chosen.of.workspace_bytes > workspace_bytes)
    return CUBLAS_STATUS_INVALID_VALUE;
  void const* const matrices[] = {first, second, in, out};
  for (std::size_t i = 0; i < 4; ++i)
    if (!aligned(matrices[i], chosen.of.alignments[i])) return CUBLAS_STATUS_INVALID_VALUE;
  if (chosen.of.workspace_bytes > 0 && !aligned(workspace, 256)) return CUBLAS_STATUS_INVALID_VALUE;
  the().launches.push_back({"cublasLtMatmul", 1, 1, 0, stream});
  reach const within;
  if (chosen.of.workspace_bytes > 0) std::memset(workspace, 0xff, chosen.of.workspace_bytes);
  bool const first_t = of.first_op == CUBLAS_OP_T, second_t = of.second_op == CUBLAS_OP_T;
  float const by = *static_cast<float const*>(alpha), keep = *static_cast<float const*>(beta);
  for (std::int64_t j = 0; j < d.cols; ++j)
    for (std::int64_t i = 0; i < d.rows; ++i) {
      double sum = 0.0;
      for (std::int64_t l = 0; l < chosen.k; ++l)
        sum += element(first, a.type, first_t ? l + i * a.ld : i + l * a.ld) *
               element(second, b.type, second_t ? j + l * b.ld : l + j * b.ld);
      float const before = keep == 0.0f ? 0.0f : keep * static_cast<float>(element(in, c.type, i + j * c.ld));
      set_element(out, d.type, i + j * d.ld, by * static_cast<float>(sum) + before);
    }
  return CUBLAS_STATUS_SUCCESS;
}
char const* cublasLtGetStatusName(cublasStatus_t) { return "CUBLAS_STATUS_OF_THE_STAND_IN"; }
char const* cublasLtGetStatusString(cublasStatus_t) { return "said by the stand-in cuBLASLt"; }

}  // extern "C"
