// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <attune/core/storage.hpp>

/// Vectors of the machine through the extension that g++ and clang share. Arithmetic on them reads like arithmetic on
/// numbers and does not hang on whether a loop happens to be vectorised.
namespace attune {

#if defined(__AVX512F__)
inline constexpr std::size_t register_bytes = 64;
#elif defined(__AVX__)
inline constexpr std::size_t register_bytes = 32;
#else
inline constexpr std::size_t register_bytes = 16;
#endif

/// One register of T, and exp of it lane by lane: no table, no branch, no call. exp(-inf) is exactly 0, NaN stays NaN.
///
///   float   <= 2 ulp on [-87.3365, 88.37]; exactly 0 below, infinity above
///   double  <= 2 ulp on [-708.39, 709.43]; exactly 0 below, infinity above
///
/// Subnormal results are flushed to 0: a probability below 1e-38 is none.
///
/// Method: x = n ln2 + r with n integer, |r| <= ln2 / 2 (Cody & Waite 1980: ln2 in two parts, the first short enough
/// for n * ln2 to be exact); exp(r) by a polynomial that interpolates at Chebyshev nodes; 2^n made from the bits of the
/// number that rounded n: a large constant whose last bit counts ones, and that carries the exponent's bias.
template <class T>
struct lanes;

template <>
struct lanes<float> {
  typedef float values __attribute__((vector_size(register_bytes)));
  typedef float values_in_memory __attribute__((vector_size(register_bytes), aligned(alignof(float)), may_alias));
  typedef std::int32_t integers __attribute__((vector_size(register_bytes)));
  typedef std::uint32_t words __attribute__((vector_size(register_bytes)));
  typedef std::uint16_t halves __attribute__((vector_size(register_bytes / 2)));

  static constexpr float rounder = 12582912.0f + 127.0f;  // 1.5 * 2^23 + bias

  static values exp(values x) noexcept {
    values const top = values{} + 88.5f;
    integers const below = x < -87.3365f;
    return (values)((integers)exp_inside(x > top ? top : x) & ~below);
  }

  /// For x inside the interval alone.
  static values exp_inside(values x) noexcept {
    values const shifted = x * 1.44269504088896341f + rounder;
    values const n = shifted - rounder;
    values const r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    values p = r * 0.0013926184037700295f + 0.008363178931176662f;
    p = p * r + 0.041666556149721146f;
    p = p * r + 0.16666576266288757f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (values)((integers)shifted << 23);
  }

  // Sixteen-bit numbers, as storage.hpp has them, lane by lane.

  static values load(bf16 const* x) noexcept { return (values)(words_at(x) << 16); }

  static values load(f16 const* x) noexcept {
    words const h = words_at(x);
    values const magnitude = (values)((h & 0x7FFFu) << 13) * 0x1p112f;  // subnormals too: the product is exact
    words const beyond = (words)((h & 0x7C00u) == 0x7C00u) & 0x7F800000u;
    return (values)((words)magnitude | beyond | (h & 0x8000u) << 16);
  }

  static void store(bf16* x, values y) noexcept {
    words const bits = (words)y;
    words const rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    words const is_nan = (words)((bits & 0x7FFFFFFFu) > 0x7F800000u);
    put_words(x, (rounded & ~is_nan) | ((bits >> 16 | 0x40u) & is_nan));
  }

  static void store(f16* x, values y) noexcept {
    words const bits = (words)y, magnitude = bits & 0x7FFFFFFFu;
    words result = ((magnitude + 0xFFFu + (magnitude >> 13 & 1u)) >> 13) - (112u << 10);
    // The addition rounds to the last place, 2^-24.
    words const subnormal = (words)((values)magnitude + 0.5f) - 0x3F000000u;
    words const is_subnormal = (words)(magnitude < 0x38800000u);
    result = (result & ~is_subnormal) | (subnormal & is_subnormal);
    words const is_large = (words)(magnitude >= 0x477FF000u);
    result = (result & ~is_large) | (0x7C00u & is_large);
    words const is_nan = (words)(magnitude > 0x7F800000u);
    result = (result & ~is_nan) | ((0x7E00u | (magnitude >> 13 & 0x1FFu)) & is_nan);
    put_words(x, result | (bits >> 16 & 0x8000u));
  }

