// SPDX-License-Identifier: MIT
#include <attune/device/gemm_plan.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

namespace {

using namespace attune;

/// sgemm as the BLAS reference defines it, on columns; refuses what xerbla would.
struct blas {
  void operator()(gemm_call<float> const& c, float alpha, float beta, int) const {
    std::int64_t const first_rows = c.first_op == transpose::no ? c.m : c.k;
    std::int64_t const second_rows = c.second_op == transpose::no ? c.k : c.n;
    REQUIRE(c.first_ld >= (std::max<std::int64_t>)(1, first_rows));
    REQUIRE(c.second_ld >= (std::max<std::int64_t>)(1, second_rows));
    REQUIRE(c.out_ld >= (std::max<std::int64_t>)(1, c.m));
    for (std::int64_t j = 0; j < c.n; ++j)
      for (std::int64_t i = 0; i < c.m; ++i) {
        double sum = 0.0;
        for (std::int64_t l = 0; l < c.k; ++l)
          sum += static_cast<double>(c.first_op == transpose::no ? c.first[i + l * c.first_ld] : c.first[l + i * c.first_ld]) *
                 static_cast<double>(c.second_op == transpose::no ? c.second[l + j * c.second_ld]
                                                                 : c.second[j + l * c.second_ld]);
        float& out = c.out[i + j * c.out_ld];
        out = alpha * static_cast<float>(sum) + (beta == 0.0f ? 0.0f : beta * out);
      }
  }
};
static_assert(Gemm<blas, int, float>);
static_assert(!Gemm<blas, int, double>);

std::vector<float> numbers(std::size_t count, double phase) {
  std::vector<float> result(count);
  for (std::size_t i = 0; i < count; ++i) result[i] = static_cast<float>(std::sin(1.7 * static_cast<double>(i) + phase));
  return result;
}

TEST_CASE("gemm plan: row-major products with every transpose and odd row strides, through a column-major library") {
  constexpr std::size_t m = 5, n = 7, k = 3;
  for (transpose const a_op : {transpose::no, transpose::yes})
    for (transpose const b_op : {transpose::no, transpose::yes})
      for (std::size_t const gap : {0u, 1u, 4u}) {
        bool const at = a_op == transpose::yes, bt = b_op == transpose::yes;
        std::size_t const a_rows = at ? k : m, a_cols = at ? m : k, b_rows = bt ? n : k, b_cols = bt ? k : n;
        std::vector<float> const a = numbers(a_rows * (a_cols + gap), 0.1), b = numbers(b_rows * (b_cols + 2 * gap), 0.7);
        std::vector<float> c = numbers(m * (n + 3 * gap), 1.3);
        std::vector<float> const before = c;
        matrix_view<float const> const av{a.data(), a_rows, a_cols, a_cols + gap};
        matrix_view<float const> const bv{b.data(), b_rows, b_cols, b_cols + 2 * gap};
        matrix_view<float> const cv{c.data(), m, n, n + 3 * gap};
        blas{}(plan_gemm(a_op, av, b_op, bv, cv), 2.0f, 0.5f, 0);
        for (std::size_t i = 0; i < m; ++i)
          for (std::size_t j = 0; j < cv.row_stride; ++j) {
            double expected = static_cast<double>(before[i * cv.row_stride + j]);
            if (j < n) {
              expected *= 0.5;
              for (std::size_t l = 0; l < k; ++l)
                expected += 2.0 * static_cast<double>(at ? av(l, i) : av(i, l)) * static_cast<double>(bt ? bv(j, l) : bv(l, j));
            }
            CHECK(std::abs(static_cast<double>(c[i * cv.row_stride + j]) - expected) < 1e-6);
          }
      }
}

TEST_CASE("gemm plan: a plan is the arguments and nothing else, at compile time too") {
  constexpr gemm_call<float, float> call =
      plan_gemm(transpose::no, matrix_view<float const>{nullptr, 2, 3, 5}, transpose::yes,
                matrix_view<float const>{nullptr, 4, 3, 6}, matrix_view<float>{nullptr, 2, 4, 7});
  static_assert(call.first_op == transpose::yes && call.second_op == transpose::no);
  static_assert(call.m == 4 && call.n == 2 && call.k == 3);
  static_assert(call.first_ld == 6 && call.second_ld == 5 && call.out_ld == 7);
  // An empty matrix has rows 0 apart, which no BLAS takes.
  CHECK(plan_gemm(transpose::no, matrix_view<float const>{}, transpose::no, matrix_view<float const>{}, matrix_view<float>{})
            .first_ld == 1);
}

TEST_CASE("gemm plan: shapes that do not fit are refused") {
  float x[24] = {};
  auto const of = [&](std::size_t rows, std::size_t cols) { return matrix_view<float const>{x, rows, cols, cols}; };
  auto const to = [&](std::size_t rows, std::size_t cols) { return matrix_view<float>{x, rows, cols, cols}; };
  CHECK_NOTHROW((void)plan_gemm(transpose::no, of(2, 3), transpose::no, of(3, 4), to(2, 4)));
  CHECK_THROWS_AS((void)plan_gemm(transpose::no, of(2, 3), transpose::yes, of(3, 4), to(2, 4)), contract_violation);
  CHECK_THROWS_AS((void)plan_gemm(transpose::yes, of(2, 3), transpose::no, of(3, 4), to(2, 4)), contract_violation);
  CHECK_THROWS_AS((void)plan_gemm(transpose::no, of(2, 3), transpose::no, of(3, 4), to(4, 2)), contract_violation);
  matrix_view<float const> const narrow{x, 3, 4, 3};
  CHECK_THROWS_AS((void)plan_gemm(transpose::no, of(2, 3), transpose::no, narrow, to(2, 4)), contract_violation);
}

}  // namespace
