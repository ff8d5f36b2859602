// SPDX-License-Identifier: MIT
#include <attune/core/parameter.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace attune;

TEST_CASE("parameter: is views into the model's own memory") {
  std::vector<float> value{1, 2, 3, 4, 5, 6}, gradient(6);
  parameter<float> const p{.name = "w", .value = value, .gradient = gradient, .shape = {2, 3}};
  p.value[1] = -1;
  p.gradient[5] += 2;
  CHECK(value[1] == -1.0f);
  CHECK(gradient[5] == 2.0f);
  CHECK(p.name == "w");
  CHECK(p.shape[0] * p.shape[1] == p.value.size());
}

TEST_CASE("parameter: weight decay applies unless the model says otherwise") {
  CHECK(parameter<double>{}.decay);
  CHECK_FALSE(parameter<double>{.name = "norm", .value = {}, .gradient = {}, .decay = false}.decay);
}
