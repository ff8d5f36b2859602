// SPDX-License-Identifier: MIT
#include <attune/core/storage.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

using attune::bf16;
using attune::f16;

static_assert(std::is_trivially_copyable_v<bf16> && std::is_trivially_default_constructible_v<bf16> &&
              sizeof(bf16) == 2);
static_assert(std::is_trivially_copyable_v<f16> && std::is_trivially_default_constructible_v<f16> && sizeof(f16) == 2);
static_assert(!std::is_convertible_v<float, bf16> && !std::is_convertible_v<float, f16>, "narrowing is written out");
static_assert(bf16(1.0f).bits == 0x3F80 && float(bf16(1.0f)) == 1.0f, "usable at compile time");
static_assert(f16(1.0f).bits == 0x3C00 && float(f16(1.0f)) == 1.0f, "usable at compile time");

namespace {

constexpr int largest_finite(bf16) { return 0x7F7F; }
constexpr int largest_finite(f16) { return 0x7BFF; }

double value(auto x) { return static_cast<double>(static_cast<float>(x)); }

}  // namespace

TEST_CASE_TEMPLATE("storage: every number of 16 bits survives the way to float and back", S, bf16, f16) {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    S const x = S::from_bits(static_cast<std::uint16_t>(bits));
    float const wide = x;
    if (std::isnan(wide))
      wrong += !std::isnan(static_cast<float>(S(wide)));
    else
      wrong += S(wide).bits != bits;
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("storage: values are those of the formats' definitions", S, bf16, f16) {
  bool const brain = std::is_same_v<S, bf16>;
  int const fraction_bits = brain ? 7 : 10;
  int const bias = brain ? 127 : 15;
  int wrong = 0;
  for (int bits = 0; bits <= largest_finite(S(0.0f)); ++bits) {
    int const exponent = bits >> fraction_bits;
    int const fraction = bits & ((1 << fraction_bits) - 1);
    double const expected = exponent == 0
                                ? std::ldexp(fraction, 1 - bias - fraction_bits)
                                : std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
    wrong += value(S::from_bits(static_cast<std::uint16_t>(bits))) != expected;
    wrong += value(S::from_bits(static_cast<std::uint16_t>(bits | 0x8000))) != -expected;
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("storage: between neighbours the nearest is taken, and the even one from the middle", S, bf16, f16) {
  int wrong = 0;
  for (int bits = 0; bits < largest_finite(S(0.0f)); ++bits) {
    float const low = S::from_bits(static_cast<std::uint16_t>(bits));
    float const high = S::from_bits(static_cast<std::uint16_t>(bits + 1));
    float const middle = static_cast<float>((static_cast<double>(low) + static_cast<double>(high)) / 2);
    int const even = bits % 2 == 0 ? bits : bits + 1;
    for (int sign : {0, 0x8000}) {
      float const s = sign == 0 ? 1.0f : -1.0f;
      wrong += S(s * middle).bits != (even | sign);
      wrong += S(s * std::nextafter(middle, low)).bits != (bits | sign);
      wrong += S(s * std::nextafter(middle, high)).bits != ((bits + 1) | sign);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("storage: half a step above the largest number begins infinity", S, bf16, f16) {
  int const top = largest_finite(S(0.0f));
  double const step =
      value(S::from_bits(static_cast<std::uint16_t>(top))) - value(S::from_bits(static_cast<std::uint16_t>(top - 1)));
  float const bound = static_cast<float>(value(S::from_bits(static_cast<std::uint16_t>(top))) + step / 2);
  CHECK(S(bound).bits == top + 1);
  CHECK(S(-bound).bits == ((top + 1) | 0x8000));
  CHECK(S(std::nextafter(bound, 0.0f)).bits == top);
  CHECK(S(std::numeric_limits<float>::max()).bits == top + 1);
  CHECK(S(std::numeric_limits<float>::infinity()).bits == top + 1);
  CHECK(std::isinf(static_cast<float>(S(bound))));
}

TEST_CASE_TEMPLATE("storage: NaN stays NaN with its sign, whatever its payload", S, bf16, f16) {
  for (std::uint32_t payload : {0x1u, 0x1FFFu, 0x2000u, 0x400000u, 0x7FFFFFu})
    for (std::uint32_t sign : {0x0u, 0x80000000u}) {
      S const x(std::bit_cast<float>(sign | 0x7F800000u | payload));
      CHECK(std::isnan(static_cast<float>(x)));
      CHECK(std::signbit(static_cast<float>(x)) == (sign != 0));
    }
}

TEST_CASE_TEMPLATE("storage: zero keeps its sign, and what is below half the smallest number becomes zero", S, bf16,
                   f16) {
  float const smallest = S::from_bits(1);
  CHECK(S(-0.0f).bits == 0x8000);
  CHECK(S(smallest / 2).bits == 0);
  CHECK(S(-smallest / 2).bits == 0x8000);
  CHECK(S(std::nextafter(smallest / 2, 1.0f)).bits == 1);
}
