// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

/// Device memory with a vector's values in it, `shift` elements past an address that is a multiple of 256.
template <class T>
class device_array {
 public:
  explicit device_array(std::vector<T> const& values, std::size_t shift = 0) : size_(values.size()), shift_(shift) {
    void* p = nullptr;
    REQUIRE(cudaMalloc(&p, (size_ + shift_) * sizeof(T) + 16) == cudaSuccess);
    memory_ = static_cast<T*>(p);
    if (size_ != 0) REQUIRE(cudaMemcpy(data(), values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  device_array(std::size_t size, T value) : device_array(std::vector<T>(size, value)) {}
  device_array(device_array const&) = delete;
  device_array& operator=(device_array const&) = delete;
  ~device_array() { (void)cudaFree(memory_); }

  T* data() const { return memory_ + shift_; }
  std::span<T> span() const { return {data(), size_}; }
  std::span<T const> view() const { return {data(), size_}; }

  /// The values, once everything queued is done.
  std::vector<T> values() const {
    std::vector<T> result(size_);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    if (size_ != 0) REQUIRE(cudaMemcpy(result.data(), data(), size_ * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
    return result;
  }

 private:
  std::size_t size_, shift_;
  T* memory_ = nullptr;
};

/// A stream for as long as it lives.
class device_stream {
 public:
  device_stream() { REQUIRE(cudaStreamCreate(&stream_) == cudaSuccess); }
  device_stream(device_stream const&) = delete;
  device_stream& operator=(device_stream const&) = delete;
  ~device_stream() { (void)cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};
