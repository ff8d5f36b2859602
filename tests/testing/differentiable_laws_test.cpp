// SPDX-License-Identifier: MIT
#include <attune/testing/differentiable_laws.hpp>

#include <doctest/doctest.h>

#include <array>
#include <vector>

using namespace attune;
using namespace attune::testing;

namespace {

// One output per parameter: its square, times `slant` in the gradient only.
struct squares {
  using scalar = double;
  double slant = 1.0;
  std::size_t moved = 0;
  std::vector<double> value{1.0, -2.0, 0.5}, gradient{0.0, 0.0, 0.0};
  std::array<parameter<double>, 1> parameters() {
    return {parameter<double>{.name = "x", .value = value, .gradient = gradient, .shape = {1, 3 + moved}}};
  }
};

std::vector<broken_law> check(squares model) {
  law_book book;
  random_stream random(1);
  check_differentiable_laws(
      book, model, {1.0, 0.5, 2.0}, random, 1e-10,
      [&] {
        std::vector<double> out;
        for (double const x : model.value) out.push_back(x * x);
        return out;
      },
      [&](std::vector<double> const& slopes) {
        for (std::size_t i = 0; i < 3; ++i) model.gradient[i] += slopes[i] * 2.0 * model.value[i] * model.slant;
      },
      [] { throw law_violation("on purpose"); });
  return std::move(book).broken();
}

}  // namespace

TEST_CASE("differentiable laws: a right gradient passes") { expect_laws(check({})); }

TEST_CASE("differentiable laws: a gradient off by one part in a thousand is found") {
  CHECK(breaks(check({.slant = 1.001}), "exact"));
}

TEST_CASE("differentiable laws: a shape that does not hold its elements is found") {
  CHECK(breaks(check({.moved = 1}), "stable"));
}
