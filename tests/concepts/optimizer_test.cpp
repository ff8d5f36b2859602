// SPDX-License-Identifier: MIT
#include <attune/concepts/optimizer.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <span>
#include <string_view>

using namespace attune;

namespace {

struct model {};

struct archetype {
  optimizer_report step(model&, optimizer_step) { return {}; }
  void zero_gradient(model&) {}
  template <class F>
  void visit_state(model&, F&&) {}
};

struct step_without_report : archetype {
  void step(model&, optimizer_step) {}
};
struct step_with_a_bare_rate : archetype {
  optimizer_report step(model&, double) { return {}; }
};
struct no_zero_gradient {
  optimizer_report step(model&, optimizer_step) { return {}; }
  template <class F>
  void visit_state(model&, F&&) {}
};
struct no_state {
  optimizer_report step(model&, optimizer_step) { return {}; }
  void zero_gradient(model&) {}
};
struct for_another_model {
  struct other {};
  optimizer_report step(other&, optimizer_step) { return {}; }
  void zero_gradient(other&) {}
  template <class F>
  void visit_state(other&, F&&) {}
};

}  // namespace

static_assert(Optimizer<archetype, model>);
static_assert(!Optimizer<step_without_report, model>);
static_assert(!Optimizer<step_with_a_bare_rate, model>);
static_assert(!Optimizer<no_zero_gradient, model>);
static_assert(!Optimizer<no_state, model>);
static_assert(!Optimizer<for_another_model, model>);

TEST_CASE("optimizer: a step asks for no clipping and no rate unless told") {
  CHECK(optimizer_step{}.learning_rate == 0.0);
  CHECK(std::isinf(optimizer_step{}.max_grad_norm));
  CHECK(optimizer_report{}.finite);
}
