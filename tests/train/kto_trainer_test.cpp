// SPDX-License-Identifier: MIT
#include <attune/train/kto_trainer.hpp>

#include "support/keep_worst.hpp"
#include "support/proofs.hpp"
#include "support/recording_sgd.hpp"
#include "support/small_world.hpp"
#include "support/temporary_folder.hpp"

#include <attune/data/feedback_data.hpp>
#include <attune/data/preference_data.hpp>
#include <attune/model/frozen.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/reference_cache.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

using namespace attune;
using attune::test::token_list;

namespace {

using named_values = std::map<std::string, double>;

named_values metrics_of(report const& r) {
  named_values out;
  for (metric const& m : r.metrics) out[std::string(m.name)] = m.value;
  return out;
}

template <class T>
std::vector<T> values(tabular_policy<T>& policy) {
  auto const p = policy.parameters();
  return {p[0].value.begin(), p[0].value.end()};
}

double sum_of(auto const& model, token_list const& prompt, token_list const& completion) {
  sequences s;
  s.push_back(prompt, completion);
  std::vector<double> logps(s.total_tokens());
  model.log_probs(s, logps);
  double sum = 0.0;
  for (double const l : logps) sum += l;
  return sum;
}

std::vector<unpaired_options> objectives() {
  return {kto_options{.beta = 0.4, .desirable_weight = 1.3}, bco_options{.beta = 0.4},
          apo_zero_unpaired_options{.beta = 0.4, .undesirable_weight = 1.5}};
}

template <class R>
concept trainable_against = requires(tabular_policy<float>& p, R&& r, adamw<float>& o) {
  kto_trainer(p, std::forward<R>(r), o, {});
};

// One prompt, four one-token responses, judged desirable in this share of ten times each.
std::vector<double> const shares{0.2, 0.8, 0.4, 0.6};

test::feedback_list judged_ten_times() {
  test::feedback_list rows;
  for (int time = 0; time < 10; ++time)
    for (token_id y = 0; y < 4; ++y)
      rows.rows.push_back({{0}, {y}, time < std::lround(10 * shares[static_cast<std::size_t>(y)]), 1.0});
  return rows;
}

// pi_ref exp(logit(share) / beta) / Z: where BCO's classifier says sigmoid(reward - delta) = share. The shares' logits
// have mean 0, so that delta, the mean reward, is -beta log Z.
std::vector<double> bco_optimum(tabular_policy<double> const& reference, double beta) {
  std::vector<double> target(4);
  double z = 0.0;
  for (token_id y = 0; y < 4; ++y) {
    double const share = shares[static_cast<std::size_t>(y)];
    z += target[static_cast<std::size_t>(y)] =
        std::exp(sum_of(reference, {0}, {y}) + std::log(share / (1 - share)) / beta);
  }
  for (double& p : target) p /= z;
  return target;
}

}  // namespace

static_assert(trainable_against<frozen<tabular_policy<float>> const&>);
static_assert(!trainable_against<frozen<tabular_policy<float>>>, "a temporary would dangle");
static_assert(!trainable_against<reference_cache&>, "it knows no mismatched pairs");

TEST_CASE("kto trainer: the first loss is that of rewards of 0, of every objective") {
  auto const rows = test::random_feedback(50, 6, 2);
  double desirable = 0.0;
  for (auto const& row : rows.rows) desirable += row.desirable ? 0.02 : 0.0;
  std::vector<double> const expected{0.5 * (1.3 * desirable + (1 - desirable)), std::numbers::ln2,
                                     0.5 * (desirable + 1.5 * (1 - desirable))};
  for (std::size_t i = 0; i < 3; ++i) {
    auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
    frozen const reference{policy};
    adamw<double> optimizer;
    kto_trainer trainer{
        policy, reference, optimizer, {.loop = {.max_steps = 1, .batch_size = 64}, .objective = objectives()[i]}};
    named_values first;
    auto const summary = trainer.fit(rows, [&](report const& r) {
      if (r.kind == report_kind::log) first = metrics_of(r);
    });
    CHECK(summary.first_loss == doctest::Approx(expected[i]).epsilon(1e-14));
    CHECK(first.at("rewards/margins") == 0.0);
    CHECK(first.contains("kl") == (i == 0));
    CHECK(first.contains("delta") == (i == 1));
  }
}

