// SPDX-License-Identifier: MIT
#include <attune/train/kto_stage.hpp>

#include "support/keep_worst.hpp"
#include "support/small_world.hpp"
#include "support/tampered_policy.hpp"

#include <attune/model/frozen.hpp>
#include <attune/testing/gradient_check.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

using namespace attune;

namespace {

using policy_type = tabular_policy<double>;
using stage_type = kto_stage<policy_type, policy_type>;

step_batches step_of(test::feedback_list const& rows, std::size_t first, std::size_t count, std::size_t budget = 0) {
  step_batches step(budget);
  for (std::size_t i = first; i < first + count; ++i) step.push_back(rows[i], i);
  return step;
}

double sum_of(policy_type const& model, test::token_list const& prompt, test::token_list const& completion) {
  sequences s;
  s.push_back(prompt, completion);
  std::vector<double> logps(s.total_tokens());
  model.log_probs(s, logps);
  double sum = 0.0;
  for (double const l : logps) sum += l;
  return sum;
}

kto_trainer_options options_of(unpaired_options objective) {
  return {.objective = objective, .require_reference_equals_policy = false};
}

std::string refusal(kto_trainer_options const& options) {
  try {
    validate(options);
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

std::vector<double> logits_gradient(policy_type& policy) {
  auto const p = policy.parameters();
  std::vector<double> out(p[0].gradient.begin(), p[0].gradient.end());
  for (double& g : p[0].gradient) g = 0.0;
  return out;
}

}  // namespace

TEST_CASE("kto stage: BCO's delta is the mean reward of all training steps so far; evaluation reads it and leaves it") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const reference = test::random_tabular<double>({.vocabulary = 6}, 2);
  auto const rows = test::random_feedback(12, 6, 3);
  stage_type stage(policy, reference, options_of(bco_options{.beta = 0.3}));
  double sum = 0.0;
  for (std::size_t first = 0; first < 12; first += 4) {
    stage.begin_step(step_of(rows, first, 4, 20), first == 0);
    for (std::size_t i = first; i < first + 4; ++i)
      sum += 0.3 * (sum_of(policy, rows.rows[i].prompt, rows.rows[i].completion) -
                    sum_of(reference, rows.rows[i].prompt, rows.rows[i].completion));
    CHECK(stage.delta().mean == doctest::Approx(sum / static_cast<double>(first + 4)).epsilon(1e-13));
    CHECK(stage.delta().count == static_cast<double>(first + 4));
  }
  bco_delta const before = stage.delta();
  auto const step = step_of(rows, 0, 4);
  stage.begin_evaluation(step);
  CHECK(stage.delta().mean == before.mean);
  CHECK(stage.delta().count == before.count);
  batch_outcome const outcome = stage.evaluate(step[0]);
  double expected = 0.0;
  for (std::size_t i = 0; i < 4; ++i) {
    double const ratio = sum_of(policy, rows.rows[i].prompt, rows.rows[i].completion) -
                         sum_of(reference, rows.rows[i].prompt, rows.rows[i].completion);
    expected += unpaired_objective(ratio, rows.rows[i].desirable, bco_options{.beta = 0.3}, before.mean).value / 4;
  }
  CHECK(outcome.loss == doctest::Approx(expected).epsilon(1e-13));
  CHECK(outcome.weight == 4.0);
}

TEST_CASE("kto stage: the state of a stage is delta and nothing else, read and written where it lies") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const reference = test::random_tabular<double>({.vocabulary = 6}, 2);
  auto const rows = test::random_feedback(8, 6, 3);
  stage_type a(policy, reference, options_of(bco_options{})), b(policy, reference, options_of(bco_options{}));
  a.begin_step(step_of(rows, 0, 8), false);
  std::vector<std::byte> saved;
  a.visit_state([&](std::string_view name, std::span<std::byte> bytes) {
    CHECK(name == "stage/delta");
    saved.assign(bytes.begin(), bytes.end());
  });
  CHECK(saved.size() == 16);
  b.visit_state(
      [&](std::string_view, std::span<std::byte> bytes) { std::copy(saved.begin(), saved.end(), bytes.begin()); });
  CHECK(b.delta().mean == a.delta().mean);
  CHECK(b.delta().count == 8.0);
}

