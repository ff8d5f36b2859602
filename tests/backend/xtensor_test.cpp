// SPDX-License-Identifier: MIT
#include <attune/backend/xtensor.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/eigen.hpp>
#include <attune/backend/reference.hpp>
#include <attune/objective/loss_on_logits.hpp>

#include "support/objective_cases.hpp"

// Both layouts of xtensor's headers; fixed rank only, since 0.24's dynamic ranks do not compile with clang 19.
#if __has_include(<xtensor/containers/xtensor.hpp>)
#define ATTUNE_TEST_XTENSOR 1
#include <xtensor/containers/xadapt.hpp>
#include <xtensor/containers/xfixed.hpp>
#include <xtensor/containers/xtensor.hpp>
#include <xtensor/misc/xmanipulation.hpp>
#include <xtensor/views/xview.hpp>
#elif __has_include(<xtensor/xtensor.hpp>)
#define ATTUNE_TEST_XTENSOR 1
#include <xtensor/xadapt.hpp>
#include <xtensor/xfixed.hpp>
#include <xtensor/xmanipulation.hpp>
#include <xtensor/xtensor.hpp>
#include <xtensor/xview.hpp>
#endif

using namespace attune;

namespace {

/// Memory with any strides: what xtensor_matrix asks of a tensor, and no more.
struct strided {
  std::vector<std::size_t> shapes;
  std::vector<std::ptrdiff_t> steps;
  std::size_t offset = 0;
  std::vector<float> memory = std::vector<float>(64);

