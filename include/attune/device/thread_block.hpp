// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>

#include <attune/core/host_device.hpp>

/// What a kernel body sees of the machine. A body is a function template over a thread block, called once by each of
/// its threads, and includes nothing of CUDA: on a device the block is a wrapper of one line per intrinsic; in tests it
/// is an engine that runs the same source on a CPU, thread by thread, and watches what the threads do.
namespace attune {

/// Sixteen bytes of T, which a device moves in one instruction.
template <class T>
struct alignas(16) pack {
  static constexpr std::size_t size = 16 / sizeof(T);
  T part[size];

  ATTUNE_HOST_DEVICE T& operator[](std::size_t i) noexcept { return part[i]; }
  ATTUNE_HOST_DEVICE T const& operator[](std::size_t i) const noexcept { return part[i]; }
};

/// One thread's view of its block, passed by reference to const:
///
///   warp_size                   32; thread t is lane t % 32 of warp t / 32; threads() is a multiple of it
///   thread(), threads()         its index in the block, and how many there are
///   block(), blocks()           the block's index in the grid, and how many there are
///   sync()                      barrier: every thread of the block comes to the same one
///   shuffle_xor(x, lanes)       x, of four or eight bytes, of the lane whose index differs in the bits of `lanes`;
///                               all 32 lanes call it together
///   shared<S>()                 the block's one S, uninitialised; another S (a local struct as the key) is another
///   load(p), store(p, x)        one element of global memory
///   load_pack(p), store_pack    sixteen bytes of it at once; p aligned to 16
///   exp(x), log(x)              in float, to the device's accuracy (2 ulp, 1 ulp)
///
/// Shuffles order no memory; only sync() does. What one launch writes no launch may read through a cache that is not
/// coherent, so load is plain.
template <class B>
concept ThreadBlock = requires(B const& block, float x, double d, unsigned lanes, float* to, float const* from) {
  requires B::warp_size == 32;
  { block.thread() } -> std::same_as<unsigned>;
  { block.threads() } -> std::same_as<unsigned>;
  { block.block() } -> std::same_as<unsigned>;
  { block.blocks() } -> std::same_as<unsigned>;
  block.sync();
  { block.shuffle_xor(x, lanes) } -> std::same_as<float>;
  { block.shuffle_xor(d, lanes) } -> std::same_as<double>;
  { block.shuffle_xor(1, lanes) } -> std::same_as<int>;
  { block.template shared<pack<float>>() } -> std::same_as<pack<float>&>;
  { block.load(from) } -> std::same_as<float>;
  block.store(to, x);
  { block.load_pack(from) } -> std::same_as<pack<float>>;
  block.store_pack(to, pack<float>{});
  { block.exp(x) } -> std::same_as<float>;
  { block.log(x) } -> std::same_as<float>;
};

}  // namespace attune
