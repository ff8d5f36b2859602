// SPDX-License-Identifier: MIT
#include <attune/testing/backend_kl_laws.hpp>

#include <cmath>
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
  testing::backend_kl_law_check<B>(backend, book, slack, 5, true).run();
  return std::move(book).broken();
}

using matrix = matrix_view<double const>;
using targets_view = std::span<token_id const>;

struct the_other_way_round : reference_backend<double> {
  void token_kl(matrix logits, matrix ref_logits, targets_view targets, kl_direction direction, row_kl<double> out) const {
    reference_backend<double>::token_kl(
        logits, ref_logits, targets, direction == kl_direction::reverse ? kl_direction::forward : kl_direction::reverse, out);
  }
};

struct overwrites : reference_backend<double> {
  void token_kl_adjoint(matrix logits, matrix ref_logits, targets_view targets, kl_direction direction, row_kl<double const> of,
                        std::span<double const> slopes, matrix_view<double> dlogits) const {
    for (std::size_t i = 0; i < dlogits.rows; ++i)
      if (targets[i] != no_target) std::fill_n(dlogits.row(i), dlogits.cols, 0.0);
    reference_backend<double>::token_kl_adjoint(logits, ref_logits, targets, direction, of, slopes, dlogits);
  }
};

struct forgets_the_divergence : reference_backend<double> {  // the gradient as if p did not have to sum to 1
  void token_kl_adjoint(matrix logits, matrix ref_logits, targets_view targets, kl_direction direction, row_kl<double const> of,
                        std::span<double const> slopes, matrix_view<double> dlogits) const {
    std::vector<double> none;
    for (double const kl : of.kl) none.push_back(std::isfinite(kl) ? 0.0 : kl);
    of.kl = none;
    reference_backend<double>::token_kl_adjoint(logits, ref_logits, targets, direction, of, slopes, dlogits);
  }
};

struct multiplies_zero_by_infinity : reference_backend<double> {
  void token_kl(matrix logits, matrix ref_logits, targets_view targets, kl_direction direction, row_kl<double> out) const {
    reference_backend<double>::token_kl(logits, ref_logits, targets, direction, out);
    for (std::size_t i = 0; i < logits.rows; ++i)
      for (std::size_t v = 0; targets[i] != no_target && v < logits.cols; ++v)
        if (std::isinf(logits(i, v)) && std::isinf(ref_logits(i, v))) out.kl[i] = NAN;
  }
};

struct leaves_an_unbounded_gradient : reference_backend<double> {
  void token_kl_adjoint(matrix logits, matrix ref_logits, targets_view targets, kl_direction direction, row_kl<double const> of,
                        std::span<double const> slopes, matrix_view<double> dlogits) const {
    std::vector<double> bounded;
    for (double const kl : of.kl) bounded.push_back(std::isinf(kl) ? 1.0 : kl);
    of.kl = bounded;
    reference_backend<double>::token_kl_adjoint(logits, ref_logits, targets, direction, of, slopes, dlogits);
  }
};

struct counts_skipped_rows : reference_backend<double> {
  void token_kl(matrix logits, matrix ref_logits, targets_view targets, kl_direction direction, row_kl<double> out) const {
    std::vector<token_id> const all(targets.size(), 0);
    reference_backend<double>::token_kl(logits, ref_logits, all, direction, out);
  }
};

}  // namespace

// How check_backend_laws names spoiled backends is tested with it; here, that this part stands alone.
TEST_CASE_TEMPLATE("backend kl laws: the reference keeps them, also with a tenth of the tolerance in double", T, float, double) {
  testing::expect_laws(laws<reference_backend<T>>(sizeof(T) == 8 ? 0.1 : 1.0));
}

TEST_CASE("backend kl laws: each way to spoil a divergence is found") {
  CHECK(testing::breaks(laws<the_other_way_round>(), "kl"));
  CHECK(testing::breaks(laws<multiplies_zero_by_infinity>(), "kl"));
  CHECK(testing::breaks(laws<counts_skipped_rows>(), "kl"));
  CHECK(testing::breaks(laws<overwrites>(), "kl adjoint"));
  CHECK(testing::breaks(laws<forgets_the_divergence>(), "kl adjoint"));
  CHECK(testing::breaks(laws<leaves_an_unbounded_gradient>(), "kl adjoint"));
}