  float* data() { return memory.data(); }
  float const* data() const { return memory.data(); }
  std::size_t data_offset() const { return offset; }
  std::size_t dimension() const { return shapes.size(); }
  std::vector<std::size_t> const& shape() const { return shapes; }
  std::vector<std::ptrdiff_t> const& strides() const { return steps; }
};

template <class F>
std::string message_of(F const& f) {
  try {
    f();
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

std::string of_matrix(std::vector<std::size_t> shape, std::vector<std::ptrdiff_t> strides) {
  strided tensor{shape, strides};
  return message_of([&] { (void)xtensor_matrix(tensor, "logits"); });
}

}  // namespace

TEST_CASE("xtensor_matrix: offset, row stride and constness are the tensor's") {
  strided tensor{{3, 4}, {10, 1}, 2};
  matrix_view<float> const m = xtensor_matrix(tensor);
  CHECK(m.data == tensor.memory.data() + 2);
  CHECK(m.rows == 3);
  CHECK(m.cols == 4);
  CHECK(m.row_stride == 10);
  strided const& constant = tensor;
  static_assert(std::is_same_v<decltype(xtensor_matrix(constant)), matrix_view<float const>>);
  strided line{{5}, {1}, 3};
  std::span<float> const s = xtensor_span(line);
  CHECK(s.data() == line.memory.data() + 3);
  CHECK(s.size() == 5);
}

TEST_CASE("xtensor_matrix, xtensor_span: the stride of a dimension with one entry, or of nothing, means nothing") {
  for (std::ptrdiff_t const step : {0, 1, -7, 12}) {
    strided row{{1, 4}, {step, 1}}, column{{4, 1}, {3, step}}, one{{1, 1}, {step, step}}, none{{0, 4}, {step, step}},
        hollow{{4, 0}, {step, step}}, single{{1}, {step}}, nothing{{0}, {step}};
    CHECK(xtensor_matrix(row).row_stride == 4);
    CHECK(xtensor_matrix(column).row_stride == 3);
    CHECK(xtensor_matrix(one).row_stride == 1);
    CHECK(xtensor_matrix(none).rows == 0);
    CHECK(xtensor_matrix(none).row_stride == 4);
    CHECK(xtensor_matrix(hollow).cols == 0);
    CHECK(xtensor_matrix(hollow).row_stride == 0);
    CHECK(xtensor_span(single).size() == 1);
    CHECK(xtensor_span(nothing).empty());
  }
}

TEST_CASE("xtensor_matrix, xtensor_span: what cannot be viewed is refused with its name, shape and strides") {
  CHECK(of_matrix({3, 4}, {1, 3}) ==
        "expected logits: elements of a row side by side; found shape (3, 4), strides (1, 3)");
  CHECK(of_matrix({3, 4}, {8, 2}).find("side by side") != std::string::npos);
  CHECK(of_matrix({3, 4}, {4, -1}).find("side by side") != std::string::npos);
  CHECK(of_matrix({3, 4}, {-4, 1}) == "expected logits: rows one after another; found shape (3, 4), strides (-4, 1)");
  CHECK(of_matrix({3, 4}, {0, 1}).find("one after another") != std::string::npos);
  CHECK(of_matrix({3, 4}, {3, 1}).find("one after another") != std::string::npos);
  CHECK(of_matrix({3, 4}, {4, 1}) == "no error");
  CHECK(of_matrix({3, 4, 2}, {8, 2, 1}) ==
        "expected logits: two dimensions; found shape (3, 4, 2), strides (8, 2, 1)");
  CHECK(of_matrix({3}, {1}).find("two dimensions") != std::string::npos);
  strided tensor{{3}, {2}}, flat{{3, 4}, {4, 1}};
  CHECK(message_of([&] { (void)xtensor_span(tensor, "mask"); }) ==
        "expected mask: elements side by side; found shape (3), strides (2)");
  CHECK(message_of([&] { (void)xtensor_span(flat); }) ==
        "expected tensor: one dimension; found shape (3, 4), strides (4, 1)");
}

#ifndef ATTUNE_TEST_XTENSOR

TEST_CASE("xtensor: its own containers") { MESSAGE("skipped: xtensor was not found (Debian: libxtensor-dev)"); }

#else

TEST_CASE("xtensor: containers, adaptors and views of them are seen where they lie") {
  xt::xtensor<float, 2> owned({4, 6});
  CHECK(xtensor_matrix(owned).data == owned.data());
  CHECK(xtensor_matrix(owned).rows == 4);
  CHECK(xtensor_matrix(owned).cols == 6);
  CHECK(xtensor_matrix(owned).row_stride == 6);
  xt::xtensor<float, 2> const& constant = owned;
  static_assert(std::is_same_v<decltype(xtensor_matrix(constant)), matrix_view<float const>>);

  double raw[24] = {};
  matrix_view<double> const adapted =
      xtensor_matrix(xt::adapt(&raw[0], 24, xt::no_ownership(), std::array<std::size_t, 2>{4, 6}));
  CHECK(adapted.data == raw);
  CHECK(adapted.row_stride == 6);
  xt::xtensor_fixed<double, xt::xshape<3, 5>> fixed;
  CHECK(xtensor_matrix(fixed).data == fixed.data());
  CHECK(xtensor_matrix(fixed).row_stride == 5);

  auto const view = xtensor_matrix(xt::view(owned, xt::range(1, 3), xt::all()));
  CHECK(view.data == &owned(1, 0));
  CHECK(view.rows == 2);
  CHECK(view.row_stride == 6);
  auto const columns = xtensor_matrix(xt::view(owned, xt::all(), xt::range(2, 5)));
  CHECK(columns.data == &owned(0, 2));
  CHECK(columns.cols == 3);
  CHECK(columns.row_stride == 6);
  CHECK(xtensor_matrix(xt::view(owned, xt::range(0, 4, 2), xt::all())).row_stride == 12);
  auto block = xt::view(owned, xt::range(1, 4), xt::range(1, 6));
  auto const nested = xtensor_matrix(xt::view(block, xt::range(1, 3), xt::range(2, 4)));
  CHECK(nested.data == &owned(2, 3));
  CHECK(nested.row_stride == 6);
  xt::xtensor<float, 3> batch({2, 3, 4});
  CHECK(xtensor_matrix(xt::view(batch, 1)).data == &batch(1, 0, 0));
  CHECK(xtensor_matrix(xt::view(batch, xt::all(), 1)).row_stride == 12);

  CHECK(xtensor_span(xt::view(owned, 1)).data() == &owned(1, 0));
  CHECK(xtensor_span(xt::view(owned, 1)).size() == 6);
  xt::xtensor<token_id, 1> const tokens{5, 0, 2};
  static_assert(std::is_same_v<decltype(xtensor_span(tokens)), std::span<token_id const>>);
  CHECK(xtensor_span(tokens).data() == tokens.data());
  CHECK(xtensor_span(tokens).size() == 3);
}

TEST_CASE("xtensor: strides of 0, for dimensions with one entry, are taken for what they are") {
  xt::xtensor<float, 2> row({1, 6}), column({6, 1}), one({1, 1}), none({0, 6});
  CHECK(row.strides()[0] == 0);
  CHECK(column.strides()[1] == 0);
  CHECK(xtensor_matrix(row).row_stride == 6);
  CHECK(xtensor_matrix(column).row_stride == 1);
  CHECK(xtensor_matrix(one).row_stride == 1);
  CHECK(xtensor_matrix(none).rows == 0);
  xt::xtensor<float, 2> wide({4, 6});
  CHECK(xtensor_matrix(xt::view(wide, xt::all(), xt::range(2, 3))).row_stride == 6);
  CHECK(xtensor_matrix(xt::view(wide, xt::range(2, 3), xt::all())).data == &wide(2, 0));
  CHECK(xtensor_span(xt::view(row, xt::all(), 3)).size() == 1);
  xt::xtensor<float, 2, xt::layout_type::column_major> upright({6, 1});
  CHECK(xtensor_matrix(upright).row_stride == 1);
}

TEST_CASE("xtensor: other layouts are refused by name, other things when they compile") {
  xt::xtensor<float, 2, xt::layout_type::column_major> upright({3, 4});
  xt::xtensor<float, 2> a({3, 4});
  using namespace xt::placeholders;
  CHECK(message_of([&] { (void)xtensor_matrix(upright, "head"); }) ==
        "expected head: elements of a row side by side; found shape (3, 4), strides (1, 3)");
  CHECK(message_of([&] { (void)xtensor_matrix(xt::transpose(a), "hidden"); }) ==
        "expected hidden: elements of a row side by side; found shape (4, 3), strides (1, 4)");
  CHECK(message_of([&] { (void)xtensor_matrix(xt::view(a, xt::all(), xt::range(0, 4, 2))); }).find("side by side") !=
        std::string::npos);
  CHECK(message_of([&] { (void)xtensor_matrix(xt::view(a, xt::range(2, _, -1), xt::all())); })
            .find("strides (-4, 1)") != std::string::npos);
  CHECK(message_of([&] { (void)xtensor_span(xt::view(a, xt::all(), 1), "offsets"); }) ==
        "expected offsets: elements side by side; found shape (3), strides (4)");

  static_assert(StridedTensor<decltype(a)> && !StridedTensor<decltype(a + a)>);
  static_assert(TensorExpression<decltype(a + a)>);  // so that xtensor_matrix is found, and says why it will not
  static_assert(!StridedTensor<decltype(xt::view(a, xt::keep(0, 2), xt::all()))>);
  static_assert(!TensorExpression<std::vector<float>> && !TensorExpression<float*>);
  static_assert(static_rank<decltype(a)> == 2 && static_rank<decltype(xt::view(a, 1))> == 1);
  static_assert(static_rank<strided> == any_rank);
  static_assert(owns_elements<decltype(a)>::value);
  static_assert(owns_elements<decltype(xt::view(xt::xtensor<float, 2>({3, 4}), 1))>::value);
  static_assert(!owns_elements<decltype(xt::view(a, 1))>::value);
}

TEST_CASE_TEMPLATE("xtensor: losses and gradients are those over raw pointers, bit for bit", B,
                   reference_backend<float>, reference_backend<double>, eigen_backend<float>, eigen_backend<double>) {
  using T = typename B::scalar;
  using matrix = xt::xtensor<T, 2>;
  B backend;
  test::objective_batch const batch;
  std::size_t const n = batch.tokens(), v = batch.vocabulary, w = batch.width;
  auto const filled = [](std::vector<double> const& from, matrix& to) {
    for (std::size_t i = 0; i < from.size(); ++i) to.data()[i] = static_cast<T>(from[i]);
  };
  // The batch in xtensor's memory as well.
  sequences_view const of = batch.text;
  auto tokens = xt::xtensor<token_id, 1>::from_shape({n});
  auto mask = xt::xtensor<std::uint8_t, 1>::from_shape({n});
  auto offsets = xt::xtensor<std::size_t, 1>::from_shape({of.offsets.size()});
  std::copy(of.tokens.begin(), of.tokens.end(), tokens.data());
  std::copy(of.mask.begin(), of.mask.end(), mask.data());
  std::copy(of.offsets.begin(), of.offsets.end(), offsets.data());
  sequences_view const text{xtensor_span(tokens), xtensor_span(offsets), xtensor_span(mask)};

  matrix logits({n, v}), hidden({n, w}), head({v, w});
  filled(batch.logits, logits), filled(batch.hidden, hidden), filled(batch.head, head);
  // The same logits as columns 3, 4, ... of a wider matrix, where the gradient overwrites them.
  matrix wide({n, v + 5});
  auto inner = xt::view(wide, xt::all(), xt::range(3, 3 + v));
  matrix dhidden({n, w}), dhead({v, w});
  std::vector<T> raw_dlogits(n * v), raw_dhidden(n * w), raw_dhead(v * w);
  loss_workspace<T> workspace, raw_workspace;
  std::vector<T> logps(n);
  logps_on_logits(backend, xtensor_matrix(logits), text, std::span<T>(logps), workspace);
  std::vector<double> const near(logps.begin(), logps.end());
  auto const same = [](matrix_view<T> a, std::vector<T> const& b) {
    for (std::size_t i = 0; i < a.rows; ++i)
      if (std::memcmp(a.row(i), b.data() + i * a.cols, a.cols * sizeof(T)) != 0) return false;
    return true;
  };
  for (auto const& objective : test::objective_cases<T>(text, near)) {
    CAPTURE(objective.name);
    wide.fill(T(9));
    inner = logits;
    T const loss = loss_on_logits(backend, objective, xtensor_matrix(inner), text, xtensor_matrix(inner), workspace);
    T const raw_loss = loss_on_logits(backend, objective, as_matrix<T const>(logits.data(), n, v), batch.text,
                                      as_matrix(raw_dlogits.data(), n, v), raw_workspace);
    CHECK(loss == raw_loss);
    CHECK(same(xtensor_matrix(inner), raw_dlogits));
    CHECK((wide(0, 2) == T(9) && wide(n - 1, v + 3) == T(9)));

    dhead.fill(T(0.5));
    std::fill(raw_dhead.begin(), raw_dhead.end(), T(0.5));
    T const hidden_loss = loss_on_hidden(backend, objective, xtensor_matrix(hidden), xtensor_matrix(head), text,
                                         xtensor_matrix(dhidden), xtensor_matrix(dhead), workspace);
    T const raw_hidden_loss = loss_on_hidden(
        backend, objective, as_matrix<T const>(hidden.data(), n, w), as_matrix<T const>(head.data(), v, w), batch.text,
        as_matrix(raw_dhidden.data(), n, w), as_matrix(raw_dhead.data(), v, w), raw_workspace);
    CHECK(hidden_loss == raw_hidden_loss);
    CHECK(same(xtensor_matrix(dhidden), raw_dhidden));
    CHECK(same(xtensor_matrix(dhead), raw_dhead));
  }
}

#endif
