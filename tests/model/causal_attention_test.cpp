// SPDX-License-Identifier: MIT
#include <attune/model/causal_attention.hpp>

#include <attune/core/random.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <vector>

using namespace attune;
using complex = std::complex<double>;

namespace {

/// sum(d_out * attention(q, k, v)), in plain loops over any number type.
template <class N>
N plain_attention(std::vector<N> const& q, std::vector<N> const& k, std::vector<N> const& v, std::vector<double> const& d_out,
                  std::size_t length, std::size_t heads, std::size_t dim) {
  using std::exp;
  N total(0);
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t i = 0; i < length; ++i) {
      std::vector<N> weight(i + 1, N(0));
      N sum(0);
      for (std::size_t j = 0; j <= i; ++j) {
        for (std::size_t c = 0; c < dim; ++c) weight[j] += q[(i * heads + h) * dim + c] * k[j * dim + c];
        weight[j] = exp(weight[j] / std::sqrt(static_cast<double>(dim)));
        sum += weight[j];
      }
      for (std::size_t j = 0; j <= i; ++j)
        for (std::size_t c = 0; c < dim; ++c) total += d_out[(i * heads + h) * dim + c] * weight[j] / sum * v[j * dim + c];
    }
  return total;
}

}  // namespace

TEST_CASE("attention: the adjoint agrees with the complex step on every element, within and across blocks of rows") {
  for (std::size_t const length : {1u, 3u, 17u, 70u}) {
    CAPTURE(length);
    std::size_t const heads = 2, dim = 3, width = heads * dim;
    random_stream random(length);
    std::vector<double> q(length * width), k(length * dim), v(length * dim), d_out(length * width), out(length * width);
    for (auto* values : {&q, &k, &v, &d_out})
      for (double& x : *values) x = random.normal();
    std::vector<double> normalizers(length * heads), scratch(attention_scratch(length)), dq(q.size()), dk(k.size(), 9.0), dv(v.size(), 9.0);
    attention_group<double> const group{as_matrix<double const>(q.data(), length, width), as_matrix<double const>(k.data(), length, dim),
                                        as_matrix<double const>(v.data(), length, dim), heads};
    causal_attention<double>(group, as_matrix(out.data(), length, width), normalizers.data(), heads, scratch.data());
    causal_attention_adjoint<double>(group, as_matrix<double const>(out.data(), length, width),
                                     as_matrix<double const>(d_out.data(), length, width), normalizers.data(), heads,
                                     as_matrix(dq.data(), length, width), as_matrix(dk.data(), length, dim),
                                     as_matrix(dv.data(), length, dim), scratch.data());
    double forward = 0.0;
    for (std::size_t i = 0; i < out.size(); ++i) forward += out[i] * d_out[i];
    CHECK(forward == doctest::Approx(plain_attention(q, k, v, d_out, length, heads, dim)).epsilon(1e-11));

    std::vector<complex> cq(q.begin(), q.end()), ck(k.begin(), k.end()), cv(v.begin(), v.end());
    double worst = 0.0;
    auto const check = [&](std::vector<complex>& inputs, std::vector<double> const& gradient) {
      std::size_t const stride = length > 20 ? 7 : 1;  // every element of the short ones, every seventh of the long one
      for (std::size_t i = 0; i < inputs.size(); i += stride) {
        inputs[i] += complex(0, 1e-30);
        double const expected = plain_attention(cq, ck, cv, d_out, length, heads, dim).imag() * 1e30;
        inputs[i] = inputs[i].real();
        worst = std::max(worst, std::abs(gradient[i] - expected));
      }
    };
    check(cq, dq);
    check(ck, dk);
    check(cv, dv);
    CHECK(worst < 1e-12);
  }
}

TEST_CASE("attention: scores of 1e4 do not overflow, and NaN in one key spreads to later rows only") {
  std::size_t const length = 4, dim = 2;
  std::vector<float> q(length * dim, 100.0f), k(length * dim, 100.0f), v{1, 2, 3, 4, 5, 6, 7, 8}, out(length * dim), normalizers(length),
      scratch(attention_scratch(length));
  auto const run = [&] {
    causal_attention<float>({as_matrix<float const>(q.data(), length, dim), as_matrix<float const>(k.data(), length, dim),
                             as_matrix<float const>(v.data(), length, dim), 1},
                            as_matrix(out.data(), length, dim), normalizers.data(), 1, scratch.data());
  };
  run();
  CHECK(out[2] == doctest::Approx(2.0f));  // equal scores: the mean of the first two values
  CHECK(out[3] == doctest::Approx(3.0f));
  k[4] = std::nanf("");
  run();
  CHECK(std::isfinite(out[3]));
  CHECK(std::isnan(out[4]));
  CHECK(std::isnan(out[7]));
}
