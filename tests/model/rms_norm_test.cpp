// SPDX-License-Identifier: MIT
#include <attune/model/rms_norm.hpp>

#include <attune/core/random.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <vector>

using namespace attune;

TEST_CASE("rms norm: values and adjoint agree with the complex step of the formula, every element") {
  for (std::size_t const dim : {1u, 5u, 8u, 19u}) {
    std::size_t const rows = 3;
    random_stream random(dim);
    std::vector<double> x(rows * dim), gain(dim), dy(rows * dim), y(rows * dim), scale(rows), dx(rows * dim, 0.5), dgain(dim, 0.25);
    for (auto* v : {&x, &gain, &dy})
      for (double& value : *v) value = random.normal();
    double const epsilon = 1e-3;
    rms_norm<double>(as_matrix<double const>(x.data(), rows, dim), gain.data(), epsilon, as_matrix(y.data(), rows, dim), scale.data());
    rms_norm_adjoint<double>(as_matrix<double const>(x.data(), rows, dim), gain.data(), scale.data(),
                             as_matrix<double const>(dy.data(), rows, dim), as_matrix(dx.data(), rows, dim), dgain.data());

    using complex = std::complex<double>;
    auto const total = [&](std::size_t xi, std::size_t gi) {  // sum(dy * y) with one element stepped
      complex sum = 0.0;
      for (std::size_t r = 0; r < rows; ++r) {
        complex square = 0.0;
        std::vector<complex> row(dim);
        for (std::size_t i = 0; i < dim; ++i) {
          row[i] = x[r * dim + i] + (r * dim + i == xi ? complex(0, 1e-30) : complex());
          square += row[i] * row[i];
        }
        for (std::size_t i = 0; i < dim; ++i)
          sum += dy[r * dim + i] * (gain[i] + (i == gi ? complex(0, 1e-30) : complex())) * row[i] /
                 std::sqrt(square / static_cast<double>(dim) + epsilon);
      }
      return sum;
    };
    double dot = 0.0;
    for (std::size_t i = 0; i < y.size(); ++i) dot += y[i] * dy[i];
    CHECK(dot == doctest::Approx(total(x.size(), dim).real()).epsilon(1e-13));
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(std::abs(dx[i] - 0.5 - total(i, dim).imag() * 1e30) < 1e-12);
    for (std::size_t i = 0; i < dim; ++i) CHECK(std::abs(dgain[i] - 0.25 - total(x.size(), i).imag() * 1e30) < 1e-12);
  }
}

TEST_CASE("rms norm: may run in place, and a row of zeros stays zero") {
  std::vector<float> x{3.0f, 4.0f, 0.0f, 0.0f}, gain{1.0f, 2.0f}, scale(2);
  rms_norm<float>(as_matrix<float const>(x.data(), 2, 2), gain.data(), 0.0f + 1e-12f, as_matrix(x.data(), 2, 2), scale.data());
  float const rms = std::sqrt(12.5f);
  CHECK(x[0] == doctest::Approx(3.0f / rms));
  CHECK(x[1] == doctest::Approx(8.0f / rms));
  CHECK(x[2] == 0.0f);
  CHECK(x[3] == 0.0f);
}
