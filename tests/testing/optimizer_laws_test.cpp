// SPDX-License-Identifier: MIT
#include <attune/testing/optimizer_laws.hpp>

#include "support/small_world.hpp"

#include <attune/train/adamw.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace attune;
using namespace attune::testing;

namespace {

enum class defect { none, keeps_gradient, ignores_rate, forgets_state, random, swallows_nan, wrong_norm, never_clips, idle };

// Gradient descent with momentum, and one defect.
struct descent {
  defect what = defect::none;
  double velocity = 0.0;
  static inline double drift = 0.0;

  template <class Model>
  optimizer_report step(Model& m, optimizer_step s) {
    double squares = 0.0;
    for (auto&& p : m.parameters())
      for (auto const g : p.gradient) squares += static_cast<double>(g * g);
    double norm = std::sqrt(squares);
    if (!std::isfinite(norm) && what != defect::swallows_nan) {
      zero_gradient(m);
      return {norm, false};
    }
    if (!std::isfinite(norm)) norm = 1.0;
    double const scale = what != defect::never_clips && norm > s.max_grad_norm ? s.max_grad_norm / norm : 1.0;
    velocity = 0.5 * velocity + std::min(norm, s.max_grad_norm) * 1e-3;
    double rate = what == defect::ignores_rate ? 0.1 : s.learning_rate;
    if (what == defect::random) rate += (drift += 1e-6);
    if (what != defect::idle)
      for (auto&& p : m.parameters())
        for (std::size_t i = 0; i < p.value.size(); ++i)
          if (rate != 0.0) p.value[i] -= rate * (p.gradient[i] * scale + velocity);
    if (what != defect::keeps_gradient) zero_gradient(m);
    return {what == defect::wrong_norm ? 2.0 * norm : norm, true};
  }
  template <class Model>
  void zero_gradient(Model& m) { clear_gradients(m); }
  template <class Model, class F>
  void visit_state(Model&, F&& f) {
    if (what != defect::forgets_state)
      f(std::string_view("velocity"), std::as_writable_bytes(std::span(&velocity, std::size_t{1})));
  }
};

std::vector<broken_law> check(defect d) {
  return check_optimizer_laws(tabular_policy<double>({.vocabulary = 3}), [d] { return descent{d}; });
}

}  // namespace

TEST_CASE("optimizer laws: a sound optimiser keeps them") { expect_laws(check(defect::none)); }

TEST_CASE("optimizer laws: each defect is named") {
  CHECK(breaks(check(defect::keeps_gradient), "zeroes"));
  CHECK(breaks(check(defect::ignores_rate), "rate 0"));
  CHECK(breaks(check(defect::forgets_state), "state"));
  CHECK(breaks(check(defect::random), "repeatable"));
  CHECK(breaks(check(defect::swallows_nan), "not finite"));
  CHECK(breaks(check(defect::wrong_norm), "norm"));
  CHECK(breaks(check(defect::never_clips), "clips"));
  CHECK(breaks(check(defect::idle), "moves"));
}