TEST_CASE("kto trainer: the first gradient is the closed form, slope times (indicator - probability)") {
  // One-token responses: d log pi(y) / d logit(v) = [y = v] - pi(v), and every slope is -+ weight beta / 4 (BCO: beta /
  // 2).
  test::feedback_list rows;
  random_stream random(5);
  for (int i = 0; i < 30; ++i)
    rows.rows.push_back(
        {{static_cast<token_id>(random.below(2))}, {static_cast<token_id>(random.below(5))}, random.below(3) > 0, 1.0});
  std::vector<std::pair<double, double>> const slopes{
      {0.4 * 1.3 / 4, 0.4 / 4}, {0.4 / 2, 0.4 / 2}, {0.4 / 4, 0.4 * 1.5 / 4}};
  for (std::size_t o = 0; o < 3; ++o) {
    auto policy = test::random_tabular<double>({.vocabulary = 5}, 1);
    frozen const reference{policy};
    std::vector<double> expected(policy.parameter_count());
    for (auto const& row : rows.rows) {
      double const slope = (row.desirable ? -slopes[o].first : slopes[o].second) / 30;
      for (token_id v = 0; v < 5; ++v)
        expected[static_cast<std::size_t>(5 * row.prompt[0] + v)] +=
            slope * ((row.completion[0] == v ? 1.0 : 0.0) - std::exp(sum_of(policy, row.prompt, {v})));
    }
    test::recording_sgd optimizer;
    kto_trainer trainer{
        policy,
        reference,
        optimizer,
        {.loop = {.max_steps = 1, .batch_size = 30, .micro_batch_tokens = 14}, .objective = objectives()[o]}};
    trainer.fit(rows);
    double worst = 0.0;
    for (std::size_t i = 0; i < expected.size(); ++i)
      test::keep_worst(worst, {std::abs(expected[i] - optimizer.gradients[0][i])});
    CHECK(worst <= 1e-15);
  }
  proofs::law("kto", "first gradient on a tabular policy equals its closed form");
}

TEST_CASE("kto trainer: at BCO's closed-form optimum the gradient vanishes, and training comes ever closer to it") {
  double const beta = 0.5;
  auto const rows = judged_ten_times();
  auto const start = test::random_tabular<double>({.vocabulary = 4}, 3);
  frozen const reference{start};
  auto const target = bco_optimum(start, beta);
  auto policy = start;
  for (std::size_t y = 0; y < 4; ++y) policy.row(0)[y] = std::log(target[y]);
  test::recording_sgd at_rest;
  kto_trainer there{policy,
                    reference,
                    at_rest,
                    {.loop = {.max_steps = 1, .batch_size = 40},
                     .objective = bco_options{beta},
                     .require_reference_equals_policy = false}};
  there.fit(rows);
  double largest = 0.0;
  for (double const g : at_rest.gradients[0]) test::keep_worst(largest, {std::abs(g)});
  CHECK(largest <= 1e-15);

  double farther = 1.0;
  for (std::size_t const steps : {0u, 100u, 1000u, 10000u}) {
    policy = start;
    adamw<double> optimizer;
    kto_trainer trainer{policy,
                        reference,
                        optimizer,
                        {.loop = {.learning_rate = 0.01,
                                  .schedule = learning_rate_schedule::constant,
                                  .max_steps = steps,
                                  .batch_size = 40,
                                  .max_grad_norm = 100.0,
                                  .logging_steps = 10000},
                         .objective = bco_options{beta}}};
    if (steps > 0) trainer.fit(rows);
    double distance = 0.0;
    for (token_id y = 0; y < 4; ++y)
      distance += 0.5 * std::abs(std::exp(sum_of(policy, {0}, {y})) - target[static_cast<std::size_t>(y)]);
    CHECK(distance < 0.6 * farther);
    farther = distance;
  }
  CHECK(farther <= 0.05);  // delta, a mean since the first step, comes to its place as a power of the steps, slowly
  proofs::law("bco", "on a tabular policy the closed-form optimum is at rest, and training comes ever closer to it");
}

TEST_CASE("kto trainer: KTO and APO-zero make desirable responses likelier and undesirable ones less likely") {
  for (unpaired_options const& objective : {objectives()[0], objectives()[2]}) {
    auto policy = test::random_tabular<double>({.vocabulary = 4}, 3);
    frozen const reference{policy};
    adamw<double> optimizer;
    test::feedback_list rows;
    for (token_id y = 0; y < 4; ++y) rows.rows.push_back({{y % 2}, {y}, y < 2, 1.0});
    kto_trainer trainer{policy,
                        reference,
                        optimizer,
                        {.loop = {.learning_rate = 0.05, .max_steps = 100, .batch_size = 4}, .objective = objective}};
    auto const summary = trainer.fit(rows);
    CHECK(summary.last_loss < 0.8 * summary.first_loss);
    for (auto const& row : rows.rows) {
      double const ratio = sum_of(policy, row.prompt, row.completion) - sum_of(reference, row.prompt, row.completion);
      CHECK((row.desirable ? ratio > 0.1 : ratio < -0.1));
    }
  }
}

