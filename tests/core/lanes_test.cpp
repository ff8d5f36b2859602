// SPDX-License-Identifier: MIT
#include <attune/core/lanes.hpp>

#include <cmath>
#include <cstddef>
#include <limits>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>

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
