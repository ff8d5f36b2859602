// SPDX-License-Identifier: MIT
#include <attune/testing/backend_term_laws.hpp>

#include <cstddef>
#include <span>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>

using namespace attune;

namespace {

template <class B>
std::vector<testing::broken_law> laws(double slack = 1.0) {
  B backend;
  testing::worst_case_book book;
  testing::backend_term_law_check<B>(backend, book, slack, 5).run();
  return std::move(book).broken();
}

using normalizers_view = std::span<double const>;
using targets_view = std::span<token_id const>;

struct forgets_the_slope : reference_backend<double> {
  void token_logps_adjoint(matrix_view<double const> logits, targets_view targets, normalizers_view normalizers,
                           row_slopes<double> slopes, matrix_view<double> dlogits) const {
    slopes.log_normalizers = {};
    reference_backend<double>::token_logps_adjoint(logits, targets, normalizers, slopes, dlogits);
  }
};

struct forgets_it_through_the_head : reference_backend<double> {
  void linear_token_logps_adjoint(matrix_view<double const> hidden, matrix_view<double const> head, targets_view targets,
                                  normalizers_view normalizers, row_slopes<double> slopes, matrix_view<double> dhidden,
                                  matrix_view<double> dhead, std::span<double> memory) const {
    slopes.log_normalizers = {};
    reference_backend<double>::linear_token_logps_adjoint(hidden, head, targets, normalizers, slopes, dhidden, dhead, memory);
  }
};

struct sum_of_squares : reference_backend<double> {
  void token_logps(matrix_view<double const> logits, targets_view targets, row_logps<double> out) const {
    reference_backend<double>::token_logps(logits, targets, out);
    for (double& x : out.collisions) x = std::exp(x);
  }
};

struct collisions_of_skipped_rows : reference_backend<double> {
  void linear_token_logps(matrix_view<double const> hidden, matrix_view<double const> head, targets_view targets,
                          row_logps<double> out, std::span<double> memory) const {
    reference_backend<double>::linear_token_logps(hidden, head, targets, out, memory);
    for (std::size_t i = 0; i < out.collisions.size(); ++i)
      if (targets[i] == no_target) out.collisions[i] = -1.0;
  }
};

struct collisions_cost_the_entropy : reference_backend<double> {
  void token_logps(matrix_view<double const> logits, targets_view targets, row_logps<double> out) const {
    if (!out.collisions.empty())
      for (double& x : out.entropies) x = 0.0;
    if (!out.collisions.empty()) out.entropies = {};
    reference_backend<double>::token_logps(logits, targets, out);
  }
};

}  // namespace

// How check_backend_laws names spoiled backends is tested with it; here, that this part stands alone.
TEST_CASE_TEMPLATE("backend term laws: the reference keeps them, also with a tenth of the tolerance in double", T, float, double) {
  testing::expect_laws(laws<reference_backend<T>>(sizeof(T) == 8 ? 0.1 : 1.0));
}

TEST_CASE("backend term laws: each way to spoil collisions or the slope of the normaliser is found") {
  CHECK(testing::breaks(laws<forgets_the_slope>(), "normalizer adjoint"));
  CHECK(testing::breaks(laws<forgets_it_through_the_head>(), "normalizer adjoint"));
  CHECK(testing::breaks(laws<sum_of_squares>(), "collisions"));
  CHECK(testing::breaks(laws<collisions_of_skipped_rows>(), "collisions"));
  CHECK(testing::breaks(laws<collisions_cost_the_entropy>(), "collisions"));
}
