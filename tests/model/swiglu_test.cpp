// SPDX-License-Identifier: MIT
#include <attune/model/swiglu.hpp>

#include <attune/core/random.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <vector>

using namespace attune;

TEST_CASE("swiglu: values and adjoint agree with the complex step of the formula, every element") {
  using complex = std::complex<double>;
  std::size_t const rows = 2, width = 21;  // past the widest vector, with a rest
  random_stream random(3);
  std::vector<double> in(rows * 2 * width), dh(rows * width), h(rows * width), again(rows * width), d_in(rows * 2 * width);
  for (double& v : in) v = 3.0 * random.normal();
  for (double& v : dh) v = random.normal();
  swiglu<double>(as_matrix<double const>(in.data(), rows, 2 * width), as_matrix(h.data(), rows, width));
  swiglu_adjoint<double>(as_matrix<double const>(in.data(), rows, 2 * width), as_matrix<double const>(dh.data(), rows, width),
                         as_matrix(d_in.data(), rows, 2 * width), as_matrix(again.data(), rows, width));
  auto const formula = [](complex gate, complex up) { return gate / (1.0 + std::exp(-gate)) * up; };
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < width; ++i) {
      double const gate = in[r * 2 * width + i], up = in[r * 2 * width + width + i];
      CHECK(h[r * width + i] == doctest::Approx(formula(gate, up).real()).epsilon(1e-14));
      CHECK(again[r * width + i] == doctest::Approx(h[r * width + i]).epsilon(1e-14));
      double const d = dh[r * width + i];
      CHECK(std::abs(d_in[r * 2 * width + i] - d * formula({gate, 1e-30}, up).imag() * 1e30) < 1e-13);
      CHECK(std::abs(d_in[r * 2 * width + width + i] - d * formula(gate, {up, 1e-30}).imag() * 1e30) < 1e-13);
    }
}

TEST_CASE("swiglu: gates far from zero reach their limits without overflow") {
  std::vector<float> in{-1e4f, 1e4f, 2.0f, 2.0f}, h(2), dh{1.0f, 1.0f}, d_in(4);
  swiglu<float>(as_matrix<float const>(in.data(), 1, 4), as_matrix(h.data(), 1, 2));
  CHECK(h[0] == 0.0f);
  CHECK(h[1] == 2e4f);
  swiglu_adjoint<float>(as_matrix<float const>(in.data(), 1, 4), as_matrix<float const>(dh.data(), 1, 2),
                        as_matrix(d_in.data(), 1, 4), as_matrix(h.data(), 1, 2));
  CHECK(d_in[0] == 0.0f);
  CHECK(d_in[1] == 2.0f);
  CHECK(d_in[2] == 0.0f);
  CHECK(d_in[3] == 1e4f);
}
