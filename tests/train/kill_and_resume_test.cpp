// SPDX-License-Identifier: MIT
#include <attune/train/dpo_trainer.hpp>

#include "support/proofs.hpp"
#include "support/small_world.hpp"
#include "support/temporary_folder.hpp"
#include "support/token_value.hpp"

#include <attune/model/actor_critic.hpp>
#include <attune/model/frozen.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/kto_trainer.hpp>
#include <attune/train/ppo_trainer.hpp>
#include <attune/train/reward_functions.hpp>
#include <attune/train/reward_trainer.hpp>
#include <attune/train/sft_trainer.hpp>

#include <doctest/doctest.h>

#include <csignal>
#include <cstdint>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

using namespace attune;

// A run is killed by SIGKILL at random moments, as a power cut would, and started again by the same call until it
// completes. The last checkpoint must then be, byte for byte, that of a run nobody disturbed: parameters, moments,
// position, metrics.
namespace {

loop_options options(std::string const& folder) {
  return {.learning_rate = 0.05, .schedule = learning_rate_schedule::cosine, .warmup_steps = 4, .max_steps = 24,
          .batch_size = 8, .micro_batch_tokens = 60, .seed = 11, .logging_steps = 5, .save_steps = 1,
          .checkpoint_folder = folder, .resume = true};
}

void run_sft(std::string const& folder) {
  auto policy = test::random_tabular<float>({.vocabulary = 7, .order = 2}, 1);
  adamw<float> optimizer({.weight_decay = 0.01});
  sft_trainer trainer{policy, optimizer, {.loop = options(folder), .sft = {.label_smoothing = 0.05}}};
  trainer.fit(test::random_demonstrations(50, 7, 3));
}

void run_reward(std::string const& folder) {
  test::token_score<double> model(7);
  adamw<double> optimizer;
  reward_trainer trainer{model, optimizer, {.loop = options(folder), .bradley_terry = {.center_rewards_coefficient = 0.01}}};
  trainer.fit(test::random_pairs(50, 7, 3));
}

// The reference's numbers lie in a file too, and are computed or read by whoever comes first.
void run_dpo(std::string const& folder) {
  auto policy = test::random_tabular<float>({.vocabulary = 7}, 1);
  auto const pairs = test::random_pairs(50, 7, 3);
  adamw<float> optimizer;
  reference_cache const cache = cached_reference(folder + ".reference", policy, pairs);
  dpo_trainer trainer{policy, cache, optimizer, {.loop = options(folder), .losses = dpo_options{.beta = 0.2}}};
  trainer.fit(pairs);
}

// The mean of all rewards so far is state beside parameters and moments.
void run_bco(std::string const& folder) {
  auto policy = test::random_tabular<float>({.vocabulary = 7}, 1);
  frozen const reference{policy};
  adamw<float> optimizer;
  kto_trainer trainer{policy, reference, optimizer, {.loop = options(folder), .objective = bco_options{.beta = 0.5}}};
  trainer.fit(test::random_feedback(50, 7, 3));
}

// Responses are drawn anew, the KL's price moves with what was drawn, the critic has parameters and moments of its own.
ppo_trainer_options ppo_options_for(std::string const& folder) {
  return {
      .loop = options(folder),
      .rollout = {.num_generations = 2, .max_new_tokens = 5, .stop_tokens = {0}, .without_eos = missing_eos::subtract},
      .kl = {.kl_coef = 0.1, .target = 0.5, .horizon = 50.0},
      .num_ppo_epochs = 2,
      .num_mini_batches = 2};
}

per_response reward_of_responses([](auto, std::span<token_id const> response) {
  return 0.2 * response.front() + 0.1 * response.back();
});

void run_ppo(std::string const& folder) {
  auto policy = test::random_tabular<float>({.vocabulary = 7}, 1);
  frozen const reference{policy};
  test::token_value<float> critic(7);
  adamw<float> optimizer, critic_optimizer;
  ppo_trainer trainer{policy,
                      reference,
                      reward_of_responses,
                      separate_critic{critic, critic_optimizer, 0.02},
                      optimizer,
                      ppo_options_for(folder)};
  trainer.fit(test::random_prompts(50, 7, 3));
}

void run_ppo_with_shared_critic(std::string const& folder) {
  decoder<float> const initial(
      {.vocabulary = 7, .dim = 8, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = 16, .window = 12}, 1);
  actor_critic<float> policy(initial);
  frozen const reference{policy};
  adamw<float> optimizer;
  auto o = ppo_options_for(folder);
  o.loop.learning_rate = 0.005;
  ppo_trainer trainer{policy, reference, reward_of_responses, shared_critic{}, optimizer, o};
  trainer.fit(test::random_prompts(50, 7, 3));
}

// Groups are dropped and others drawn: how many, and from which prompts, hangs on what the policy has become.
void run_dynamic_sampling(std::string const& folder) {
  auto policy = test::random_tabular<float>({.vocabulary = 7}, 1);
  frozen const reference{policy};
  per_response reward([](auto, std::span<token_id const> response) { return response.front() < 2 ? 1.0 : 0.0; });
  adamw<float> optimizer;
  auto o = ppo_options_for(folder);
  o.surrogate = gspo_options{.cliprange = 0.1, .cliprange_high = 0.15};
  o.aggregation = loss_aggregation::sequence_mean;
  o.advantages = advantage_estimator::grpo;
  o.rollout.overlong_buffer = 2;
  o.rollout.without_eos = missing_eos::keep;
  o.max_resamples = 3;
  o.mask_truncated_completions = true;
  ppo_trainer trainer{policy, reference, reward, no_critic{}, optimizer, o};
  trainer.fit(test::random_prompts(50, 7, 3));
}

struct outcome {
  std::size_t kills = 0;
  bool failed = false;
};

// Starts the run in a child until one completes; children are killed after a random part of `longest` microseconds.
outcome run_killing(void (*run)(std::string const&), std::string const& folder, std::uint64_t seed, std::size_t at_most) {
  random_stream random(seed);
  outcome result;
  for (;;) {
    pid_t const child = ::fork();
    if (child < 0) return {result.kills, true};
    if (child == 0) {
      try {
        run(folder);
      } catch (std::exception const& e) {
        std::string const line = std::string(e.what()) + "\n";
        static_cast<void>(!::write(2, line.data(), line.size()));
        ::_exit(1);
      }
      ::_exit(0);
    }
    if (result.kills < at_most) {
      ::usleep(static_cast<useconds_t>(200 + random.below(4000 * (result.kills + 1))));
      ::kill(child, SIGKILL);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      ++result.kills;
      continue;
    }
    result.failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    return result;
  }
}

void check(void (*run)(std::string const&)) {
  test::temporary_folder const folder;
  run(folder / "whole");
  std::string const expected = test::content_of(checkpoint_folder(folder / "whole").file(24));
  std::size_t kills = 0;
  for (std::uint64_t round = 0; kills < 20 && round < 40; ++round) {
    std::string const name = folder / ("killed" + std::to_string(round));
    outcome const result = run_killing(run, name, round, 12);
    REQUIRE(!result.failed);
    kills += result.kills;
    REQUIRE(test::content_of(checkpoint_folder(name).file(24)) == expected);
    CHECK(checkpoint_folder(name).steps() == std::vector<std::uint64_t>{23, 24});
  }
  CHECK(kills >= 20);
}

}  // namespace

TEST_CASE("kill and resume: SFT ends in the same bytes however often it is killed") { check(run_sft); }
TEST_CASE("kill and resume: reward training ends in the same bytes however often it is killed") { check(run_reward); }
TEST_CASE("kill and resume: DPO with a cached reference ends in the same bytes however often it is killed") { check(run_dpo); }
TEST_CASE("kill and resume: BCO, running delta included, ends in the same bytes however often it is killed") {
  check(run_bco);
}
TEST_CASE("kill and resume: PPO with a critic of its own ends in the same bytes however often it is killed") {
  check(run_ppo);
}
TEST_CASE("kill and resume: PPO with a shared critic ends in the same bytes however often it is killed") {
  check(run_ppo_with_shared_critic);
}
TEST_CASE("kill and resume: GSPO with dynamic sampling ends in the same bytes however often it is killed") {
  check(run_dynamic_sampling);
  proofs::law("dapo", "a run with dynamic sampling that was killed at random and resumed ends in the same bytes");
}
