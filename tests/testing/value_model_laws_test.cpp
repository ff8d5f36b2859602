// SPDX-License-Identifier: MIT
#include <attune/testing/value_model_laws.hpp>

#include "support/small_world.hpp"
#include "support/token_value.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

using namespace attune;
using namespace attune::testing;

// Each defect breaks one promise of an otherwise sound critic or actor-critic; the checkers must name it.
namespace {

enum class defect {
  none, writes_masked, infinite, impure, reads_its_own_token, reads_the_end, not_local, order_matters,  // of values
  inconsistent, asks_twice, dirty_slopes, wrong_gradient, overwrites, changes_on_throw,                 // of the gradient
  joint_logps_off, joint_values_off, joint_asks_twice, forgets_value_slopes, joint_changes_on_throw     // of both at once
};

class defective_model {
 public:
  using scalar = double;
  explicit defective_model(defect d) : defect_(d), policy_(test::random_tabular<double>({.vocabulary = 5}, 9)), critic_(5) {
    for (std::size_t v = 0; v < 5; ++v) critic_.parameters()[0].value[v] = 0.3 * static_cast<double>(v) - 0.5;
  }

  void log_probs(sequences_view s, std::span<double> logps) const { policy_.log_probs(s, logps); }
  void accumulate_gradient(sequences_view s, slopes_of<double> ask) { policy_.accumulate_gradient(s, ask); }

  void values(sequences_view s, std::span<double> out) const {
    critic_.values(s, out);
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t) {
        if (s.mask[t] == 0) {
          if (defect_ == defect::writes_masked) out[t] = 1.0;
          continue;
        }
        if (defect_ == defect::infinite) out[t] = std::numeric_limits<double>::infinity();
        if (defect_ == defect::impure) out[t] += 1e-12 * static_cast<double>(++calls_);
        if (defect_ == defect::reads_its_own_token) out[t] += 1e-3 * s.tokens[t];
        if (defect_ == defect::reads_the_end) out[t] += 1e-3 * s.sequence(b).back();
        if (defect_ == defect::not_local) out[t] += 1e-3 * static_cast<double>(s.size());
        if (defect_ == defect::order_matters && s.size() > 1) out[t] += 1e-3 * static_cast<double>(b);
      }
  }

  void accumulate_value_gradient(sequences_view s, value_slopes_of<double> ask) {
    if (defect_ == defect::overwrites) clear_gradients(critic_);
    if (defect_ == defect::changes_on_throw) critic_.parameters()[0].gradient[1] += 1.0;
    critic_.accumulate_value_gradient(s, [&](std::span<double const> plain, std::span<double> slopes) {
      std::vector<double> seen(plain.begin(), plain.end());
      values(s, seen);
      if (defect_ == defect::inconsistent) seen.back() += 1e-3;
      if (defect_ == defect::dirty_slopes) slopes[0] = 1.0;
      ask(seen, slopes);
      if (defect_ == defect::asks_twice) ask(seen, slopes);
      if (defect_ == defect::wrong_gradient)
        for (double& slope : slopes) slope *= 1.001;
    });
    if (defect_ == defect::changes_on_throw) critic_.parameters()[0].gradient[1] -= 1.0;
  }

  void log_probs_and_values(sequences_view s, std::span<double> logps, std::span<double> out) const {
    policy_.log_probs(s, logps);
    critic_.values(s, out);
    if (defect_ == defect::joint_logps_off) logps.back() += 1e-3;
    if (defect_ == defect::joint_values_off) out.back() += 1e-3;
  }

