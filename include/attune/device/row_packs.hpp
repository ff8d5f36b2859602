// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <attune/core/host_device.hpp>
#include <attune/device/thread_block.hpp>

/// How the threads of a block share a row of global memory that may begin anywhere: what lies before the first address
/// that is a multiple of sixteen bytes, and what is left over at the end, one element a thread; all between in packs,
/// neighbouring threads side by side.
namespace attune::device {

/// Elements of a row before its first pack.
template <class S>
[[nodiscard]] ATTUNE_HOST_DEVICE std::size_t elements_before_packs(S const* row, std::size_t count) noexcept {
  std::size_t const past = reinterpret_cast<std::uintptr_t>(row) % 16 / sizeof(S);
  std::size_t const before = past == 0 ? 0 : pack<S>::size - past;
  return before < count ? before : count;
}

/// Calls f(v, float(row[v])) for this thread's elements of a row (count), those of a pack in order.
template <class S, ThreadBlock B, class F>
ATTUNE_HOST_DEVICE void read_indexed_row(B const& block, S const* row, std::size_t count, F&& f) {
  constexpr std::size_t width = pack<S>::size;
  std::size_t const before = elements_before_packs(row, count);
  std::size_t const packs = (count - before) / width;
  for (std::size_t p = block.thread(); p < packs; p += block.threads()) {
    std::size_t const v = before + p * width;
    pack<S> const x = block.load_pack(row + v);
#if defined(__CUDA_ARCH__)
#pragma unroll  // or a pack that is indexed at run time lies in local memory
#endif
    for (std::size_t k = 0; k < width; ++k) f(v + k, static_cast<float>(x[k]));
  }
  if (block.thread() < before) f(std::size_t{block.thread()}, static_cast<float>(block.load(row + block.thread())));
  std::size_t const last = before + packs * width + block.thread();
  if (last < count) f(last, static_cast<float>(block.load(row + last)));
}

/// Calls f(float (&values)[n]) for this thread's elements of a row (count), n of them side by side, n = 1 or a pack.
template <class S, ThreadBlock B, class F>
ATTUNE_HOST_DEVICE void read_row(B const& block, S const* row, std::size_t count, F&& f) {
  constexpr std::size_t width = pack<S>::size;
  std::size_t const before = elements_before_packs(row, count);
  std::size_t const packs = (count - before) / width;
  for (std::size_t p = block.thread(); p < packs; p += block.threads()) {
    pack<S> const x = block.load_pack(row + before + p * width);
    float values[width];
    for (std::size_t k = 0; k < width; ++k) values[k] = static_cast<float>(x[k]);
    f(values);
  }
  auto const one = [&](std::size_t v) {
    float values[1] = {static_cast<float>(block.load(row + v))};
    f(values);
  };
  if (block.thread() < before) one(block.thread());
  std::size_t const last = before + packs * width + block.thread();
  if (last < count) one(last);
}

/// out[v] = S(f(v, float(in[v]))) for this thread's elements of a row (count). out may be in itself, not overlap it
/// otherwise; where the two are aligned differently, out is stored element by element.
template <class S, ThreadBlock B, class F>
ATTUNE_HOST_DEVICE void map_row(B const& block, S const* in, S* out, std::size_t count, F&& f) {
  constexpr std::size_t width = pack<S>::size;
  std::size_t const before = elements_before_packs(in, count);
  std::size_t const packs = (count - before) / width;
  bool const alike = reinterpret_cast<std::uintptr_t>(out + before) % 16 == 0;
  for (std::size_t p = block.thread(); p < packs; p += block.threads()) {
    std::size_t const v = before + p * width;
    pack<S> x = block.load_pack(in + v);
    for (std::size_t k = 0; k < width; ++k) x[k] = static_cast<S>(f(v + k, static_cast<float>(x[k])));
    if (alike)
      block.store_pack(out + v, x);
    else
      for (std::size_t k = 0; k < width; ++k) block.store(out + v + k, x[k]);
  }
  auto const one = [&](std::size_t v) {
    block.store(out + v, static_cast<S>(f(v, static_cast<float>(block.load(in + v)))));
  };
  if (block.thread() < before) one(block.thread());
  std::size_t const last = before + packs * width + block.thread();
  if (last < count) one(last);
}

/// out[v] = value for this thread's elements of a row (count).
template <class S, ThreadBlock B>
ATTUNE_HOST_DEVICE void fill_row(B const& block, S* out, std::size_t count, S value) {
  constexpr std::size_t width = pack<S>::size;
  std::size_t const before = elements_before_packs(out, count);
  std::size_t const packs = (count - before) / width;
  pack<S> all;
  for (std::size_t k = 0; k < width; ++k) all[k] = value;
  for (std::size_t p = block.thread(); p < packs; p += block.threads()) block.store_pack(out + before + p * width, all);
  if (block.thread() < before) block.store(out + block.thread(), value);
  std::size_t const last = before + packs * width + block.thread();
  if (last < count) block.store(out + last, value);
}

}  // namespace attune::device
