// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <attune/backend/dlpack.hpp>

// The reader's framework, which hands out its memory by DLPack 1: made up here, as is dlpack.h.
namespace framework {

struct device {
  std::int32_t device_type, device_id;
};
struct dtype {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct tensor {
  void* data;
  framework::device device;
  std::int32_t ndim;
  framework::dtype dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct version {
  std::uint32_t major, minor;
};
struct managed_tensor_versioned {
  framework::version version;
  void* manager_ctx;
  void (*deleter)(managed_tensor_versioned*);
  std::uint64_t flags;
  tensor dl_tensor;
};

/// An array of the framework's: memory, and the tensor that describes it to others.
template <class T>
struct array {
  std::vector<T> memory;
  std::vector<std::int64_t> shape;

  array(std::vector<T> elements, std::vector<std::int64_t> its_shape)
      : memory(std::move(elements)), shape(std::move(its_shape)) {}
  array(std::int64_t rows, std::int64_t cols, T value)
      : array(std::vector<T>(static_cast<std::size_t>(rows * cols), value), {rows, cols}) {}

  managed_tensor_versioned exported() {
    attune::dl_dtype const type = attune::dl_dtype_of<T>();
    return {.version = {1, 1},
            .manager_ctx = nullptr,
            .deleter = nullptr,
            .flags = 0,
            .dl_tensor = {.data = memory.data(),
                          .device = {1, 0},
                          .ndim = static_cast<std::int32_t>(shape.size()),
                          .dtype = {type.code, type.bits, type.lanes},
                          .shape = shape.data(),
                          .strides = nullptr,
                          .byte_offset = 0}};
  }
};

}  // namespace framework

// Two responses to one prompt, vocabulary 6, width 4.
inline framework::array<std::int64_t> their_tokens({1, 2, 3, 4, 0, 1, 2, 5, 0}, {9});
inline framework::array<std::int64_t> their_offsets({0, 5, 9}, {3});
inline framework::array<std::uint8_t> their_mask({0, 0, 1, 1, 1, 0, 0, 1, 1}, {9});
inline framework::array<float> their_logits(9, 6, 0.5f), their_hidden(9, 4, 1.0f), their_reference(9, 4, 0.5f),
    their_head(6, 4, 0.25f), their_dhidden(9, 4, 9.0f), their_dhead(6, 4, 0.0f);
inline framework::array<float> their_advantages(std::vector<float>(9, 1.0f), {9});