  void accumulate_gradient_with_values(sequences_view s, actor_critic_slopes_of<double> ask) {
    if (defect_ == defect::joint_changes_on_throw) critic_.parameters()[0].gradient[1] += 1.0;
    policy_.accumulate_gradient(s, [&](std::span<double const> logps, std::span<double> slopes) {
      critic_.accumulate_value_gradient(s, [&](std::span<double const> seen, std::span<double> value_slopes) {
        ask(logps, seen, slopes, value_slopes);
        if (defect_ == defect::joint_asks_twice) ask(logps, seen, slopes, value_slopes);
        if (defect_ == defect::forgets_value_slopes) std::fill(value_slopes.begin(), value_slopes.end(), 0.0);
      });
    });
    if (defect_ == defect::joint_changes_on_throw) critic_.parameters()[0].gradient[1] -= 1.0;
  }

  std::array<parameter<double>, 2> parameters() { return {policy_.parameters()[0], critic_.parameters()[0]}; }

 private:
  defect defect_;
  tabular_policy<double> policy_;
  test::token_value<double> critic_;
  mutable std::size_t calls_ = 0;
};

static_assert(ActorCritic<defective_model>);

std::vector<broken_law> value_laws(defect d) {
  defective_model model(d);
  return check_value_model_laws(model, 5, {.batch = 6, .seed = 3});
}

std::vector<broken_law> joint_laws(defect d) {
  defective_model model(d);
  return check_actor_critic_laws(model, 5, {.batch = 6, .seed = 3});
}

}  // namespace

TEST_CASE("value model laws: a weight per token keeps them, in float and double") {
  test::token_value<double> critic(5);
  test::token_value<float> single(5);
  for (std::size_t v = 0; v < 5; ++v) {
    critic.parameters()[0].value[v] = 0.1 * static_cast<double>(v) - 0.2;
    single.parameters()[0].value[v] = 0.1f * static_cast<float>(v) - 0.2f;
  }
  expect_laws(check_value_model_laws(critic, 5));
  expect_laws(check_value_model_laws(single, 5));
  expect_laws(value_laws(defect::none));
}

TEST_CASE("value model laws: each defect of values is named") {
  CHECK(breaks(value_laws(defect::writes_masked), "masked"));
  CHECK(breaks(value_laws(defect::infinite), "finite"));
  CHECK(breaks(value_laws(defect::impure), "pure"));
  CHECK(breaks(value_laws(defect::reads_its_own_token), "causal"));
  CHECK(breaks(value_laws(defect::reads_the_end), "causal"));
  CHECK(breaks(value_laws(defect::not_local), "local"));
  CHECK(breaks(value_laws(defect::order_matters), "local"));
}

TEST_CASE("value model laws: each defect of the gradient is named") {
  CHECK(breaks(value_laws(defect::inconsistent), "consistent"));
  CHECK(breaks(value_laws(defect::asks_twice), "asks once"));
  CHECK(breaks(value_laws(defect::dirty_slopes), "masked"));
  CHECK(breaks(value_laws(defect::wrong_gradient), "exact"));
  CHECK(breaks(value_laws(defect::overwrites), "accumulates"));
  CHECK(breaks(value_laws(defect::changes_on_throw), "ask throws"));
}

TEST_CASE("actor-critic laws: a sound one keeps them, and each defect is named") {
  expect_laws(joint_laws(defect::none));
  CHECK(breaks(joint_laws(defect::joint_logps_off), "consistent"));
  CHECK(breaks(joint_laws(defect::joint_values_off), "consistent"));
  CHECK(breaks(joint_laws(defect::joint_asks_twice), "asks once"));
  CHECK(breaks(joint_laws(defect::forgets_value_slopes), "joint"));
  CHECK(breaks(joint_laws(defect::joint_changes_on_throw), "ask throws"));
}

TEST_CASE("value model laws: the checkers leave parameters as they were and gradients at zero") {
  defective_model model(defect::none);
  auto const before = copied_values(model);
  static_cast<void>(check_value_model_laws(model, 5));
  static_cast<void>(check_actor_critic_laws(model, 5));
  CHECK(copied_values(model) == before);
  for (double const g : copied_gradients(model)) CHECK(g == 0.0);
}
