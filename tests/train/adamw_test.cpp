// SPDX-License-Identifier: MIT
#include <attune/train/adamw.hpp>

#include "support/allocations.hpp"
#include "support/small_world.hpp"

#include <attune/testing/optimizer_laws.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

using namespace attune;

namespace {

// Two parameters of which one decays.
template <class T>
struct two_parameters {
  using scalar = T;
  std::vector<T> matrix{T(0.5), T(-0.25), T(-0.0)}, norm{T(1.5)};
  std::vector<T> matrix_gradient = std::vector<T>(3), norm_gradient = std::vector<T>(1);
  std::array<parameter<T>, 2> parameters() {
    return {parameter<T>{"matrix", matrix, matrix_gradient, {1, 3}, true},
            parameter<T>{"norm", norm, norm_gradient, {1, 1}, false}};
  }
};

}  // namespace

static_assert(Optimizer<adamw<float>, tabular_policy<float>>);
static_assert(Optimizer<adamw<double>, test::token_score<double>>);

TEST_CASE_TEMPLATE("adamw: it keeps the laws of an optimiser", T, float, double) {
  testing::expect_laws(testing::check_optimizer_laws(two_parameters<T>{}, [] { return adamw<T>({.weight_decay = 0.1}); }));
  testing::expect_laws(testing::check_optimizer_laws(tabular_policy<T>({.vocabulary = 5}), [] { return adamw<T>(); }));
}

TEST_CASE("adamw: three steps meet the published algorithm, written out anew") {
  two_parameters<double> model;
  adamw<double> optimizer({.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-3, .weight_decay = 0.1});
  std::vector<double> value{0.5, -0.25, -0.0, 1.5}, m(4), v(4);
  for (int t = 1; t <= 3; ++t) {
    std::vector<double> const gradient{0.3 * t, -2.0, 0.5 / t, 1.0};
    double const rate = 0.1 / t;
    std::copy_n(gradient.begin(), 3, model.matrix_gradient.begin());
    model.norm_gradient[0] = gradient[3];
    double squares = 0.0;
    for (double const g : gradient) squares += g * g;
    double const clip = std::min(1.0, 1.2 / std::sqrt(squares));
    for (std::size_t i = 0; i < 4; ++i) {
      if (i < 3) value[i] -= rate * 0.1 * value[i];
      double const g = gradient[i] * clip;
      m[i] = 0.8 * m[i] + 0.2 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      value[i] -= rate * (m[i] / (1.0 - std::pow(0.8, t))) / (std::sqrt(v[i] / (1.0 - std::pow(0.95, t))) + 1e-3);
    }
    auto const report = optimizer.step(model, {.learning_rate = rate, .max_grad_norm = 1.2});
    CHECK(report.grad_norm == doctest::Approx(std::sqrt(squares)).epsilon(1e-14));
    for (std::size_t i = 0; i < 3; ++i) CHECK(model.matrix[i] == doctest::Approx(value[i]).epsilon(1e-13));
    CHECK(model.norm[0] == doctest::Approx(value[3]).epsilon(1e-13));
  }
  CHECK(optimizer.steps() == 3);
}

TEST_CASE("adamw: TensorFlow 1's flavour leaves epsilon out of the bias correction") {
  // lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t);  x -= lr_t m / (sqrt(v) + epsilon)
  two_parameters<double> model;
  adamw<double> optimizer({.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-2, .flavour = adam_flavour::tensorflow1});
  double const start = model.matrix[0];
  double value = start, m = 0.0, v = 0.0;
  for (int t = 1; t <= 3; ++t) {
    double const gradient = 0.05 * t;
    model.matrix_gradient[0] = gradient;
    m = 0.8 * m + 0.2 * gradient;
    v = 0.95 * v + 0.05 * gradient * gradient;
    value -= 0.1 * std::sqrt(1.0 - std::pow(0.95, t)) / (1.0 - std::pow(0.8, t)) * m / (std::sqrt(v) + 1e-2);
    optimizer.step(model, {.learning_rate = 0.1, .max_grad_norm = 1e9});
    CHECK(model.matrix[0] == doctest::Approx(value).epsilon(1e-13));
  }
}

TEST_CASE("adamw: decay is decoupled and spares parameters without it") {
  two_parameters<double> model;
  adamw<double> optimizer({.weight_decay = 0.5});
  optimizer.step(model, {.learning_rate = 0.1});  // gradient 0: decay alone moves
  CHECK(model.matrix[0] == doctest::Approx(0.475).epsilon(1e-15));
  CHECK(model.norm[0] == 1.5);
}

TEST_CASE("adamw: the sum of squares holds for every remainder of eight") {
  for (std::size_t n = 0; n < 40; ++n) {
    std::vector<float> values(n);
    double expected = 0.0;
    for (std::size_t i = 0; i < n; ++i) {
      values[i] = static_cast<float>(i) * 0.5f - 3.0f;
      expected += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    }
    CHECK(sum_of_squares(std::span<float const>(values)) == expected);
  }
}

TEST_CASE("adamw: a step allocates nothing after the first") {
  tabular_policy<float> model({.vocabulary = 20});
  adamw<float> optimizer;
  optimizer.step(model, {.learning_rate = 0.1});
  auto const before = allocations();
  for (int i = 0; i < 5; ++i) optimizer.step(model, {.learning_rate = 0.1, .max_grad_norm = 1.0});
  optimizer.zero_gradient(model);
  CHECK(allocations() == before);
}

TEST_CASE("adamw: its state belongs to one model") {
  tabular_policy<float> model({.vocabulary = 4}), other({.vocabulary = 5});
  adamw<float> optimizer;
  optimizer.step(model, {.learning_rate = 0.1});
  CHECK_THROWS_AS(optimizer.step(other, {.learning_rate = 0.1}), contract_violation);
}

TEST_CASE("adamw: bad options and bad steps are refused by field and value") {
  auto const make = [](adamw_options o) { return adamw<float>(o); };
  CHECK_THROWS_WITH_AS(make({.beta1 = 1.0}), "expected adamw_options.beta1 in [0, 1), got 1", contract_violation);
  CHECK_THROWS_AS(make({.beta2 = -0.1}), contract_violation);
  CHECK_THROWS_AS(make({.epsilon = 0.0}), contract_violation);
  CHECK_THROWS_AS(make({.weight_decay = -1.0}), contract_violation);
  CHECK_THROWS_AS(make({.weight_decay = std::nan("")}), contract_violation);
  tabular_policy<float> model({.vocabulary = 4});
  adamw<float> optimizer;
  CHECK_THROWS_AS(optimizer.step(model, {.learning_rate = -1.0}), contract_violation);
  CHECK_THROWS_AS(optimizer.step(model, {.learning_rate = std::numeric_limits<double>::infinity()}), contract_violation);
  CHECK_THROWS_AS(optimizer.step(model, {.learning_rate = 1.0, .max_grad_norm = 0.0}), contract_violation);
}
