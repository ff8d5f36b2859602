// SPDX-License-Identifier: MIT
#include <attune/kernel/vector_exp.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace attune;

TEST_CASE_TEMPLATE("vector exp: every element is exp within 2 ulp, for any length and alignment, the same bits each time", T, float, double) {
  for (std::size_t const count : {0u, 1u, 7u, 8u, 15u, 16u, 17u, 100u}) {
    std::vector<T> reference(count);
    for (std::size_t i = 0; i < count; ++i) reference[i] = static_cast<T>(-40.0 + 0.83 * static_cast<double>(i));
    std::vector<T> first;
    for (std::size_t shift = 0; shift < 5; ++shift) {
      std::vector<T> memory(count + shift + 1, T(-1));
      std::copy(reference.begin(), reference.end(), memory.begin() + static_cast<std::ptrdiff_t>(shift));
      vector_exp(memory.data() + shift, count);
      std::vector<T> const result(memory.begin() + static_cast<std::ptrdiff_t>(shift), memory.end() - 1);
      CHECK(memory.back() == T(-1));
      for (std::size_t i = 0; i < count; ++i) {
        long double const exact = std::exp(static_cast<long double>(reference[i]));
        CHECK(std::abs(static_cast<long double>(result[i]) - exact) <= 2.0L * std::numeric_limits<T>::epsilon() * exact);
      }
      if (shift == 0) first = result;
      CHECK(result == first);
    }
  }
}

TEST_CASE_TEMPLATE("vector exp: -inf gives 0, NaN stays, large values give infinity", T, float, double) {
  std::vector<T> x{-std::numeric_limits<T>::infinity(), std::numeric_limits<T>::quiet_NaN(), T(1e4), T(0), T(-1e4)};
  vector_exp(x.data(), x.size());
  CHECK(x[0] == T(0));
  CHECK(std::isnan(x[1]));
  CHECK(std::isinf(x[2]));
  CHECK(x[3] == T(1));
  CHECK(x[4] == T(0));
}
