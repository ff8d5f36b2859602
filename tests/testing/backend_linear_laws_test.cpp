// SPDX-License-Identifier: MIT
#include <attune/testing/backend_linear_laws.hpp>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>

using namespace attune;

namespace {

template <class B>
std::vector<testing::broken_law> broken_by(B& backend) {
  testing::worst_case_book book;
  testing::backend_linear_law_check<B>(backend, book, 1.0, 5).run();
  return std::move(book).broken();
}

}  // namespace

// How check_backend_laws names spoiled backends is tested with it; here, that this part stands alone.
TEST_CASE_TEMPLATE("backend linear laws: the reference keeps them, also with a tenth of the tolerance in double", T, float, double) {
  reference_backend<T> backend;
  testing::worst_case_book book;
  testing::backend_linear_law_check<reference_backend<T>>(backend, book, sizeof(T) == 8 ? 0.1 : 1.0, 5).run();
  CHECK(book.laws().size() == 4);
  testing::expect_laws(std::move(book).broken());
}

TEST_CASE("backend linear laws: a gradient that is added to the hidden state's is found") {
  struct adds : reference_backend<double> {
    void linear_token_logps_adjoint(matrix_view<double const> hidden, matrix_view<double const> head, std::span<token_id const> targets,
                                    std::span<double const> normalizers, row_slopes<double> slopes, matrix_view<double> dhidden,
                                    matrix_view<double> dhead, std::span<double> memory) const {
      std::vector<double> const was(dhidden.data, dhidden.data + dhidden.rows * dhidden.cols);
      reference_backend<double>::linear_token_logps_adjoint(hidden, head, targets, normalizers, slopes, dhidden, dhead, memory);
      for (std::size_t i = 0; i < was.size(); ++i) dhidden.data[i] += was[i];
    }
  } backend;
  std::vector<testing::broken_law> const broken = broken_by(backend);
  CHECK(testing::breaks(broken, "linear adjoint"));
  CHECK(testing::breaks(broken, "no target"));
  CHECK_FALSE(testing::breaks(broken, "linear"));
}

TEST_CASE("backend linear laws: rows out of order and a write past the workspace are found") {
  struct scores_the_next_row : reference_backend<double> {
    void linear_token_logps(matrix_view<double const> hidden, matrix_view<double const> head, std::span<token_id const> targets,
                            row_logps<double> out, std::span<double> memory) const {
      reference_backend<double>::linear_token_logps(hidden, head, targets, out, memory);
      if (out.logps.size() > 1) std::swap(out.logps[0], out.logps[1]);
      memory.data()[memory.size()] = 0.0;
    }
  } backend;
  std::vector<testing::broken_law> const broken = broken_by(backend);
  CHECK(testing::breaks(broken, "linear"));
  CHECK(testing::breaks(broken, "workspace"));
  CHECK_FALSE(testing::breaks(broken, "linear adjoint"));
}
