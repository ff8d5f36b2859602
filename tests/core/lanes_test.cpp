// SPDX-License-Identifier: MIT
#include <attune/core/lanes.hpp>

#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>
#include <attune/core/storage.hpp>

using namespace attune;

namespace {

template <class T>
T lane_exp(T x) {
  lane_group<T> g = lane_group<T>::filled(x);
  for (auto& part : g.part) part = lanes<T>::exp(part);
  T all[lane_group<T>::size];
  g.store(all);
  for (T const y : all)
    if (y != all[0] && !(std::isnan(y) && std::isnan(all[0]))) return T(-1);  // lanes disagree
  return all[0];
}

template <class T>
constexpr double bottom = sizeof(T) == 4 ? -87.3365 : -708.39;
template <class T>
constexpr double top = sizeof(T) == 4 ? 88.37 : 709.43;

}  // namespace

TEST_CASE_TEMPLATE("lanes: exp is within 2 ulp of the truth over its whole range", T, float, double) {
  random_stream random(5);
  double worst = 0.0;
  for (int i = 0; i < 100000; ++i) {
    T const x = static_cast<T>(i % 2 == 0 ? bottom<T> + (top<T> - bottom<T>)*random.uniform() : random.normal());
    if (static_cast<double>(x) <= bottom<T> || static_cast<double>(x) >= top<T>) continue;
    long double const exact = std::exp(static_cast<long double>(x));
    T const near = static_cast<T>(exact);
    long double const ulp = std::nextafter(near, std::numeric_limits<T>::infinity()) - near;
    double const error = static_cast<double>(std::fabs(static_cast<long double>(lane_exp(x)) - exact) / ulp);
    worst = std::fmax(worst, error);
  }
  CHECK(worst <= 2.0);
}

TEST_CASE_TEMPLATE("lanes: exp is total: 0, 1, infinity and NaN come out exactly", T, float, double) {
  T const infinity = std::numeric_limits<T>::infinity();
  CHECK(lane_exp(T(0)) == T(1));
  CHECK(lane_exp(T(-0.0)) == T(1));
  CHECK(lane_exp(-infinity) == T(0));
  CHECK_FALSE(std::signbit(lane_exp(-infinity)));
  CHECK(lane_exp(infinity) == infinity);
  CHECK(lane_exp(std::numeric_limits<T>::max()) == infinity);
  CHECK(lane_exp(std::numeric_limits<T>::lowest()) == T(0));
  CHECK(lane_exp(static_cast<T>(bottom<T> - 0.01)) == T(0));
  CHECK(lane_exp(static_cast<T>(bottom<T> + 0.001)) >= std::numeric_limits<T>::min());
  CHECK(lane_exp(static_cast<T>(top<T> + 0.1)) == infinity);
  CHECK(std::isfinite(lane_exp(static_cast<T>(top<T> - 0.01))));
  CHECK(std::isnan(lane_exp(std::numeric_limits<T>::quiet_NaN())));
  CHECK(std::isnan(lane_exp(-std::numeric_limits<T>::quiet_NaN())));
}

TEST_CASE_TEMPLATE("lanes: exp does not decrease from one number to the next", T, float, double) {
  T x = T(-3);
  T last = lane_exp(x);
  int falls = 0;
  for (int i = 0; i < 20000; ++i) {
    x = std::nextafter(x, T(1));
    T const y = lane_exp(x);
    falls += y < last * (T(1) - std::numeric_limits<T>::epsilon());
    last = y;
  }
  CHECK(falls == 0);
}

TEST_CASE_TEMPLATE("lanes: a group holds 64 bytes, loads and stores at any alignment, and fills what is not there", T,
                   float, double) {
  constexpr std::size_t size = lane_group<T>::size;
  static_assert(size * sizeof(T) == 64);
  T memory[2 * size + 2];
  for (std::size_t i = 0; i < 2 * size + 2; ++i) memory[i] = static_cast<T>(i);
  T out[size + 2] = {};
  lane_group<T>::load(memory + 1).store(out + 1);
  for (std::size_t j = 0; j < size; ++j) CHECK(out[j + 1] == static_cast<T>(j + 1));
  CHECK(out[0] == T(0));
  CHECK(out[size + 1] == T(0));

  lane_group<T> const part = lane_group<T>::load(memory, 3, T(100));
  CHECK(part.total() == 0.0 + 1.0 + 2.0 + 100.0 * static_cast<double>(size - 3));
  T few[size] = {};
  part.store(few, 2);
  CHECK(few[1] == T(1));
  CHECK(few[2] == T(0));
}

// Every number of sixteen bits, and every float next to the middle between two of them, in each lane.
TEST_CASE_TEMPLATE("lanes: sixteen-bit numbers are widened and narrowed as storage.hpp does it, to the bit", S, bf16, f16) {
  using group = lane_group<float>;
  auto const bits_of = [](float x) { return std::bit_cast<std::uint32_t>(x); };
  std::size_t wrong = 0;
  auto const narrows = [&](float const* x) {
    S stored[group::size];
    group::load(x).store(stored);
    for (std::size_t j = 0; j < group::size; ++j) wrong += stored[j].bits != S(x[j]).bits;
  };
  for (std::uint32_t first = 0; first < 65536; first += group::size) {
    S numbers[group::size + 1];
    float wide[group::size];
    for (std::size_t j = 0; j < group::size; ++j) numbers[j + 1] = S::from_bits(static_cast<std::uint16_t>(first + j));
    group::load(numbers + 1).store(wide);
    for (std::size_t j = 0; j < group::size; ++j) wrong += bits_of(wide[j]) != bits_of(static_cast<float>(numbers[j + 1]));
    narrows(wide);
    float const last_place = std::same_as<S, bf16> ? 0x1p16f : 0x1p13f;
    for (std::uint32_t const off : {0u, 1u, static_cast<std::uint32_t>(last_place) / 2 - 1, static_cast<std::uint32_t>(last_place) / 2,
                                    static_cast<std::uint32_t>(last_place) / 2 + 1, static_cast<std::uint32_t>(last_place) - 1}) {
      float near[group::size];
      for (std::size_t j = 0; j < group::size; ++j) near[j] = std::bit_cast<float>(bits_of(wide[j]) + off);
      narrows(near);
    }
  }
  random_stream random(9);
  for (int i = 0; i < 20000; ++i) {
    float any[group::size];
    for (float& x : any) x = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    narrows(any);
  }
  CHECK(wrong == 0);
}
