// SPDX-License-Identifier: MIT
#include <attune/testing/backend_entropy_laws.hpp>

#include <cstddef>
#include <span>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>

using namespace attune;

// How check_backend_laws names spoiled backends is tested with it; here, that this part stands alone.
TEST_CASE_TEMPLATE("backend entropy laws: the reference keeps them, also with a tenth of the tolerance in double", T, float, double) {
  reference_backend<T> backend;
  testing::worst_case_book book;
  testing::backend_entropy_law_check<reference_backend<T>>(backend, book, sizeof(T) == 8 ? 0.1 : 1.0, 5).run();
  testing::expect_laws(std::move(book).broken());
}

TEST_CASE("backend entropy laws: a gradient whose entropy slope has the wrong sign is found") {
  struct wrong_sign : reference_backend<double> {
    void token_logps_adjoint(matrix_view<double const> logits, std::span<token_id const> targets, std::span<double const> normalizers,
                             row_slopes<double> slopes, matrix_view<double> dlogits) const {
      std::vector<double> turned(slopes.entropy_slopes.begin(), slopes.entropy_slopes.end());
      for (double& x : turned) x = -x;
      slopes.entropy_slopes = turned;
      reference_backend<double>::token_logps_adjoint(logits, targets, normalizers, slopes, dlogits);
    }
  } backend;
  testing::worst_case_book book;
  testing::backend_entropy_law_check<wrong_sign>(backend, book, 1.0, 5).run();
  CHECK(testing::breaks(std::move(book).broken(), "entropy adjoint"));
}