TEST_CASE(
    "kto stage: gradients of the micro-batches add up to the step's, whatever the cut; each example's weight counts") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const reference = test::random_tabular<double>({.vocabulary = 6}, 2);
  auto rows = test::random_feedback(11, 6, 3);
  rows.rows[4].weight = 3.0;
  for (unpaired_options const& objective :
       {unpaired_options(kto_options{.beta = 0.4, .desirable_weight = 1.3}), unpaired_options(bco_options{.beta = 0.4}),
        unpaired_options(apo_zero_unpaired_options{.beta = 0.4})}) {
    std::vector<double> whole;
    double whole_loss = 0.0;
    for (std::size_t const budget : {0u, 1u, 25u}) {
      stage_type stage(policy, reference, options_of(objective));
      auto const step = step_of(rows, 0, 11, budget);
      stage.begin_step(step, true);
      double loss = 0.0;
      for (std::size_t i = 0; i < step.size(); ++i) loss += stage.accumulate(step[i]).loss;
      auto const gradient = logits_gradient(policy);
      if (budget == 0) whole = gradient, whole_loss = loss;
      double worst = std::abs(loss - whole_loss);
      for (std::size_t i = 0; i < whole.size(); ++i) test::keep_worst(worst, {std::abs(gradient[i] - whole[i])});
      CHECK(worst <= 1e-14);
    }
    rows.rows[4].weight = 1.0;
    stage_type stage(policy, reference, options_of(objective));
    auto const step = step_of(rows, 0, 11);
    stage.begin_step(step, true);
    stage.accumulate(step[0]);
    CHECK(logits_gradient(policy) != whole);
    rows.rows[4].weight = 3.0;
  }
}

TEST_CASE("kto stage: z0 is that of the step's mismatched pairs, and no gradient goes through it") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 7);
  auto const reference = test::random_tabular<double>({.vocabulary = 6}, 2);
  auto const rows = test::random_feedback(5, 6, 3);
  double z0 = 0.0;
  for (std::size_t i = 0; i < 5; ++i) {
    auto const& completion = rows.rows[(i + 1) % 5].completion;
    z0 += (sum_of(policy, rows.rows[i].prompt, completion) - sum_of(reference, rows.rows[i].prompt, completion)) / 5;
  }
  z0 = std::max(0.0, z0);
  REQUIRE(z0 > 0.0);  // or the test says little
  stage_type stage(policy, reference, options_of(kto_options{.beta = 0.5}));
  auto const step = step_of(rows, 0, 5, 12);
  stage.begin_step(step, false);
  double loss = 0.0;
  for (std::size_t i = 0; i < step.size(); ++i) loss += stage.accumulate(step[i]).loss;
  auto const gradient = logits_gradient(policy);
  std::array<metric_sum, 7> sums{};
  stage.collect(sums);
  CHECK(sums[5].mean() == doctest::Approx(z0).epsilon(1e-13));
  auto const loss_at_fixed_z0 = [&] {
    double sum = 0.0;
    for (auto const& row : rows.rows)
      sum +=
          unpaired_objective(sum_of(policy, row.prompt, row.completion) - sum_of(reference, row.prompt, row.completion),
                             row.desirable, kto_options{.beta = 0.5}, z0)
              .value /
          5;
    return sum;
  };
  CHECK(loss == doctest::Approx(loss_at_fixed_z0()).epsilon(1e-13));
  auto const parameters = policy.parameters();
  CHECK(testing::check_gradient(loss_at_fixed_z0, parameters[0].value, gradient, 1.0).worst_error <= 1e-9);
}

