// SPDX-License-Identifier: MIT
#include <attune/train/ppo_figures.hpp>

#include "support/small_world.hpp"

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <type_traits>
#include <vector>

using namespace attune;
using test::token_list;

static_assert(std::is_trivially_copyable_v<ppo_figures> &&
                  sizeof(ppo_figures) == ppo_figures::count * 2 * sizeof(double),
              "its bytes go into a checkpoint");

namespace {

std::map<std::string, double> values_of(ppo_figures const& figures) {
  std::vector<metric> metrics;
  figures.append_to(metrics);
  std::map<std::string, double> out;
  for (metric const& m : metrics) {
    CHECK(out.count(std::string(m.name)) == 0);
    out[std::string(m.name)] = m.value;
  }
  return out;
}

rollout two_responses() {
  rollout of;
  of.responses.push_back(token_list{1, 2}, token_list{3, 4, 0});
  of.responses.push_back(token_list{1}, token_list{3});
  of.finished = {1, 0};
  of.scores = {2.0, -1.0};
  of.drawn_scores = {1.0, 2.0};
  return of;
}

}  // namespace

TEST_CASE("ppo figures: what was never measured is left out") {
  CHECK(values_of(ppo_figures{}).empty());
  ppo_figures figures;
  figures.add({}, two_responses(), {}, {});
  auto const values = values_of(figures);
  CHECK(values.size() == 3);
  CHECK(values.at("objective/scores") == 0.5);
  CHECK(values.at("val/num_eos_tokens") == 1.0);
  CHECK(values.at("completions/mean_length") == 2.0);
}

TEST_CASE("ppo figures: means over what the updates saw, each token, response or mini-batch with one weight") {
  ppo_targets targets;
  ppo_update_outcome outcome;
  auto const add = [](metric_sum& to, std::initializer_list<double> values) {
    for (double const v : values) to.add(v);
  };
  add(targets.kl, {1.0, 3.0});
  add(targets.kl_k3, {1.0, 2.0});
  add(targets.entropy, {4.0, 6.0});
  add(targets.non_score_reward, {-0.5, -1.5});
  add(targets.rlhf_reward, {1.5, -2.5});
  add(outcome.policy.approxkl, {0.0, 0.0, 0.0, 0.4});
  add(outcome.policy.clipfrac, {0.0, 0.0, 1.0, 0.0});
  add(outcome.policy.ratio, {1.0, 1.0, 1.0, 2.0});
  add(outcome.policy.ratio_squared, {1.0, 1.0, 1.0, 4.0});
  add(outcome.value.clipfrac, {1.0, 0.0, 0.0, 0.0});
  add(outcome.policy_loss, {0.3, 0.1});
  add(outcome.value_loss, {2.0, 1.0});
  add(outcome.grad_norm, {5.0, 7.0});
  add(outcome.critic_grad_norm, {8.0});
  add(outcome.entropy, {0.5});
  rollout of = two_responses();
  of.sampler_log_ratio.add(0.2);
  ppo_figures figures;
  figures.add({.target_kl = 0.1}, of, targets, outcome);
  outcome.stopped_early = true;
  figures.add({.target_kl = 0.1}, of, targets, outcome);
  auto const values = values_of(figures);
  std::map<std::string, double> const expected{{"objective/kl", 2.0},
                                               {"objective/kl_k3", 1.5},
                                               {"objective/entropy", 5.0},
                                               {"objective/non_score_reward", -1.0},
                                               {"objective/rlhf_reward", -0.5},
                                               {"objective/scores", 0.5},
                                               {"policy/approxkl_avg", 0.1},
                                               {"policy/clipfrac_avg", 0.25},
                                               {"policy/entropy_avg", 0.5},
                                               {"loss/policy_avg", 0.2},
                                               {"loss/value_avg", 1.5},
                                               {"val/clipfrac_avg", 0.25},
                                               {"val/ratio", 1.25},
                                               {"val/ratio_var", 1.75 - 1.5625},
                                               {"val/num_eos_tokens", 1.0},
                                               {"completions/mean_length", 2.0},
                                               {"grad_norm", 6.0},
                                               {"critic_grad_norm", 8.0},
                                               {"rollout/log_ratio", 0.2},
                                               {"early_stops", 0.5}};
  CHECK(values.size() == expected.size());
  for (auto const& [name, value] : expected)
    CHECK_MESSAGE(values.at(name) == doctest::Approx(value).epsilon(1e-14), name);
}

TEST_CASE("ppo figures: the share of equal groups is one of groups, and a variance is not below 0") {
  ppo_trainer_options const options{.rollout = {.num_generations = 2}, .advantages = advantage_estimator::rloo};
  rollout of = two_responses();
  ppo_targets targets;
  targets.equal_groups = 1;
  ppo_update_outcome outcome;
  outcome.policy.ratio.add(0.1, 3.0);  // 0.1 three times: the mean of squares is below the square of the mean
  outcome.policy.ratio_squared.add(0.1 * 0.1 * (1.0 - 1e-15), 3.0);
  ppo_figures figures;
  figures.add(options, of, targets, outcome);
  of.responses.push_back(token_list{1}, token_list{3});
  of.responses.push_back(token_list{1}, token_list{3});
  of.scores = {1.0, 2.0, 3.0, 4.0};
  of.finished = {0, 0, 0, 0};
  figures.add(options, of, targets, outcome);
  auto const values = values_of(figures);
  CHECK(values.at("frac_reward_zero_std") == doctest::Approx(2.0 / 3.0).epsilon(1e-14));
  CHECK(values.at("val/ratio_var") == 0.0);
}
