// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>

#include <cuda_runtime_api.h>

namespace attune::cuda {

/// A stream of the caller's, by handle: neither owned nor kept. Anything that converts to cudaStream_t serves, so a
/// stream class of another library does; the default streams must be named (cudaStreamLegacy, cudaStreamPerThread),
/// since a forgotten argument that reads 0 or nullptr would mean the first of them.
class stream_view {
 public:
  stream_view(cudaStream_t stream) noexcept : stream_(stream) {}

  template <class S>
    requires std::convertible_to<S const&, cudaStream_t> && (!std::same_as<S, std::nullptr_t>)
  stream_view(S const& stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  stream_view(int) = delete;
  stream_view(std::nullptr_t) = delete;

  cudaStream_t get() const noexcept { return stream_; }

 private:
  cudaStream_t stream_;
};

}  // namespace attune::cuda