TEST_CASE("kto stage: a step whose numbers are not finite names the example and does not enter delta") {
  test::tampered_policy policy(test::random_tabular<double>({.vocabulary = 6}, 1));
  auto const reference = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const rows = test::random_feedback(4, 6, 3);
  auto const step = step_of(rows, 0, 4, 1);
  std::size_t const broken_length = rows.rows[2].prompt.size() + rows.rows[2].completion.size();
  for (unpaired_options const& objective : {unpaired_options(kto_options{}), unpaired_options(bco_options{})}) {
    kto_stage<test::tampered_policy, policy_type> stage(policy, reference, options_of(objective));
    stage.begin_step(step, false);
    bco_delta const before = stage.delta();
    bool const mismatched = objective.index() == 0;
    policy.in_log_probs = [&](sequences_view s, std::span<double> logps) {
      if (mismatched || s.total_tokens() == broken_length) logps.back() = std::numeric_limits<double>::quiet_NaN();
    };
    stage.begin_step(step, false);
    policy.in_log_probs = {};
    CHECK(stage.delta().mean == before.mean);
    CHECK(stage.delta().count == before.count);
    batch_outcome const outcome = stage.accumulate(step[0]);
    CHECK(std::isnan(outcome.loss));
    CHECK(outcome.not_finite != no_example);
    std::array<metric_sum, 7> sums{};
    stage.collect(sums);
    CHECK(sums[objective.index() == 0 ? 5 : 6].weight == 1.0);  // of the good step alone
  }
}

TEST_CASE("kto stage: micro-batches out of order are refused") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const reference = policy;
  auto const rows = test::random_feedback(4, 6, 3);
  stage_type stage(policy, reference, options_of(apo_zero_unpaired_options{}));
  auto const step = step_of(rows, 0, 4, 1);
  stage.begin_step(step, false);
  CHECK_THROWS_WITH_AS(stage.accumulate(step[1]), "expected the micro-batches of a step once each, in order",
                       contract_violation);
}

TEST_CASE("kto stage: a mismatched pair beyond the model's reach says which option bounds it") {
  struct short_sighted : policy_type {
    using policy_type::policy_type;
    void log_probs(sequences_view s, std::span<double> logps) const {
      for (std::size_t b = 0; b < s.size(); ++b) expects(s.length(b) <= 6, "a window of 6 tokens", s.length(b));
      policy_type::log_probs(s, logps);
    }
  };
  short_sighted policy(tabular_options{.vocabulary = 9});
  test::feedback_list const rows{{{{1, 2, 3}, {4}, true}, {{5}, {6, 7, 8, 1}, false}}};
  kto_trainer_options options{};
  kto_stage<policy_type, short_sighted> stage(policy, policy, options);
  CHECK_THROWS_WITH_AS(stage.begin_step(step_of(rows, 0, 2), true),
                       "expected a window of 6 tokens, got 7 (among KTO's mismatched pairs, whose length "
                       "kto_trainer_options.max_length bounds)",
                       contract_violation);
  options.max_length = 6;
  kto_stage<policy_type, short_sighted> bounded(policy, policy, options);
  bounded.begin_step(step_of(rows, 0, 2), true);
}

TEST_CASE("kto stage: options are refused by field; what has no effect is refused too") {
  CHECK(refusal({}) == "no error");
  CHECK(refusal({.objective = kto_options{.beta = 0.0}}) == "expected kto_options.beta > 0 and finite, got 0");
  CHECK(refusal({.objective = bco_options{.beta = -1.0}}) == "expected bco_options.beta > 0 and finite, got -1");
  CHECK(refusal({.max_length = 5}) == "no error");
  CHECK(refusal({.objective = bco_options{}, .max_length = 5}) ==
        "expected kto_trainer_options.max_length == 0, since only KTO has mismatched pairs, got 5");
  CHECK(refusal({.loop = {.batch_size = 1}}) ==
        "expected loop_options.batch_size >= 2 for KTO: a single example has no mismatched pair, got 1");
  CHECK(refusal({.loop = {.batch_size = 1}, .objective = apo_zero_unpaired_options{}}) == "no error");
}

TEST_CASE("kto stage: every option and the objective itself are in a checkpoint's identity") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  auto const identity = [&](kto_trainer_options const& options) {
    checksum64 sum;
    kto_stage<policy_type, frozen<policy_type>>(policy, reference, options).describe(sum);
    return sum.value();
  };
  auto const original = identity({});
  CHECK(identity({}) == original);
  CHECK(identity({.objective = kto_options{.beta = 0.2}}) != original);
  CHECK(identity({.objective = kto_options{.desirable_weight = 2.0}}) != original);
  CHECK(identity({.objective = kto_options{.undesirable_weight = 2.0}}) != original);
  CHECK(identity({.max_length = 9}) != original);
  CHECK(identity({.objective = bco_options{}}) != original);
  CHECK(identity({.objective = apo_zero_unpaired_options{}}) != original);
}