TEST_CASE("kto trainer: micro-batches of any size give the full batch's run, the partial last step included") {
  auto const rows = test::random_feedback(23, 6, 2);
  for (unpaired_options const& objective : objectives()) {
    std::vector<double> whole;
    for (std::size_t const budget : {0u, 1u, 25u}) {
      auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
      frozen const reference{policy};
      adamw<double> optimizer;
      kto_trainer trainer{policy,
                          reference,
                          optimizer,
                          {.loop = {.learning_rate = 0.05, .epochs = 2, .batch_size = 5, .micro_batch_tokens = budget},
                           .objective = objective}};
      CHECK(trainer.fit(rows).steps == 10);
      if (budget == 0) whole = values(policy);
      double worst = 0.0;
      for (std::size_t i = 0; i < whole.size(); ++i) test::keep_worst(worst, {std::abs(values(policy)[i] - whole[i])});
      CHECK(worst <= 1e-12);
    }
  }
  proofs::law("kto", "a step cut into micro-batches of any size gives the full batch's run (1e-12)");
  proofs::law("bco", "a step cut into micro-batches of any size gives the full batch's run (1e-12)");
  proofs::law("apo_zero_unpaired", "a step cut into micro-batches of any size gives the full batch's run (1e-12)");
}

TEST_CASE("kto trainer: a run in two halves ends in the bytes of one, delta included") {
  auto const rows = test::random_feedback(40, 6, 2);
  for (unpaired_options const& objective : objectives()) {
    test::temporary_folder const folder;
    auto const run = [&](std::string const& name, std::size_t stop_after, bool resume) {
      auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
      frozen const reference{policy};
      adamw<float> optimizer;
      kto_trainer trainer{policy,
                          reference,
                          optimizer,
                          {.loop = {.learning_rate = 0.05,
                                    .max_steps = 12,
                                    .batch_size = 8,
                                    .micro_batch_tokens = 40,
                                    .save_steps = 1,
                                    .checkpoint_folder = folder / name,
                                    .resume = resume},
                           .objective = objective}};
      struct stop {};
      try {
        trainer.fit(rows, [&](report const& r) {
          if (r.step > stop_after) throw stop{};
        });
      } catch (stop) {
      }
    };
    run("whole", 12, false);
    run("halves", 5, false);
    CHECK(checkpoint_folder(folder / "halves").steps().back() == 5);
    run("halves", 12, true);
    CHECK(test::content_of(checkpoint_folder(folder / "halves").file(12)) ==
          test::content_of(checkpoint_folder(folder / "whole").file(12)));
  }
  proofs::law("bco", "a run that was interrupted and resumed ends in the same bytes, delta included");
}

TEST_CASE("kto trainer: the metrics are TRL's, by their definitions") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const reference = test::random_tabular<double>({.vocabulary = 6}, 2);
  auto const rows = test::random_feedback(11, 6, 2);
  double const beta = 0.3;
  named_values expected;
  double good = 0.0, bad = 0.0;
  for (auto const& row : rows.rows) (row.desirable ? good : bad) += 1.0;
  auto const order = [&] {
    epoch_order in(11, 11, 0);
    auto const step = in.step(0);
    return std::vector<std::size_t>(step.begin(), step.end());
  }();
  double z0 = 0.0;
  for (std::size_t i = 0; i < 11; ++i) {
    auto const& row = rows.rows[order[i]];
    auto const& other = rows.rows[order[(i + 1) % 11]].completion;
    z0 += (sum_of(policy, row.prompt, other) - sum_of(reference, row.prompt, other)) / 11;
  }
  z0 = std::max(0.0, z0);
  for (auto const& row : rows.rows) {
    double const logp = sum_of(policy, row.prompt, row.completion);
    double const ratio = logp - sum_of(reference, row.prompt, row.completion);
    std::string const kind = row.desirable ? "chosen" : "rejected";
    double const share = 1.0 / (row.desirable ? good : bad);
    expected["rewards/" + kind] += share * beta * ratio;
    expected["logps/" + kind] += share * logp;
    double const t = beta * (ratio - z0);
    expected["loss"] += (row.desirable ? 1.0 - 1.0 / (1.0 + std::exp(-t)) : 1.0 / (1.0 + std::exp(-t))) / 11;
  }
  expected["rewards/margins"] = expected["rewards/chosen"] - expected["rewards/rejected"];
  expected["kl"] = z0;
  adamw<double> optimizer;
  kto_trainer trainer{policy,
                      reference,
                      optimizer,
                      {.loop = {.max_steps = 1, .batch_size = 11, .micro_batch_tokens = 30},
                       .objective = kto_options{.beta = beta},
                       .require_reference_equals_policy = false}};
  named_values logged;
  trainer.fit(rows, [&](report const& r) {
    if (r.kind == report_kind::log) logged = metrics_of(r);
  });
  for (auto const& [name, value] : expected) CHECK(logged.at(name) == doctest::Approx(value).epsilon(1e-13));
  CHECK(logged.size() == expected.size() + 3);  // grad_norm, learning_rate, num_tokens
}