 private:
  static words words_at(void const* x) noexcept {
    halves h;
    std::memcpy(&h, x, sizeof h);
    return __builtin_convertvector(h, words);
  }

  static void put_words(void* x, words w) noexcept {
    halves const h = __builtin_convertvector(w, halves);
    std::memcpy(x, &h, sizeof h);
  }
};

template <>
struct lanes<double> {
  typedef double values __attribute__((vector_size(register_bytes)));
  typedef double values_in_memory __attribute__((vector_size(register_bytes), aligned(alignof(double)), may_alias));
  typedef std::int64_t integers __attribute__((vector_size(register_bytes)));

  static values exp(values x) noexcept {
    constexpr double rounder = 6755399441055744.0 + 1023.0;  // 1.5 * 2^52 + bias
    values const top = values{} + 709.7;
    values const y = x > top ? top : x;
    values const shifted = y * 1.44269504088896340736 + rounder;
    values const n = shifted - rounder;
    values const r = (y - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
    values p = r * 2.0914686968086876e-09 + 2.5105217004720745e-08;
    p = p * r + 2.75572736431103e-07;
    p = p * r + 2.7557255400206422e-06;
    p = p * r + 2.4801587325547743e-05;
    p = p * r + 0.00019841269874820627;
    p = p * r + 0.0013888888888883748;
    p = p * r + 0.008333333333326136;
    p = p * r + 0.041666666666666664;
    p = p * r + 0.16666666666666666;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    values const scale = (values)((integers)shifted << 52);
    integers const below = x < -708.39;
    return (values)((integers)(p * scale) & ~below);
  }
};

/// 64 bytes of T (16 floats, 8 doubles) in as many registers as that takes, so that the order of a sum over lanes is
/// the same on every instruction set.
template <class T>
struct lane_group {
  static constexpr std::size_t size = 64 / sizeof(T);
  static constexpr std::size_t registers = 64 / register_bytes;
  static constexpr std::size_t per_register = register_bytes / sizeof(T);

  typename lanes<T>::values part[registers];

  static lane_group filled(T value) noexcept {
    lane_group g;
    for (auto& p : g.part) p = typename lanes<T>::values{} + value;
    return g;
  }

  /// x may have any alignment.
  static lane_group load(T const* x) noexcept {
    lane_group g;
    for (std::size_t r = 0; r < registers; ++r)
      g.part[r] = *reinterpret_cast<typename lanes<T>::values_in_memory const*>(x + r * per_register);
    return g;
  }

  /// Sixteen-bit numbers, widened.
  template <class S>
  requires(!std::same_as<S, T>) static lane_group load(S const* x) noexcept {
    lane_group g;
    for (std::size_t r = 0; r < registers; ++r) g.part[r] = lanes<T>::load(x + r * per_register);
    return g;
  }

  /// The first count < size elements of x, the rest filled.
  template <class S>
  static lane_group load(S const* x, std::size_t count, T filler) noexcept {
    T all[size];
    for (std::size_t j = 0; j < size; ++j) all[j] = filler;
    for (std::size_t j = 0; j < count; ++j) all[j] = static_cast<T>(x[j]);
    return load(all);
  }

  void store(T* x) const noexcept {
    for (std::size_t r = 0; r < registers; ++r)
      *reinterpret_cast<typename lanes<T>::values_in_memory*>(x + r * per_register) = part[r];
  }

  /// Narrowed to sixteen bits each.
  template <class S>
  requires(!std::same_as<S, T>) void store(S* x) const noexcept {
    for (std::size_t r = 0; r < registers; ++r) lanes<T>::store(x + r * per_register, part[r]);
  }

  template <class S>
  void store(S* x, std::size_t count) const noexcept {
    T all[size];
    store(all);
    for (std::size_t j = 0; j < count; ++j) x[j] = S(all[j]);
  }

  /// The sum of all lanes, first to last.
  double total() const noexcept {
    T all[size];
    store(all);
    double sum = 0.0;
    for (T const x : all) sum += static_cast<double>(x);
    return sum;
  }
};

}  // namespace attune
