// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

#include <cuda_runtime.h>

#include <attune/cuda/error.cuh>

/// What the benchmarks on a device have in common: memory, times by the device's own clock, arguments and figures.
namespace timing {

namespace cuda = attune::cuda;

template <class T>
class device_array {
 public:
  explicit device_array(std::size_t size) {
    void* p = nullptr;
    cuda::check("cudaMalloc", cudaMalloc(&p, size * sizeof(T)));
    span_ = {static_cast<T*>(p), size};
  }
  device_array(device_array const&) = delete;
  device_array& operator=(device_array const&) = delete;
  ~device_array() { (void)cudaFree(span_.data()); }

  std::span<T> span() const { return span_; }
  std::span<T const> view() const { return span_; }
  void fill(T const* from, std::size_t first, std::size_t count) {
    cuda::check("cudaMemcpy", cudaMemcpy(span_.data() + first, from, count * sizeof(T), cudaMemcpyHostToDevice));
  }

 private:
  std::span<T> span_;
};

/// Seconds of device time of the quickest of `rounds` runs.
template <class F>
double quickest(int rounds, cudaStream_t stream, F const& f) {
  cudaEvent_t begin = nullptr, end = nullptr;
  cuda::check("cudaEventCreate", cudaEventCreate(&begin));
  cuda::check("cudaEventCreate", cudaEventCreate(&end));
  float best = INFINITY;
  for (int round = -2; round < rounds; ++round) {
    cuda::check("cudaEventRecord", cudaEventRecord(begin, stream));
    f();
    cuda::check("cudaEventRecord", cudaEventRecord(end, stream));
    cuda::check("cudaEventSynchronize", cudaEventSynchronize(end));
    float milliseconds = 0.0f;
    cuda::check("cudaEventElapsedTime", cudaEventElapsedTime(&milliseconds, begin, end));
    if (round >= 0) best = (std::min)(best, milliseconds);
  }
  cuda::check("cudaEventDestroy", cudaEventDestroy(begin));
  cuda::check("cudaEventDestroy", cudaEventDestroy(end));
  return static_cast<double>(best) * 1e-3;
}

inline bool no_device() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return false;
  std::puts("skipped: no device");
  return true;
}

/// A positive number from the command line, or 0 where there is something else.
inline std::size_t argument(int argc, char** argv, int i, std::size_t fallback) {
  if (argc <= i) return fallback;
  char* end = nullptr;
  long const value = std::strtol(argv[i], &end, 10);
  return end == argv[i] || *end != '\0' || value < 1 ? 0 : static_cast<std::size_t>(value);
}

/// Figures as a list of objects in a file, if one was asked for.
class json_list {
 public:
  explicit json_list(char const* path) : path_(path) {}

  /// `object`: its members, as they stand between the braces.
  void add(std::string const& object) { text_ += (text_.empty() ? "  {" : ",\n  {") + object + "}"; }

  /// False if the file cannot be written.
  bool write() const {
    if (path_ == nullptr) return true;
    std::FILE* const file = std::fopen(path_, "w");
    if (file == nullptr) return false;
    bool const written = std::fprintf(file, "[\n%s\n]\n", text_.c_str()) > 0;
    return std::fclose(file) == 0 && written;
  }

 private:
  char const* path_;
  std::string text_;
};

}  // namespace timing
