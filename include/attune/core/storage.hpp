// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstdint>

#include <attune/core/host_device.hpp>

/// Sixteen-bit floating-point numbers as they lie in files and on devices. Storage only: a value is widened to float,
/// which is exact, before anything is computed, and narrowed once when it is stored: to the nearest representable
/// number, ties to the even one, overflow to infinity, subnormals kept, NaN quiet with its sign. A double goes through
/// float first and is then rounded twice.
namespace attune {

/// The upper half of a float: 8 exponent bits, 7 fraction bits. (Google Brain, "bfloat16"; BF16 in safetensors.)
struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  ATTUNE_HOST_DEVICE explicit constexpr bf16(float value) noexcept : bits(narrow(value)) {}
  ATTUNE_HOST_DEVICE constexpr operator float() const noexcept {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
  }

  ATTUNE_HOST_DEVICE static constexpr bf16 from_bits(std::uint16_t bits) noexcept {
    bf16 result(0.0f);
    result.bits = bits;
    return result;
  }

 private:
  ATTUNE_HOST_DEVICE static constexpr std::uint16_t narrow(float value) noexcept {
    std::uint32_t const x = __builtin_bit_cast(std::uint32_t, value);
    if ((x & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>(x >> 16 | 0x40u);  // NaN
    return static_cast<std::uint16_t>((x + 0x7FFFu + (x >> 16 & 1u)) >> 16);
  }
};

/// IEEE 754 binary16: 5 exponent bits, 10 fraction bits; largest finite value 65504. (F16 in safetensors and GGUF.)
struct f16 {
  std::uint16_t bits;

  f16() = default;
  ATTUNE_HOST_DEVICE explicit constexpr f16(float value) noexcept : bits(narrow(value)) {}
  ATTUNE_HOST_DEVICE constexpr operator float() const noexcept { return widen(bits); }

  ATTUNE_HOST_DEVICE static constexpr f16 from_bits(std::uint16_t bits) noexcept {
    f16 result(0.0f);
    result.bits = bits;
    return result;
  }

 private:
  ATTUNE_HOST_DEVICE static constexpr float widen(std::uint16_t bits) noexcept {
    std::uint32_t const sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    std::uint32_t const exponent = bits >> 10 & 0x1Fu;
    std::uint32_t const fraction = bits & 0x3FFu;
    if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in float
      float const magnitude = static_cast<float>(fraction) * 0x1p-24f;
      return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, magnitude) | sign);
    }
    if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7F800000u | fraction << 13);
    return __builtin_bit_cast(float, sign | (exponent + 112u) << 23 | fraction << 13);
  }

  ATTUNE_HOST_DEVICE static constexpr std::uint16_t narrow(float value) noexcept {
    std::uint32_t const x = __builtin_bit_cast(std::uint32_t, value);
    std::uint32_t const sign = x >> 16 & 0x8000u;
    std::uint32_t const magnitude = x & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u | (magnitude >> 13 & 0x1FFu));
    if (magnitude >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // >= 65520 rounds to infinity
    if (magnitude < 0x38800000u) {                                                    // < 2^-14: subnormal
      // Adding 0.5 puts the last place of the result, 2^-24, at the last place of the float, which the addition rounds.
      float const shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
      return static_cast<std::uint16_t>(sign | (__builtin_bit_cast(std::uint32_t, shifted) - 0x3F000000u));
    }
    std::uint32_t const rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
    return static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
  }
};

/// What a computer adds and multiplies where numbers lie in memory as S.
template <class S>
struct arithmetic {
  using type = S;
};
template <>
struct arithmetic<bf16> {
  using type = float;
};
template <>
struct arithmetic<f16> {
  using type = float;
};
template <class S>
using arithmetic_t = typename arithmetic<S>::type;

/// float, double, or one of the sixteen-bit numbers that stand for floats.
template <class S>
concept StorageScalar =
    std::same_as<S, float> || std::same_as<S, double> || std::same_as<S, bf16> || std::same_as<S, f16>;

}  // namespace attune
