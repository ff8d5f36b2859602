// SPDX-License-Identifier: MIT
#include <attune/train/ppo_options.hpp>

#include "support/temporary_folder.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

using namespace attune;
using test::message_of;

namespace {

std::string why(ppo_trainer_options const& o) {
  return message_of<contract_violation>([&] { validate(o); });
}

std::uint64_t identity(ppo_trainer_options const& o) {
  checksum64 sum;
  describe(o, sum);
  return sum.value();
}

constexpr double infinity = std::numeric_limits<double>::infinity();
using edit = std::function<void(ppo_trainer_options&)>;

}  // namespace

TEST_CASE("ppo options: the defaults are valid, for every estimator that is given its groups") {
  CHECK(why({}) == "nothing thrown");
  for (auto const e : {advantage_estimator::rloo, advantage_estimator::grpo, advantage_estimator::dr_grpo,
                       advantage_estimator::reinforce_plus_plus}) {
    CHECK(why({.rollout = {.num_generations = 2}, .advantages = e}) == "nothing thrown");
    CHECK(why({.advantages = e}) ==
          "expected rollout_options.num_generations >= 2: in a group of one, a response has nothing to be compared "
          "with, got 1");
  }
}

TEST_CASE("ppo options: each bad one is refused by its name and value") {
  struct refusal {
    edit change;
    std::string message;
  };
  std::vector<refusal> const all{
      {[](auto& o) { o.loop.batch_size = 0; }, "loop_options.batch_size >= 1, got 0"},
      {[](auto& o) { o.loop.eval_steps = 3; },
       "loop_options.eval_steps == 0 and eval_on_start == false: PPO has no evaluation data"},
      {[](auto& o) { o.loop.eval_on_start = true; },
       "loop_options.eval_steps == 0 and eval_on_start == false: PPO has no evaluation data"},
      {[](auto& o) { o.kl.kl_coef = -0.1; }, "kl_options.kl_coef >= 0 and finite, got -0.1"},
      {[](auto& o) { o.surrogate = ppo_options{.cliprange = 0.0}; }, "ppo_options.cliprange in (0, 1], got 0"},
      {[](auto& o) { o.surrogate = gspo_options{.cliprange = 0.0}; }, "gspo_options.cliprange in (0, 1], got 0"},
      {[](auto& o) { o.surrogate = cispo_options{.epsilon_high = 0.5}; },
       "cispo_options.epsilon_high >= 1 and finite, got 0.5"},
      {[](auto& o) { o.surrogate = sapo_options{.sapo_temperature_neg = 0.0}; },
       "sapo_options.sapo_temperature_neg > 0 and finite, got 0"},
      {[](auto& o) { o.kl.bias_correction = true; },
       "kl_options.bias_correction == false, unless placement is loss and kl_coef above 0"},
      {[](auto& o) { o.max_resamples = 1; },
       "ppo_trainer_options.max_resamples == 0: with gae a response is compared with the critic, not with a group, got "
       "1"},
      {[](auto& o) { o.max_resamples = 1001; }, "ppo_trainer_options.max_resamples at most 1000, got 1001"},
      {[](auto& o) { o.mask_truncated_completions = true; },
       "rollout_options.stop_tokens, since mask_truncated_completions is set: nothing could end a response"},
      {[](auto& o) { o.rollout.overlong_buffer = 54; },
       "rollout_options.overlong_buffer at most max_new_tokens, got 54"},
      {[](auto& o) { o.rollout.overlong_factor = 0.0; }, "rollout_options.overlong_factor > 0 and finite, got 0"},
      {[](auto& o) { o.rollout.overlong_factor = 2.0; },
       "rollout_options.overlong_factor 1, since overlong_buffer is 0 and nothing is taken off, got 2"},
      {[](auto& o) { o.value.cliprange_value = -1.0; }, "value_loss_options.cliprange_value >= 0 and finite, got -1"},
      {[](auto& o) { o.gae.lam = 2.0; }, "gae_options.lam in [0, 1], got 2"},
      {[](auto& o) { o.rollout.num_generations = 0; }, "rollout_options.num_generations >= 1, got 0"},
      {[](auto& o) { o.rollout.max_new_tokens = 0; }, "rollout_options.max_new_tokens >= 1, got 0"},
      {[](auto& o) { o.rollout.top_p = 0.0; }, "rollout_options.top_p in (0, 1], got 0"},
      {[](auto& o) {
         o.rollout.stop_tokens = {3, -1};
       },
       "rollout_options.stop_tokens >= 0, got -1"},
      {[](auto& o) { o.rollout.missing_eos_penalty = infinity; },
       "rollout_options.missing_eos_penalty > 0 and finite, got inf"},
      {[](auto& o) { o.rollout.without_eos = missing_eos::replace; },
       "rollout_options.stop_tokens, since without_eos is set: nothing could end a response"},
      {[](auto& o) { o.vf_coef = 0.0; }, "ppo_trainer_options.vf_coef > 0 and finite, got 0"},
      {[](auto& o) { o.entropy_coef = -1.0; }, "ppo_trainer_options.entropy_coef >= 0 and finite, got -1"},
      {[](auto& o) { o.num_ppo_epochs = 0; }, "ppo_trainer_options.num_ppo_epochs >= 1, got 0"},
      {[](auto& o) { o.num_mini_batches = 9; },
       "ppo_trainer_options.num_mini_batches in [1, batch_size * num_generations], got 9"},
      {[](auto& o) { o.num_mini_batches = 0; },
       "ppo_trainer_options.num_mini_batches in [1, batch_size * num_generations], got 0"},
      {[](auto& o) { o.target_kl = -1.0; }, "ppo_trainer_options.target_kl >= 0 and finite, got -1"},
      {[](auto& o) { o.std_epsilon = 0.0; }, "ppo_trainer_options.std_epsilon > 0 and finite, got 0"},
      {[](auto& o) {
         o.rollout.num_generations = 2;
         o.advantages = advantage_estimator::rloo;
         o.whiten_rewards = true;
       },
       "ppo_trainer_options.whiten_rewards == false, which only gae has a use for"},
      {[](auto& o) {
         o.rollout.num_generations = 2;
         o.advantages = advantage_estimator::rloo;
         o.score = score_position::after_end;
       },
       "ppo_trainer_options.score end_token: without gae the score has no position"},
  };
  for (refusal const& r : all) {
    ppo_trainer_options o;
    r.change(o);
    CHECK(why(o) == "expected " + r.message);
  }
}

