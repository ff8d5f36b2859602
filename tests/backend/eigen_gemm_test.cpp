// SPDX-License-Identifier: MIT
#include <attune/backend/eigen_gemm.hpp>

#include <attune/core/random.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

using namespace attune;

namespace {

template <class T>
std::vector<T> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed) {
  random_stream random(seed);
  std::vector<T> m(rows * cols);
  for (T& v : m) v = static_cast<T>(random.normal());
  return m;
}

}  // namespace

TEST_CASE_TEMPLATE("gemm: the three products equal plain loops, overwritten and added, with strides", T, float, double) {
  for (std::size_t const m : {1u, 4u, 9u})
    for (std::size_t const n : {1u, 5u, 33u})
      for (std::size_t const k : {1u, 7u, 40u}) {
        std::size_t const pad = 3;
        auto const a = random_matrix<T>(m, k + pad, 1), b = random_matrix<T>(n, k + pad, 2);
        auto const bt = random_matrix<T>(k, n + pad, 3), at = random_matrix<T>(k, m + pad, 4);
        matrix_view<T const> const va{a.data(), m, k, k + pad}, vb{b.data(), n, k, k + pad}, vbt{bt.data(), k, n, n + pad},
            vat{at.data(), k, m, m + pad};
        for (product const how : {product::overwrite, product::add}) {
          auto const check = [&](auto gemm, auto left, auto right) {
            std::vector<T> c(m * (n + pad), T(0.5));
            gemm(matrix_view<T>{c.data(), m, n, n + pad});
            for (std::size_t i = 0; i < m; ++i) {
              for (std::size_t j = 0; j < n; ++j) {
                long double expected = how == product::add ? 0.5L : 0.0L;
                for (std::size_t l = 0; l < k; ++l) expected += static_cast<long double>(left(i, l)) * static_cast<long double>(right(l, j));
                CHECK(std::abs(static_cast<long double>(c[i * (n + pad) + j]) - expected) < 60 * std::numeric_limits<T>::epsilon());
              }
              for (std::size_t j = n; j < n + pad; ++j) CHECK(c[i * (n + pad) + j] == T(0.5));  // between rows: untouched
            }
          };
          check([&](auto c) { gemm_nt<T>(va, vb, c, how); }, [&](auto i, auto l) { return va(i, l); }, [&](auto l, auto j) { return vb(j, l); });
          check([&](auto c) { gemm_nn<T>(va, vbt, c, how); }, [&](auto i, auto l) { return va(i, l); }, [&](auto l, auto j) { return vbt(l, j); });
          check([&](auto c) { gemm_tn<T>(vat, vbt, c, how); }, [&](auto i, auto l) { return vat(l, i); }, [&](auto l, auto j) { return vbt(l, j); });
        }
      }
}

TEST_CASE_TEMPLATE("gemm: a row is the same bits wherever it stands and whatever the others hold, rows padded to four", T, float, double) {
  for (auto const& [k, n] : {std::pair<std::size_t, std::size_t>{8, 24}, {64, 64}, {100, 257}, {344, 128}, {700, 33}}) {
    auto const row = random_matrix<T>(1, k, 5), b = random_matrix<T>(n, k, 6), bt = random_matrix<T>(k, n, 7);
    std::vector<T> first;
    for (std::size_t m = 4; m <= 40; m += 4)
      for (std::size_t place = 0; place < m; place += 3) {
        auto a = random_matrix<T>(m, k, 100 + m);
        std::copy(row.begin(), row.end(), a.begin() + static_cast<std::ptrdiff_t>(place * k));
        std::vector<T> c(2 * m * n);
        gemm_nt<T>(as_matrix<T const>(a.data(), m, k), as_matrix<T const>(b.data(), n, k), as_matrix(c.data(), m, n));
        gemm_nn<T>(as_matrix<T const>(a.data(), m, k), as_matrix<T const>(bt.data(), k, n), as_matrix(c.data() + m * n, m, n));
        std::vector<T> result(c.begin() + static_cast<std::ptrdiff_t>(place * n), c.begin() + static_cast<std::ptrdiff_t>((place + 1) * n));
        result.insert(result.end(), c.begin() + static_cast<std::ptrdiff_t>((m + place) * n),
                      c.begin() + static_cast<std::ptrdiff_t>((m + place + 1) * n));
        if (first.empty()) first = result;
        CHECK(std::memcmp(first.data(), result.data(), first.size() * sizeof(T)) == 0);
      }
  }
}

TEST_CASE("gemm: shapes that disagree are refused") {
  std::vector<float> m(64);
  auto const view = [&](std::size_t r, std::size_t c) { return as_matrix(m.data(), r, c); };
  auto const constant = [&](std::size_t r, std::size_t c) { return as_matrix<float const>(m.data(), r, c); };
  CHECK_THROWS_AS(gemm_nt<float>(constant(2, 3), constant(4, 2), view(2, 4)), contract_violation);
  CHECK_THROWS_AS(gemm_nn<float>(constant(2, 3), constant(3, 4), view(2, 3)), contract_violation);
  CHECK_THROWS_AS(gemm_tn<float>(constant(3, 2), constant(4, 4), view(2, 4)), contract_violation);
}
