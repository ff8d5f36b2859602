// SPDX-License-Identifier: MIT
#include <attune/train/online_dpo_trainer.hpp>

#include "support/proofs.hpp"
#include "support/small_world.hpp"
#include "support/temporary_folder.hpp"

#include <attune/model/frozen.hpp>
#include <attune/model/synchronized_reference.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/reward_functions.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

using namespace attune;

namespace {

auto largest_first_token() {
  return per_response([](auto, std::span<token_id const> response) { return static_cast<double>(response[0]); });
}

test::prompt_list prompts(std::size_t count) {
  test::prompt_list out;
  for (std::size_t i = 0; i < count; ++i) out.rows.push_back({static_cast<token_id>(i % 4)});
  return out;
}

online_dpo_trainer_options small(std::size_t steps) {
  online_dpo_trainer_options o;
  o.dpo.loop = {.learning_rate = 0.1, .schedule = learning_rate_schedule::constant, .max_steps = steps, .batch_size = 8, .seed = 5,
                .logging_steps = 1};
  o.dpo.losses = dpo_options{.beta = 0.5};
  o.rollout = {.num_generations = 2, .max_new_tokens = 1};
  return o;
}

std::vector<double> values_of(tabular_policy<double>& m) {
  auto const p = m.parameters();
  return {p[0].value.begin(), p[0].value.end()};
}

}  // namespace

TEST_CASE("online dpo: the reward of what the policy draws rises, from pairs that it draws itself") {
  auto policy = test::random_tabular<double>({.vocabulary = 4}, 1);
  frozen const reference{policy};
  auto reward = largest_first_token();
  adamw<double> optimizer;
  online_dpo_trainer trainer{policy, reference, reward, optimizer, small(80)};
  std::vector<double> scores;
  trainer.fit(prompts(8), [&](report const& r) {
    if (r.kind != report_kind::log) return;
    for (metric const& m : r.metrics) {
      if (m.name == "objective/scores") scores.push_back(m.value);
      if (m.name == "completions/mean_length") CHECK(m.value == 1.0);
      if (m.name == "rollout/pairs") CHECK((m.value >= 0.0 && m.value <= 1.0));
    }
  });
  REQUIRE(scores.size() == 80);
  double first = 0.0, last = 0.0;
  for (std::size_t i = 0; i < 10; ++i) {
    first += scores[i] / 10.0;
    last += scores[70 + i] / 10.0;
  }
  CHECK(last > first + 0.7);
}

TEST_CASE("online dpo: with every pair of responses likely enough, it rests where the policy's preferences are the reward's") {
  // A reward that is a coin of known bias: response a beats b with probability w_a / (w_a + w_b), so that pairs are
  // Bradley-Terry's and the optimum is pi_ref w^(1 / beta) / Z, DPO's, if every pair is drawn at all.
  std::vector<double> const w{1.0, 2.0, 4.0};
  auto policy = tabular_policy<double>({.vocabulary = 3});
  frozen const reference{policy};
  random_stream coins(9);
  auto reward = per_response([&](auto, std::span<token_id const> response) {
    // Gumbel's trick: log w + Gumbel noise makes the larger of two a Bradley-Terry winner.
    return std::log(w[static_cast<std::size_t>(response[0])]) - std::log(-std::log(coins.uniform() + 1e-300));
  });
  adamw<double> optimizer;
  online_dpo_trainer_options o = small(3000);
  o.dpo.loop.learning_rate = 0.02;
  o.dpo.loop.schedule = learning_rate_schedule::linear;
  o.dpo.loop.batch_size = 32;
  o.dpo.losses = dpo_options{.beta = 1.0};
  o.dpo.loop.logging_steps = 1000;
  online_dpo_trainer trainer{policy, reference, reward, optimizer, o};
  test::prompt_list one;
  for (int i = 0; i < 32; ++i) one.rows.push_back({0});
  trainer.fit(one);
  double const total = 7.0;
  sequences s;
  for (token_id a = 0; a < 3; ++a) s.push_back(std::vector<token_id>{0}, std::vector<token_id>{a});
  std::vector<double> logps(6);
  policy.log_probs(s, logps);
  double distance = 0.0;
  for (std::size_t a = 0; a < 3; ++a) distance += 0.5 * std::abs(std::exp(logps[2 * a + 1]) - w[a] / total);
  CHECK(distance < 0.03);
  proofs::law("online_dpo", "with Bradley-Terry judgements it ends at pi_ref exp(r / beta) / Z, within sampling error");
}

