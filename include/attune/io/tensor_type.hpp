// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <optional>
#include <string_view>
#include <type_traits>

namespace attune {

/// The element types of a safetensors file, under the format's own names.
struct tensor_type {
  std::string_view name;
  unsigned bits;

  friend constexpr bool operator==(tensor_type const&, tensor_type const&) = default;
};

inline constexpr std::array<tensor_type, 20> tensor_types{{
    {"F64", 64},    {"F32", 32},    {"F16", 16}, {"BF16", 16}, {"I64", 64},    {"I32", 32},    {"I16", 16},
    {"I8", 8},      {"U64", 64},    {"U32", 32}, {"U16", 16},  {"U8", 8},      {"BOOL", 8},    {"F8_E4M3", 8},
    {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"C64", 64}, {"F4", 4},    {"F6_E2M3", 6}, {"F6_E3M2", 6},
}};

[[nodiscard]] constexpr std::optional<tensor_type> tensor_type_named(std::string_view name) noexcept {
  for (tensor_type const& type : tensor_types)
    if (type.name == name) return type;
  return std::nullopt;
}

/// The type under which a C++ number is stored: float is F32, double is F64.
template <class T>
requires(std::is_same_v<T, float> ||
         std::is_same_v<T, double>) inline constexpr tensor_type tensor_type_of = std::is_same_v<T, float>
                                                                                      ? tensor_type{"F32", 32}
                                                                                      : tensor_type{"F64", 64};

// The format is little-endian and bytes are read as they lie.
static_assert(std::endian::native == std::endian::little, "safetensors files are read on little-endian machines only");

}  // namespace attune
