// SPDX-License-Identifier: MIT
#include <attune/train/reward_trainer.hpp>

#include "support/small_world.hpp"

#include <attune/eval/pairwise_accuracy.hpp>
#include <attune/train/adamw.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

using namespace attune;

namespace {
std::vector<double> weights(test::token_score<double>& model) {
  auto const p = model.parameters();
  return {p[0].value.begin(), p[0].value.end()};
}
}  // namespace

TEST_CASE("reward trainer: exact preferences give back the rewards behind them") {
  // Chosen a over b with probability w_a / (w_a + w_b): reward differences are log(w_a / w_b).
  std::vector<int> const w{1, 2, 3, 6};
  test::pair_list pairs;
  for (token_id a = 0; a < 4; ++a)
    for (token_id b = 0; b < 4; ++b)
      for (int copy = 0; a != b && copy < w[static_cast<std::size_t>(a)]; ++copy) pairs.rows.push_back({{0}, {a}, {b}, 0.0});
  test::token_score<double> model(4);
  adamw<double> optimizer;
  reward_trainer trainer{model, optimizer,
                         {.loop = {.learning_rate = 0.1, .schedule = learning_rate_schedule::cosine, .max_steps = 600,
                                   .batch_size = pairs.size()}}};
  auto const summary = trainer.fit(pairs, pairs);
  CHECK(summary.first_loss == doctest::Approx(std::log(2.0)));
  auto const r = weights(model);
  for (std::size_t a = 1; a < 4; ++a) CHECK(r[a] - r[0] == doctest::Approx(std::log(w[a])).epsilon(1e-3));
  CHECK(pairwise_accuracy(model, pairs).value == doctest::Approx((2 + 3 + 6 + 3 + 6 + 6) / 36.0));
}

TEST_CASE("reward trainer: the margins of the data are used") {
  test::token_score<double> model(3);
  adamw<double> optimizer;
  double first = 0.0;
  reward_trainer trainer{model, optimizer, {.loop = {.max_steps = 1}}};
  first = trainer.fit(test::pair_list{{{{0}, {1}, {2}, 0.7}}}).first_loss;
  CHECK(first == doctest::Approx(std::log1p(std::exp(0.7))).epsilon(1e-14));
}

TEST_CASE("reward trainer: centering pulls the mean of the scores to zero") {
  auto const mean_after = [](double coefficient) {
    test::token_score<double> model(4);
    auto const p = model.parameters();
    std::fill(p[0].value.begin(), p[0].value.end(), 2.0);
    adamw<double> optimizer;
    reward_trainer trainer{model, optimizer,
                           {.loop = {.learning_rate = 0.05, .max_steps = 200}, .bradley_terry = {.center_rewards_coefficient = coefficient}}};
    trainer.fit(test::pair_list{{{{0}, {1}, {2}}, {{0}, {2}, {1}}}});
    return 0.5 * (p[0].value[1] + p[0].value[2]);
  };
  CHECK(mean_after(0.0) == doctest::Approx(2.0).epsilon(1e-6));
  CHECK(std::abs(mean_after(0.1)) < 0.05);
}

TEST_CASE("reward trainer: the metrics are TRL's, by their definitions, whatever the micro-batches") {
  auto const pairs = test::random_pairs(21, 6, 3);
  for (std::size_t const budget : {0u, 25u}) {
    test::token_score<double> model(6);
    auto const p = model.parameters();
    for (std::size_t v = 0; v < 6; ++v) p[0].value[v] = std::sin(static_cast<double>(v));
    std::map<std::string, double> expected{{"min_reward", 1e9}, {"max_reward", -1e9}};
    for (auto const& row : pairs.rows) {
      auto const score = [&](test::token_list const& response) {
        double sum = 0.0;
        for (token_id const t : response) sum += std::sin(static_cast<double>(t));
        return sum;
      };
      double const chosen = score(row.chosen), rejected = score(row.rejected);
      expected["accuracy"] += chosen > rejected ? 1.0 / 21.0 : 0.0;
      expected["margin"] += (chosen - rejected) / 21.0;
      expected["mean_reward"] += (chosen + rejected) / 42.0;
      expected["min_reward"] = std::min({expected["min_reward"], chosen, rejected});
      expected["max_reward"] = std::max({expected["max_reward"], chosen, rejected});
    }
    adamw<double> optimizer;
    reward_trainer trainer{model, optimizer,
                           {.loop = {.max_steps = 1, .batch_size = 32, .micro_batch_tokens = budget, .eval_on_start = true}}};
    std::map<std::string, double> logged, evaluated;
    trainer.fit(pairs, pairs, [&](report const& r) {
      for (metric const& m : r.metrics) {
        if (r.kind == report_kind::log) logged[std::string(m.name)] = m.value;
        if (r.kind == report_kind::evaluation && r.step == 0) evaluated[std::string(m.name)] = m.value;
      }
    });
    for (auto const& [name, value] : expected) {
      CHECK(logged.at(name) == doctest::Approx(value).epsilon(1e-13));
      CHECK(evaluated.at("eval_" + name) == doctest::Approx(value).epsilon(1e-13));
    }
  }
}

TEST_CASE("reward trainer: micro-batches of any size give the full batch's run, the partial last step included") {
  auto const pairs = test::random_pairs(23, 6, 2);
  std::vector<double> whole;
  for (std::size_t const budget : {0u, 1u, 40u}) {
    test::token_score<double> model(6);
    adamw<double> optimizer;
    reward_trainer trainer{model, optimizer,
                           {.loop = {.learning_rate = 0.05, .epochs = 2, .batch_size = 5, .micro_batch_tokens = budget},
                            .bradley_terry = {.center_rewards_coefficient = 0.01}}};
    trainer.fit(pairs);
    if (budget == 0) whole = weights(model);
    double worst = 0.0;
    for (std::size_t i = 0; i < whole.size(); ++i) worst = std::max(worst, std::abs(weights(model)[i] - whole[i]));
    CHECK(worst <= 1e-12);
  }
}

TEST_CASE("reward trainer: bad options are refused at construction") {
  test::token_score<double> model(4);
  adamw<double> optimizer;
  auto const make = [&](reward_trainer_options o) { reward_trainer(model, optimizer, o); };
  CHECK_THROWS_AS(make({.bradley_terry = {.center_rewards_coefficient = -1.0}}), contract_violation);
  CHECK_THROWS_AS(make({.loop = {.learning_rate = -1.0}}), contract_violation);
}