TEST_CASE("online dpo: the best and the worst of a prompt's responses make the pair, and equal ones none") {
  auto policy = test::random_tabular<double>({.vocabulary = 4}, 1);
  frozen const reference{policy};
  auto reward = largest_first_token();
  online_dpo_trainer_options o = small(1);
  o.rollout.num_generations = 4;
  online_dpo_stage stage(policy, reference, reward, o);
  step_batches out(0);
  std::vector<std::size_t> const rows{0, 1, 2, 3, 4, 5, 6, 7};
  auto const data = prompts(8);
  stage.draw(data, rows, 0, out);
  REQUIRE(out.size() == 1);
  auto const s = out[0].sequences;
  for (std::size_t i = 0; i < out.examples(); ++i) CHECK(s.sequence(2 * i).back() > s.sequence(2 * i + 1).back());
  std::vector<token_id> const first(s.tokens.begin(), s.tokens.end());
  step_batches again(0);
  stage.draw(data, rows, 0, again);
  auto const repeated = again[0].sequences.tokens;
  CHECK(std::vector<token_id>(repeated.begin(), repeated.end()) == first);  // a function of the step's number
  stage.draw(data, rows, 1, again);
  auto const other = again[0].sequences.tokens;
  CHECK(std::vector<token_id>(other.begin(), other.end()) != first);

  auto flat = per_response([](auto, std::span<token_id const>) { return 1.0; });
  online_dpo_stage nothing(policy, reference, flat, o);
  nothing.draw(data, rows, 0, out);
  CHECK(out.examples() == 0);
}

TEST_CASE("online dpo: steps without a pair are skipped, change nothing and are counted") {
  auto policy = test::random_tabular<double>({.vocabulary = 4}, 1);
  auto const before = values_of(policy);
  frozen const reference{policy};
  auto flat = per_response([](auto, std::span<token_id const>) { return 1.0; });
  adamw<double> optimizer({.weight_decay = 0.1});
  online_dpo_trainer trainer{policy, reference, flat, optimizer, small(3)};
  auto const summary = trainer.fit(prompts(8));
  CHECK(summary.steps == 3);
  CHECK(summary.skipped_steps == 3);
  CHECK(values_of(policy) == before);
}

TEST_CASE("online dpo: interrupted and resumed it ends in the same bits, with a reference that follows too") {
  test::temporary_folder folder;
  auto const run = [&](std::string const& checkpoints, std::size_t stop_at) {
    auto policy = test::random_tabular<double>({.vocabulary = 4}, 1);
    synchronized_reference reference{policy};
    auto reward = largest_first_token();
    adamw<double> optimizer;
    online_dpo_trainer_options o = small(12);
    o.dpo.loop.checkpoint_folder = checkpoints;
    o.dpo.loop.save_steps = 1;
    o.dpo.loop.resume = true;
    o.dpo.sync_ref_model = reference_sync_options{0.5, 3};
    online_dpo_trainer trainer{policy, reference, reward, optimizer, o};
    struct stop {};
    try {
      trainer.fit(prompts(20), [&](report const& r) {
        if (r.step == stop_at) throw stop{};
      });
    } catch (stop) {
    }
    return values_of(policy);
  };
  auto const whole = run(folder / "whole", 1000);
  run(folder / "cut", 7);
  CHECK(run(folder / "cut", 1000) == whole);
}

TEST_CASE("online dpo: one response per prompt is refused") {
  auto policy = test::random_tabular<double>({.vocabulary = 4}, 1);
  frozen const reference{policy};
  auto reward = largest_first_token();
  adamw<double> optimizer;
  online_dpo_trainer_options o = small(1);
  o.rollout.num_generations = 1;
  CHECK_THROWS_WITH_AS(online_dpo_trainer(policy, reference, reward, optimizer, o),
                       doctest::Contains("num_generations >= 2: a pair is made of two responses, got 1"), contract_violation);
}

TEST_CASE("online dpo: a reference that follows moves at its steps, those without a pair included") {
  auto policy = test::random_tabular<double>({.vocabulary = 4}, 1);
  auto const other = test::random_tabular<double>({.vocabulary = 4}, 2);
  synchronized_reference reference{other};
  auto flat = per_response([](auto, std::span<token_id const>) { return 1.0; });
  adamw<double> optimizer;
  online_dpo_trainer_options o = small(2);
  o.dpo.sync_ref_model = reference_sync_options{1.0, 2};
  o.dpo.require_reference_equals_policy = false;
  online_dpo_trainer trainer{policy, reference, flat, optimizer, o};
  auto const parameters = reference.parameters();
  std::vector<double> const before(parameters[0].value.begin(), parameters[0].value.end());
  CHECK(before != values_of(policy));
  CHECK(trainer.fit(prompts(8)).skipped_steps == 2);
  CHECK(std::vector<double>(parameters[0].value.begin(), parameters[0].value.end()) == values_of(policy));
}
