// SPDX-License-Identifier: MIT
#include <attune/core/model_fingerprint.hpp>

#include "support/small_world.hpp"

#include <doctest/doctest.h>

using namespace attune;

TEST_CASE("model fingerprint: the shape's identity ignores values, the model's does not") {
  tabular_policy<double> a({.vocabulary = 4}), b({.vocabulary = 4});
  CHECK(shape_fingerprint(a) == shape_fingerprint(b));
  CHECK(model_fingerprint(a) == model_fingerprint(b));
  b.row(3)[3] = 1e-300;
  CHECK(shape_fingerprint(a) == shape_fingerprint(b));
  CHECK(model_fingerprint(a) != model_fingerprint(b));
  b.row(3)[3] = -0.0;  // another bit, the same number
  CHECK(model_fingerprint(a) != model_fingerprint(b));
}

TEST_CASE("model fingerprint: size, order and element type are told apart") {
  tabular_policy<double> a({.vocabulary = 4}), wider({.vocabulary = 5});
  tabular_policy<float> narrow({.vocabulary = 4});
  CHECK(shape_fingerprint(a) != shape_fingerprint(wider));
  CHECK(shape_fingerprint(a) != shape_fingerprint(narrow));
}

TEST_CASE("model fingerprint: gradients are not part of it") {
  tabular_policy<double> a({.vocabulary = 4});
  auto const before = model_fingerprint(a);
  a.parameters()[0].gradient[0] = 3.0;
  CHECK(model_fingerprint(a) == before);
}

TEST_CASE("model fingerprint: a model without parameters answers for itself") {
  struct remote {
    std::uint64_t fingerprint() const { return 42; }
  } model;
  CHECK(model_fingerprint(model) == 42);
}

TEST_CASE("model fingerprint: a temperature is part of it, 1 is none") {
  tabular_policy<double> a({.vocabulary = 4});
  auto const before = model_fingerprint(a);
  a.set_temperature(0.7);
  auto const warm = model_fingerprint(a);
  CHECK(warm != before);
  a.set_temperature(0.8);
  CHECK(model_fingerprint(a) != warm);
  a.set_temperature(1.0);
  CHECK(model_fingerprint(a) == before);
}
