// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <attune/core/adamw_update.hpp>
#include <attune/core/host_device.hpp>
#include <attune/device/thread_block.hpp>

namespace attune::device {

/// AdamW in place, elementwise (core/adamw_update.hpp), on float weights and moments with gradients of storage S:
/// float, bf16 or f16. With a copy the new weights are written there too, rounded once: the model's own, where `value`
/// are the master weights of mixed precision. Any grid. Sixteen bytes at a time where all pointers are multiples of it,
/// else one element.
template <class S>
struct adamw {
  adamw_update<float> update;
  std::size_t count;
  float* value;
  S const* gradient;
  float* first;
  float* second;
  S* copy = nullptr;

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    constexpr std::size_t width = pack<S>::size, part = pack<float>::size;
    std::size_t const thread = std::size_t{block.block()} * block.threads() + block.thread();
    std::size_t const threads = std::size_t{block.blocks()} * block.threads();
    std::size_t const packs = all_aligned() ? count / width : 0;
    for (std::size_t p = thread; p < packs; p += threads) {
      std::size_t const i = p * width;
      pack<S> const g = block.load_pack(gradient + i);
      pack<S> narrow;
      for (std::size_t at = 0; at < width; at += part) {
        pack<float> v = block.load_pack(value + i + at);
        pack<float> m = block.load_pack(first + i + at);
        pack<float> s = block.load_pack(second + i + at);
        for (std::size_t k = 0; k < part; ++k) {
          update(v[k], static_cast<float>(g[at + k]), m[k], s[k]);
          narrow[at + k] = static_cast<S>(v[k]);
        }
        block.store_pack(value + i + at, v);
        block.store_pack(first + i + at, m);
        block.store_pack(second + i + at, s);
      }
      if (copy != nullptr) block.store_pack(copy + i, narrow);
    }
    for (std::size_t i = packs * width + thread; i < count; i += threads) {
      float v = block.load(value + i), m = block.load(first + i), s = block.load(second + i);
      update(v, static_cast<float>(block.load(gradient + i)), m, s);
      block.store(value + i, v);
      block.store(first + i, m);
      block.store(second + i, s);
      if (copy != nullptr) block.store(copy + i, static_cast<S>(v));
    }
  }

 private:
  ATTUNE_HOST_DEVICE bool all_aligned() const noexcept {
    auto const bits = [](void const* p) { return reinterpret_cast<std::uintptr_t>(p); };
    return (bits(value) | bits(gradient) | bits(first) | bits(second) | bits(copy)) % 16 == 0;
  }
};

}  // namespace attune::device
