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

/// Whether sixteen bytes at once may be read or written there.
[[nodiscard]] ATTUNE_HOST_DEVICE inline bool at_pack(void const* p) noexcept {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

/// Calls f(float (&x)[n], float (&y)[n]) for this thread's elements of two rows (count), n of them side by side: packs
/// where the rows are aligned alike, else n = 1.
template <class S, ThreadBlock B, class F>
ATTUNE_HOST_DEVICE void read_two_rows(B const& block, S const* first, S const* second, std::size_t count, F&& f) {
  constexpr std::size_t width = pack<S>::size;
  auto const one = [&](std::size_t v) {
    float x[1] = {static_cast<float>(block.load(first + v))}, y[1] = {static_cast<float>(block.load(second + v))};
    f(x, y);
  };
  std::size_t const before = elements_before_packs(first, count);
  if (!at_pack(second + before)) {
    for (std::size_t v = block.thread(); v < count; v += block.threads()) one(v);
    return;
  }
  std::size_t const packs = (count - before) / width;
  for (std::size_t p = block.thread(); p < packs; p += block.threads()) {
    pack<S> const a = block.load_pack(first + before + p * width), b = block.load_pack(second + before + p * width);
    float x[width], y[width];
    for (std::size_t k = 0; k < width; ++k) {
      x[k] = static_cast<float>(a[k]);
      y[k] = static_cast<float>(b[k]);
    }
    f(x, y);
  }
  if (block.thread() < before) one(block.thread());
  std::size_t const last = before + packs * width + block.thread();
  if (last < count) one(last);
}

/// out[v] = S(out[v] + f(float(first[v]), float(second[v]))) for this thread's elements of a row (count), summed in
/// float; in packs where the three are aligned alike. They do not overlap.
template <class S, ThreadBlock B, class F>
ATTUNE_HOST_DEVICE void add_of_two_rows(B const& block, S const* first, S const* second, S* out, std::size_t count,
                                        F&& f) {
  constexpr std::size_t width = pack<S>::size;
  auto const one = [&](std::size_t v) {
    float const x = static_cast<float>(block.load(first + v)), y = static_cast<float>(block.load(second + v));
    block.store(out + v, static_cast<S>(static_cast<float>(block.load(out + v)) + f(x, y)));
  };
  std::size_t const before = elements_before_packs(out, count);
  if (!at_pack(first + before) || !at_pack(second + before)) {
    for (std::size_t v = block.thread(); v < count; v += block.threads()) one(v);
    return;
  }
  std::size_t const packs = (count - before) / width;
  for (std::size_t p = block.thread(); p < packs; p += block.threads()) {
    std::size_t const v = before + p * width;
    pack<S> const a = block.load_pack(first + v), b = block.load_pack(second + v);
    pack<S> sum = block.load_pack(out + v);
    for (std::size_t k = 0; k < width; ++k)
      sum[k] = static_cast<S>(static_cast<float>(sum[k]) + f(static_cast<float>(a[k]), static_cast<float>(b[k])));
    block.store_pack(out + v, sum);
  }
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
  bool const alike = at_pack(out + before);
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

/// y = f(v, float(in[v])) for this thread's elements of a row (count), stored in a narrower type: out[v] = D(y), and where
/// `rest` is not null what D left of it, rest[v] = D(y - out[v]), 0 where out[v] is not finite. The three do not overlap.
/// In packs where they are aligned alike, several packs of S to one of D; else element by element.
template <class S, class D, ThreadBlock B, class F>
ATTUNE_HOST_DEVICE void convert_row(B const& block, S const* in, D* out, D* rest, std::size_t count, F&& f) {
  constexpr std::size_t width = pack<D>::size, part = pack<S>::size;
  static_assert(part <= width, "to a type of fewer bytes");
  auto const left_of = [](float y, D stored) {
    float const left = y - static_cast<float>(stored);
    return static_cast<D>(left - left == 0.0f ? left : 0.0f);
  };
  auto const one = [&](std::size_t v) {
    float const y = f(v, static_cast<float>(block.load(in + v)));
    D const stored = static_cast<D>(y);
    block.store(out + v, stored);
    if (rest != nullptr) block.store(rest + v, left_of(y, stored));
  };
  std::size_t const before = elements_before_packs(out, count);
  if (!at_pack(in + before) || (rest != nullptr && !at_pack(rest + before))) {
    for (std::size_t v = block.thread(); v < count; v += block.threads()) one(v);
    return;
  }
  std::size_t const packs = (count - before) / width;
  for (std::size_t p = block.thread(); p < packs; p += block.threads()) {
    std::size_t const first = before + p * width;
    pack<D> stored, left;
#if defined(__CUDA_ARCH__)
#pragma unroll  // or a pack that is indexed at run time lies in local memory
#endif
    for (std::size_t n = 0; n < width; n += part) {
      pack<S> const x = block.load_pack(in + first + n);
      for (std::size_t k = 0; k < part; ++k) {
        float const y = f(first + n + k, static_cast<float>(x[k]));
        stored[n + k] = static_cast<D>(y);
        left[n + k] = left_of(y, stored[n + k]);
      }
    }
    block.store_pack(out + first, stored);
    if (rest != nullptr) block.store_pack(rest + first, left);
  }
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
