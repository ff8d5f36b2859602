// SPDX-License-Identifier: MIT
#include <attune/core/adamw_update.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>

#include <attune/testing/gradient_check.hpp>

#include "support/golden_file.hpp"

using namespace attune;

TEST_CASE("adamw_update: follows PyTorch's AdamW step by step") {
  for (golden_case const& c : read_golden("adamw_update.txt")) {
    std::size_t const n = c["start"].size();
    double const rate = c.number("learning_rate"), beta1 = c.number("beta1"), beta2 = c.number("beta2");
    auto value = c["start"];
    std::vector<double> first(n), second(n);
    for (std::size_t step = 0; step < c["gradients"].size() / n; ++step) {
      double const t = static_cast<double>(step + 1);
      adamw_update<double> const update{.beta1 = beta1,
                                        .beta2 = beta2,
                                        .epsilon = c.number("epsilon"),
                                        .step_size = rate / (1 - std::pow(beta1, t)),
                                        .second_scale = 1 / std::sqrt(1 - std::pow(beta2, t)),
                                        .decay = 1 - rate * c.number("weight_decay"),
                                        .gradient_scale = 0.25};
      for (std::size_t i = 0; i < n; ++i) {
        update(value[i], 4 * c["gradients"][step * n + i], first[i], second[i]);
        CHECK(testing::relative_error(value[i], c["values"][step * n + i]) <= 1e-13);
      }
    }
  }
}

TEST_CASE("adamw_update: without a gradient or a step nothing but decay moves the value") {
  adamw_update<float> const update{.beta1 = 0.9f,
                                   .beta2 = 0.99f,
                                   .epsilon = 1e-8f,
                                   .step_size = 0.1f,
                                   .second_scale = 1.0f,
                                   .decay = 0.5f,
                                   .gradient_scale = 1.0f};
  float value = 3.0f, first = 0.0f, second = 0.0f;
  update(value, 0.0f, first, second);
  CHECK(value == 1.5f);
  CHECK(first == 0.0f);
  CHECK(second == 0.0f);
}
