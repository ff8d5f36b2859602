// SPDX-License-Identifier: MIT
#include <attune/backend/eigen_head.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>

using namespace attune;

namespace {

/// A head whose rows have gaps between them, memory for three threads, and room beyond.
template <class S>
struct case_of_head {
  using T = arithmetic_t<S>;
  static constexpr std::size_t gap = 2, threads = 3;
  std::size_t vocabulary, width;
  std::vector<S> memory;
  std::vector<T> room;

  case_of_head(std::size_t v, std::size_t d)
      : vocabulary(v), width(d), memory(v * (d + gap), S(99.0f)), room(threads * eigen_head<S>::elements_per_thread(v, d) + 1, T(7)) {
    random_stream random(v + d);
    for (std::size_t r = 0; r < v; ++r)
      for (std::size_t c = 0; c < d; ++c) memory[r * (d + gap) + c] = S(static_cast<T>(random.normal()));
  }
  matrix_view<S const> view() const { return {memory.data(), vocabulary, width, width + gap}; }
  eigen_head<S> head() { return {view(), room.data()}; }
};

}  // namespace

TEST_CASE_TEMPLATE("eigen_head: rows are the head's in T, each thread's in its own memory", S, bf16, f16, float, double) {
  using T = arithmetic_t<S>;
  constexpr std::size_t block = eigen_head<S>::block;
  for (std::size_t const vocabulary : {std::size_t{1}, block - 1, 2 * block - 1, 2 * block, 5 * block + 7}) {
    case_of_head<S> c(vocabulary, 5);
    std::size_t const most = std::min(vocabulary, 2 * block - 1), last = vocabulary - most;
    std::size_t const elements = eigen_head<S>::elements_per_thread(vocabulary, 5);
    CHECK((elements == 0) == std::same_as<S, T>);
    if (elements > 0) CHECK(elements >= most * 5);
    eigen_head<S> const head = c.head();
    matrix_view<T const> const first = head.rows(0, 1, 0), of_last = head.rows(last, most, 2);  // both are there at once
    REQUIRE(of_last.rows == most);
    REQUIRE(of_last.cols == 5);
    bool alike = true;
    for (std::size_t k = 0; k < 5; ++k) {
      alike = alike && first(0, k) == static_cast<T>(c.view()(0, k));
      for (std::size_t r = 0; r < most; ++r) alike = alike && of_last(r, k) == static_cast<T>(c.view()(last + r, k));
    }
    CHECK(alike);
    bool untouched = c.room.back() == T(7);
    for (std::size_t i = 0; i < elements; ++i) untouched = untouched && c.room[elements + i] == T(7);  // the second thread's
    CHECK(untouched);
    if (std::same_as<S, T>) CHECK(static_cast<void const*>(of_last.data) == static_cast<void const*>(c.view().row(last)));
  }
}

TEST_CASE_TEMPLATE("eigen_head: multiply is the product, whatever was there, over any number of blocks", S, bf16, f16, float, double) {
  using T = arithmetic_t<S>;
  constexpr std::size_t block = eigen_head<S>::block, n = 6, gap = 3;
  for (std::size_t const vocabulary : {std::size_t{1}, block - 1, block, 3 * block + 5})
    for (std::size_t const width : {std::size_t{1}, std::size_t{33}}) {
      case_of_head<S> c(vocabulary, width);
      random_stream random(4);
      std::vector<T> dlogits(n * (vocabulary + gap), std::numeric_limits<T>::quiet_NaN());
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t v = 0; v < vocabulary; ++v) dlogits[i * (vocabulary + gap) + v] = static_cast<T>(random.normal());
      matrix_view<T const> const left{dlogits.data(), n, vocabulary, vocabulary + gap};
      std::vector<T> out(n * width, T(9));
      c.head().multiply(left, as_matrix(out.data(), n, width), 1);
      double worst = 0.0;
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t d = 0; d < width; ++d) {
          long double sum = 0.0L, size = 0.0L;
          for (std::size_t v = 0; v < vocabulary; ++v) {
            long double const term = static_cast<long double>(left(i, v)) * static_cast<long double>(static_cast<T>(c.view()(v, d)));
            sum += term;
            size += std::abs(term);
          }
          double const off = static_cast<double>(std::abs(static_cast<long double>(out[i * width + d]) - sum) / size);
          worst = std::max(worst, std::isnan(off) ? std::numeric_limits<double>::infinity() : off);
        }
      CHECK(worst <= 8.0 * static_cast<double>(std::numeric_limits<T>::epsilon()));  // of the sizes of the terms
    }
}

TEST_CASE("convert: through the type asked for, and a copy of its own") {
  std::vector<float> const from{1.0f, 1.00390625f, -3.0f};
  std::vector<bf16> stored(3, bf16(0.0f));
  convert(from.data(), 2, stored.data());
  CHECK(static_cast<float>(stored[1]) == 1.0f);  // halfway between neighbours, to the even one
  CHECK(static_cast<float>(stored[2]) == 0.0f);
  std::vector<float> copy(3);
  convert(from.data(), 3, copy.data());
  CHECK(copy == from);
}
