// SPDX-License-Identifier: MIT
#include <attune/core/aligned_buffer.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <utility>

using namespace attune;

TEST_CASE("aligned buffer: starts on a cache line, zeroed") {
  for (std::size_t const size : {1u, 3u, 1000u}) {
    aligned_buffer<double> const b(size);
    CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % 64 == 0);
    CHECK(b.size() == size);
    for (double const v : b.span()) CHECK(v == 0.0);
  }
}

TEST_CASE("aligned buffer: shrinking and growing within the capacity keeps address and contents") {
  aligned_buffer<float> b(10);
  b[7] = 3.0f;
  float* const before = b.data();
  b.resize(2);
  CHECK(b.size() == 2);
  b.resize(10);
  CHECK(b.data() == before);
  CHECK(b[7] == 3.0f);
  b.resize(11);
  CHECK(b[7] == 0.0f);
}

TEST_CASE("aligned buffer: copies are deep, moves hand over") {
  aligned_buffer<int> a(4);
  a[1] = 5;
  aligned_buffer<int> b = a;
  b[1] = 6;
  CHECK(a[1] == 5);
  int* const data = b.data();
  aligned_buffer<int> c = std::move(b);
  CHECK(c.data() == data);
  CHECK(c[1] == 6);
  a = c;
  CHECK(a[1] == 6);
  CHECK(a.data() != data);
  aligned_buffer<int> const none;
  aligned_buffer<int> const copy = none;
  CHECK(copy.size() == 0);
}