TEST_CASE("kto trainer: evaluation is measured like training, cut anyhow") {
  auto const rows = test::random_feedback(23, 6, 2), held_out = test::random_feedback(17, 6, 4);
  for (unpaired_options const& objective : objectives()) {
    std::vector<named_value> first;
    for (std::size_t const budget : {0u, 1u, 30u}) {
      auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
      frozen const reference{policy};
      adamw<double> optimizer;
      kto_trainer trainer{
          policy,
          reference,
          optimizer,
          {.loop = {.learning_rate = 0.05, .batch_size = 5, .micro_batch_tokens = budget}, .objective = objective}};
      auto const summary = trainer.fit(rows, held_out);
      REQUIRE(summary.evaluation.size() == (objective.index() == 2 ? 6 : 7));
      CHECK(summary.evaluation[0].name == "eval_loss");
      if (budget == 0) first = summary.evaluation;
      for (std::size_t i = 0; i < first.size(); ++i)
        CHECK(summary.evaluation[i].value == doctest::Approx(first[i].value).epsilon(1e-12));
    }
  }
}

TEST_CASE("kto trainer: data that would leave KTO a step of one example are refused before the first step") {
  auto const nine = test::random_feedback(9, 6, 2), eight = test::random_feedback(8, 6, 2);
  auto const fit = [&](auto const& train, auto const& evaluation, std::size_t max_steps,
                       unpaired_options objective = kto_options{}) {
    auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
    frozen const reference{policy};
    adamw<float> optimizer;
    kto_trainer trainer{
        policy, reference, optimizer, {.loop = {.max_steps = max_steps, .batch_size = 4}, .objective = objective}};
    try {
      trainer.fit(train, evaluation);
    } catch (contract_violation const& e) {
      CHECK(optimizer.steps() == 0);
      return std::string(e.what());
    }
    return std::string("no error");
  };
  CHECK(fit(nine, eight, 0).find("the epoch's last step has one: examples, got 9") != std::string::npos);
  CHECK(fit(nine, eight, 3).find("the epoch's last step has one: examples, got 9") != std::string::npos);
  CHECK(fit(eight, nine, 0).find("the last one has one: examples, got 9") != std::string::npos);
  CHECK(fit(eight, eight, 0) == "no error");
  CHECK(fit(nine, nine, 0, bco_options{}) == "no error");
  CHECK(fit(nine, eight, 2) == "no error");  // the step of one is never reached
}

TEST_CASE("kto trainer: a reference that is not the policy is refused with the example and the way out") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  auto const reference = test::random_tabular<float>({.vocabulary = 6}, 2);
  auto const before = values(policy);
  adamw<float> optimizer;
  std::string why;
  try {
    kto_trainer trainer{policy, reference, optimizer, {}};
    trainer.fit(test::random_feedback(4, 6, 2));
  } catch (contract_violation const& e) {
    why = e.what();
  }
  CHECK(why.find("so rewards do not start at 0: example ") != std::string::npos);
  CHECK(why.find("require_reference_equals_policy = false") != std::string::npos);
  CHECK(values(policy) == before);
  CHECK_THROWS_AS(kto_trainer(policy, policy, optimizer, {}), contract_violation);
}

TEST_CASE("kto trainer: pairs are trained on one response at a time") {
  preference_data pairs;
  pairs.push_back({token_list{0}, token_list{1}, token_list{2}, 0.0});
  pairs.push_back({token_list{3}, token_list{2, 1}, token_list{0}, 0.0});
  auto policy = test::random_tabular<double>({.vocabulary = 4}, 1);
  frozen const reference{policy};
  adamw<double> optimizer;
  kto_trainer trainer{
      policy, reference, optimizer, {.loop = {.learning_rate = 0.05, .max_steps = 50, .batch_size = 4}}};
  trainer.fit(unpaired(pairs));
  CHECK(sum_of(policy, {0}, {1}) > sum_of(reference, {0}, {1}));
  CHECK(sum_of(policy, {0}, {2}) < sum_of(reference, {0}, {2}));
  CHECK(sum_of(policy, {3}, {0}) < sum_of(reference, {3}, {0}));
}
