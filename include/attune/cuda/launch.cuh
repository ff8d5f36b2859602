// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

#include <attune/core/contract.hpp>
#include <attune/cuda/device_block.cuh>
#include <attune/cuda/error.cuh>
#include <attune/cuda/stream_view.cuh>

namespace attune::cuda {

/// The only kernel there is: a body with its arguments inside, run by every thread of a grid of `threads`-wide blocks.
/// __grid_constant__: the body is read where the launch put it, without a copy per thread.
template <class Body, unsigned threads>
__global__ void __launch_bounds__(threads) kernel(Body const __grid_constant__ body) {
  body(device_block{});
}

/// Queues `body` on the stream over `blocks` blocks; none is no launch at all. A body is a trivially copyable function
/// object that can be called with a ThreadBlock, at most 4 KiB, whose pointers are the device's. Returns at once:
/// nothing is synchronised and nothing allocated. Throws cuda_error, beginning with `name`, if the runtime refuses the
/// launch; it may also report what an earlier launch of the caller's did.
template <unsigned threads, class Body>
void launch(char const* name, Body const& body, std::size_t blocks, stream_view stream) {
  static_assert(std::is_trivially_copyable_v<Body> && sizeof(Body) <= 4096,
                "a body's bytes travel as kernel parameters");
  static_assert(threads % device_block::warp_size == 0 && threads <= 1024,
                "whole warps, and no more than a block may hold");
  if (blocks == 0) return;
  expects(blocks <= 0x7fffffffu, "cuda::launch: blocks < 2^31", blocks);
  void* arguments[] = {const_cast<void*>(static_cast<void const*>(&body))};
  cudaError_t const code =
      cudaLaunchKernel(reinterpret_cast<void const*>(&kernel<Body, threads>), dim3(static_cast<unsigned>(blocks)),
                       dim3(threads), arguments, 0, stream.get());
  if (code == cudaSuccess) return;
  (void)cudaGetLastError();  // said once, by the exception, and not again to whoever asks next
  throw cuda_error(name, code);
}

}  // namespace attune::cuda
