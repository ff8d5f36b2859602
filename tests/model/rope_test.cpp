// SPDX-License-Identifier: MIT
#include <attune/model/rope.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace attune;

TEST_CASE("rope: each adjacent pair of each head turns by position * theta^(-2i / head_dim)") {
  rope_table<double> const rope(50, 4, 100.0);
  std::vector<double> x{1, 0, 1, 0, 0, 2, 0, 2};  // two heads of four
  rope.rotate(x.data(), 2, 7);
  double const slow = 7.0 * std::pow(100.0, -0.5);
  CHECK(x[0] == doctest::Approx(std::cos(7.0)));
  CHECK(x[1] == doctest::Approx(std::sin(7.0)));
  CHECK(x[2] == doctest::Approx(std::cos(slow)));
  CHECK(x[3] == doctest::Approx(std::sin(slow)));
  CHECK(x[4] == doctest::Approx(-2.0 * std::sin(7.0)));
  CHECK(x[7] == doctest::Approx(2.0 * std::cos(slow)));
}

TEST_CASE("rope: position 0 changes nothing, and rotating back is the inverse") {
  rope_table<double> const rope(50, 6, 10000.0);
  std::vector<double> const x{1, -2, 3, 4, -5, 6};
  std::vector<double> y = x;
  rope.rotate(y.data(), 1, 0);
  CHECK(y == x);
  rope.rotate(y.data(), 1, 49);
  CHECK(y[0] != doctest::Approx(x[0]));
  rope.rotate_back(y.data(), 1, 49);
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == doctest::Approx(x[i]).epsilon(1e-14));
}

TEST_CASE("rope: the product of a query and a key depends on their distance alone") {
  rope_table<double> const rope(50, 4, 10000.0);
  auto const product = [&](std::size_t i, std::size_t j) {
    std::vector<double> q{1, 2, 3, 4}, k{-1, 0.5, 2, 1};
    rope.rotate(q.data(), 1, i);
    rope.rotate(k.data(), 1, j);
    return q[0] * k[0] + q[1] * k[1] + q[2] * k[2] + q[3] * k[3];
  };
  CHECK(product(10, 3) == doctest::Approx(product(47, 40)).epsilon(1e-13));
  CHECK(product(10, 3) != doctest::Approx(product(10, 4)).epsilon(1e-3));
}
