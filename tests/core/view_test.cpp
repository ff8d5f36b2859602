// SPDX-License-Identifier: MIT
#include <attune/core/view.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <type_traits>
#include <vector>

using namespace attune;

TEST_CASE("matrix_view: elements of a row are adjacent, rows a stride apart") {
  std::vector<int> memory(12);
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<int>(i);
  matrix_view<int> const m{memory.data(), 3, 2, 4};
  CHECK(m(0, 0) == 0);
  CHECK(m(0, 1) == 1);
  CHECK(m(2, 1) == 9);
  CHECK(m.row(1) == memory.data() + 4);
  m(1, 1) = -1;
  CHECK(memory[5] == -1);
}

TEST_CASE("matrix_view: middle_rows keeps stride and width") {
  std::vector<float> memory(20);
  auto const m = matrix_view<float>{memory.data(), 5, 3, 4}.middle_rows(2, 2);
  CHECK(m.data == memory.data() + 8);
  CHECK(m.rows == 2);
  CHECK(m.cols == 3);
  CHECK(m.row_stride == 4);
}

TEST_CASE("as_matrix: is compact") {
  double memory[6] = {};
  auto const m = as_matrix(memory, 2, 3);
  CHECK(m.row_stride == 3);
  CHECK(&m(1, 2) == memory + 5);
}

TEST_CASE("matrix_view: mutable serves where constant is wanted, and not the other way") {
  float memory[4] = {1, 2, 3, 4};
  matrix_view<float const> const m = as_matrix(memory, 2, 2);
  CHECK(m(1, 0) == 3.0f);
  static_assert(std::is_convertible_v<matrix_view<float>, matrix_view<float const>>);
  static_assert(!std::is_convertible_v<matrix_view<float const>, matrix_view<float>>);
  static_assert(!std::is_convertible_v<matrix_view<float>, matrix_view<double const>>);
}

TEST_CASE("matrix_view: is trivially copyable, as a kernel argument must be") {
  static_assert(std::is_trivially_copyable_v<matrix_view<float>> && std::is_aggregate_v<matrix_view<float>>);
  matrix_view<float> const empty;
  CHECK(empty.data == nullptr);
  CHECK(empty.rows == 0);
}