TEST_CASE("ppo options: whatever shapes the result is part of a run's identity, and nothing else is") {
  std::vector<edit> const shaping{
      [](auto& o) { o.rollout.num_generations = 2; },
      [](auto& o) { o.rollout.max_new_tokens = 9; },
      [](auto& o) { o.rollout.stop_tokens = {1}; },
      [](auto& o) { o.rollout.stop_tokens = {2}; },
      [](auto& o) { o.rollout.stop_tokens = {1, 2}; },
      [](auto& o) { o.rollout.top_k = 4; },
      [](auto& o) { o.rollout.top_p = 0.5; },
      [](auto& o) { o.rollout.without_eos = missing_eos::subtract; },
      [](auto& o) { o.rollout.without_eos = missing_eos::replace; },
      [](auto& o) { o.rollout.missing_eos_penalty = 2.0; },
      [](auto& o) { o.kl.kl_coef = 0.1; },
      [](auto& o) { o.kl.placement = kl_placement::loss; },
      [](auto& o) { o.kl.estimator = kl_estimator::k3; },
      [](auto& o) { o.kl.target = 1.0; },
      [](auto& o) { o.kl.horizon = 5.0; },
      [](auto& o) { o.kl.bias_correction = true; },
      [](auto& o) { o.surrogate = ppo_options{.cliprange = 0.3}; },
      [](auto& o) { o.surrogate = ppo_options{.cliprange_high = 0.3}; },
      [](auto& o) { o.surrogate = ppo_options{.dual_clip = 3.0}; },
      [](auto& o) { o.surrogate = gspo_options{}; },
      [](auto& o) { o.surrogate = gspo_options{.cliprange = 0.2, .cliprange_high = 0.0}; },
      [](auto& o) { o.surrogate = gspo_options{.cliprange_high = 0.3}; },
      [](auto& o) { o.surrogate = gspo_options{.token_advantages = true}; },
      [](auto& o) { o.surrogate = cispo_options{}; },
      [](auto& o) { o.surrogate = cispo_options{.epsilon_high = 2.0}; },
      [](auto& o) { o.surrogate = sapo_options{}; },
      [](auto& o) { o.surrogate = sapo_options{.sapo_temperature_pos = 2.0}; },
      [](auto& o) { o.surrogate = sapo_options{.sapo_temperature_neg = 2.0}; },
      [](auto& o) { o.max_resamples = 3; },
      [](auto& o) { o.mask_truncated_completions = true; },
      [](auto& o) { o.rollout.overlong_buffer = 3; },
      [](auto& o) { o.rollout.overlong_factor = 3.0; },
      [](auto& o) { o.value.cliprange_value = 0.3; },
      [](auto& o) { o.vf_coef = 0.3; },
      [](auto& o) { o.entropy_coef = 0.3; },
      [](auto& o) { o.num_ppo_epochs = 2; },
      [](auto& o) { o.num_mini_batches = 2; },
      [](auto& o) { o.aggregation = loss_aggregation::constant; },
      [](auto& o) { o.advantages = advantage_estimator::grpo; },
      [](auto& o) { o.advantages = advantage_estimator::dr_grpo; },
      [](auto& o) { o.gae.gamma = 0.9; },
      [](auto& o) { o.gae.lam = 0.9; },
      [](auto& o) { o.std_epsilon = 1e-6; },
      [](auto& o) { o.whiten_advantages = false; },
      [](auto& o) { o.whiten_rewards = true; },
      [](auto& o) { o.score = score_position::after_end; },
      [](auto& o) { o.target_kl = 0.1; },
  };
  std::set<std::uint64_t> seen{identity({})};
  for (edit const& change : shaping) {
    ppo_trainer_options o;
    change(o);
    seen.insert(identity(o));
  }
  CHECK(seen.size() == shaping.size() + 1);
  CHECK(identity({.require_reference_equals_policy = false}) == identity({}));  // asked once, before the first update
}
