// SPDX-License-Identifier: MIT
#include <attune/backend/host_operations.hpp>

#include <cmath>
#include <cstddef>
#include <vector>

#include <doctest/doctest.h>

using namespace attune;

// Their laws are tried with every backend that inherits them.
TEST_CASE_TEMPLATE("host operations: sums of segments, and the way back", T, float, double) {
  host_operations<T> const host;
  std::vector<T> const values{1, 2, 4, 8, 16};
  std::vector<std::size_t> const offsets{0, 2, 2, 5};
  std::vector<T> sums(3, T(9)), back(5);
  host.segment_sum(values, offsets, sums);
  CHECK(sums == std::vector<T>{3, 0, 28});
  host.segment_broadcast(sums, offsets, back);
  CHECK(back == std::vector<T>{3, 3, 28, 28, 28});
  CHECK(host.squared_norm(values) == 341.0);
  CHECK(host.squared_norm({}) == 0.0);
}

TEST_CASE("host operations: sums run in double, and AdamW is adamw_update element by element") {
  host_operations<float> const host;
  std::vector<float> const values{0x1p24f, 1.0f, 1.0f};  // a sum in float would stay at 2^24
  std::vector<std::size_t> const offsets{0, 3};
  std::vector<float> sum(1);
  host.segment_sum(values, offsets, sum);
  CHECK(sum[0] == 0x1p24f + 2.0f);
  CHECK(host.squared_norm({values.data(), 2}) == 0x1p48 + 1.0);

  adamw_update<float> const update{0.9f, 0.99f, 1e-8f, 0.01f, 1.5f, 0.999f, 0.5f};
  std::vector<float> value{1.0f, -2.0f}, first{0.5f, 0.0f}, second{0.25f, 1.0f}, v = value, m = first, s = second;
  std::vector<float> const gradient{0.125f, -1.0f};
  host.adamw(update, value, gradient, first, second);
  for (std::size_t i = 0; i < 2; ++i) update(v[i], gradient[i], m[i], s[i]);
  CHECK(value == v);
  CHECK(first == m);
  CHECK(second == s);
}

TEST_CASE("host operations: sizes that disagree are refused") {
  host_operations<double> const host;
  std::vector<double> three(3), two(2);
  std::vector<std::size_t> const offsets{0, 1, 3}, backwards{0, 3, 1, 3};
  CHECK_THROWS_AS(host.segment_sum(three, offsets, three), contract_violation);
  CHECK_THROWS_AS(host.segment_sum(two, offsets, two), contract_violation);
  CHECK_THROWS_AS(host.segment_sum(three, backwards, three), contract_violation);
  CHECK_THROWS_AS(host.segment_broadcast(two, offsets, two), contract_violation);
  CHECK_THROWS_AS(host.adamw({}, three, two, three, three), contract_violation);
  CHECK_NOTHROW(host.segment_broadcast(two, offsets, three));
}
