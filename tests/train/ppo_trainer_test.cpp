// SPDX-License-Identifier: MIT
#include <attune/train/ppo_trainer.hpp>

#include "support/allocations.hpp"
#include "support/proofs.hpp"
#include "support/recording_sgd.hpp"
#include "support/small_world.hpp"
#include "support/tampered_policy.hpp"
#include "support/temporary_folder.hpp"
#include "support/token_value.hpp"

#include <attune/model/actor_critic.hpp>
#include <attune/model/decoder.hpp>
#include <attune/model/frozen.hpp>
#include <attune/model/value_head.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/reward_functions.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

using namespace attune;
using test::message_of;
using test::tampered_policy;
using test::token_list;

namespace {

constexpr token_id end = 0;
constexpr double missing = std::numeric_limits<double>::quiet_NaN();
using named_values = std::map<std::string, double>;

named_values metrics_of(report const& r) {
  named_values out;
  for (metric const& m : r.metrics) out[std::string(m.name)] = m.value;
  return out;
}

template <class Model>
auto values_of(Model& model) {
  std::vector<typename Model::scalar> out;
  for (auto&& p : model.parameters()) out.insert(out.end(), p.value.begin(), p.value.end());
  return out;
}

template <class Model>
bool gradients_are_zero(Model& model) {
  for (auto&& p : model.parameters())
    for (auto const g : p.gradient)
      if (g != 0) return false;
  return true;
}

auto ids_reward() {
  return per_response([](auto, std::span<token_id const> response) {
    double sum = 0.0;
    for (token_id const id : response) sum += id;
    return sum;
  });
}

decoder_options small_decoder() {
  return {.vocabulary = 9, .dim = 16, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 24, .window = 16};
}

test::prompt_list one_prompt_per_token(std::size_t count) {
  test::prompt_list out;
  for (std::size_t i = 0; i < count; ++i) out.rows.push_back({static_cast<token_id>(i)});
  return out;
}

// A tabular policy and a critic of one weight per token as one model: an ActorCritic in which nothing is shared.
struct tabular_actor_critic {
  using scalar = double;

  tabular_policy<double> policy;
  test::token_value<double> critic;

  void log_probs(sequences_view s, std::span<double> logps) const { policy.log_probs(s, logps); }
  void values(sequences_view s, std::span<double> out) const { critic.values(s, out); }
  void log_probs_and_values(sequences_view s, std::span<double> logps, std::span<double> out) const {
    log_probs(s, logps);
    values(s, out);
  }
  void accumulate_gradient(sequences_view s, slopes_of<double> ask) { policy.accumulate_gradient(s, ask); }
  void accumulate_value_gradient(sequences_view s, value_slopes_of<double> ask) {
    critic.accumulate_value_gradient(s, ask);
  }
  void accumulate_gradient_with_values(sequences_view s, actor_critic_slopes_of<double> ask) {
    policy.accumulate_gradient(s, [&](std::span<double const> logps, std::span<double> slopes) {
      critic.accumulate_value_gradient(s, [&](std::span<double const> values, std::span<double> value_slopes) {
        ask(logps, values, slopes, value_slopes);
      });
    });
  }
  void generate(sequences_view prompts, sampling_options const& options, sequences& out) {
    policy.generate(prompts, options, out);
  }
  std::array<parameter<double>, 2> parameters() { return {policy.parameters()[0], critic.parameters()[0]}; }
};

static_assert(ActorCritic<tabular_actor_critic>);

template <class P, class R, class M, class C, class O>
concept trainable = requires(P& p, R&& r, M& m, C c, O& o) { ppo_trainer(p, std::forward<R>(r), m, c, o, {}); };

using policy_type = tabular_policy<float>;
using reference_type = frozen<policy_type>;
using critic_type = test::token_value<float>;
using optimizer_type = adamw<float>;
using reward_type = decltype(ids_reward());

struct no_sampler {  // a policy that cannot be sampled from
  using scalar = float;
  policy_type base;
  void log_probs(sequences_view s, std::span<float> logps) const { base.log_probs(s, logps); }
  void accumulate_gradient(sequences_view s, slopes_of<float> ask) { base.accumulate_gradient(s, ask); }
  std::array<parameter<float>, 1> parameters() noexcept { return base.parameters(); }
};
static_assert(Policy<no_sampler>);

}  // namespace

static_assert(trainable<policy_type, reference_type const&, reward_type, no_critic, optimizer_type>);
static_assert(
    trainable<policy_type, reference_type&, reward_type, separate_critic<critic_type, optimizer_type>, optimizer_type>);
static_assert(
    trainable<tabular_actor_critic, frozen<tabular_actor_critic> const&, reward_type, shared_critic, adamw<double>>);
static_assert(!trainable<policy_type, reference_type, reward_type, no_critic, optimizer_type>,
              "a temporary would dangle");
static_assert(!trainable<policy_type, reference_type const&, reward_type, shared_critic, optimizer_type>,
              "no ActorCritic");
static_assert(!trainable<decoder<float>, frozen<decoder<float>> const&, reward_type, shared_critic, optimizer_type>,
              "no ActorCritic");
static_assert(!trainable<no_sampler, reference_type const&, reward_type, no_critic, optimizer_type>,
              "cannot be sampled from");
static_assert(!trainable<policy_type, int const&, reward_type, no_critic, optimizer_type>, "no reference");
static_assert(!trainable<policy_type, reference_type const&, double, no_critic, optimizer_type>, "no reward");
static_assert(!trainable<policy_type, reference_type const&, reward_type, critic_type, optimizer_type>,
              "a critic by itself");
static_assert(!trainable<policy_type, reference_type const&, reward_type, no_critic, int>, "no optimizer");

namespace {

// The log report of one update in one epoch and one mini-batch.
template <class P, class Critic>
named_values first_update(P& policy, Critic critic, advantage_estimator estimator, std::size_t micro_batch_tokens) {
  frozen const reference{policy};
  adamw<typename P::scalar> optimizer;
  auto reward = ids_reward();
  named_values seen;
  ppo_trainer trainer{policy, reference, reward, critic, optimizer,
                      {.loop = {.max_steps = 1, .batch_size = 5, .micro_batch_tokens = micro_batch_tokens},
                       .rollout = {.num_generations = 2, .max_new_tokens = 6, .stop_tokens = {end}},
                       .num_ppo_epochs = 1,
                       .advantages = estimator}};
  trainer.fit(test::random_prompts(7, 9, 3), [&](report const& r) {
    if (r.kind == report_kind::log) seen = metrics_of(r);
  });
  return seen;
}

void check_first_update(named_values const& seen) {
  CHECK(seen.at("val/ratio") == 1.0);
  CHECK(seen.at("val/ratio_var") == 0.0);
  CHECK(seen.at("policy/approxkl_avg") == 0.0);
  CHECK(seen.at("policy/clipfrac_avg") == 0.0);
  CHECK(seen.at("objective/kl") == 0.0);
  CHECK(seen.at("objective/kl_k3") == 0.0);
  CHECK(seen.at("objective/non_score_reward") == 0.0);
  CHECK(seen.at("objective/rlhf_reward") == seen.at("objective/scores"));
}

}  // namespace

TEST_CASE_TEMPLATE("ppo trainer: before the first step the ratio is 1 and the KL 0, exactly, whatever the cut", T,
                   float, double) {
  for (std::size_t const budget : {0u, 1u, 30u}) {
    auto tabular = test::random_tabular<T>({.vocabulary = 9, .order = 2}, 1);
    check_first_update(first_update(tabular, no_critic{}, advantage_estimator::rloo, budget));
    test::token_value<T> values(9);
    adamw<T> optimizer;
    check_first_update(first_update(tabular, separate_critic{values, optimizer}, advantage_estimator::gae, budget));

    decoder<T> transformer(small_decoder(), 4);
    value_head<T> critic(transformer);
    adamw<T> critic_optimizer;
    auto tempered = transformer;
    tempered.set_temperature(0.7);
    check_first_update(
        first_update(transformer, separate_critic{critic, critic_optimizer}, advantage_estimator::gae, budget));
    check_first_update(first_update(tempered, no_critic{}, advantage_estimator::grpo, budget));
    actor_critic<T> both(transformer);
    check_first_update(first_update(both, shared_critic{}, advantage_estimator::gae, budget));
  }
}

namespace {

// Total variation between the policy after training on one-token completions and pi_ref exp(r / kl_coef) / Z, mean over
// two prompts.
double distance_to_optimum(ppo_trainer_options o, std::size_t copies_of_prompts = 1) {
  double const rewards[2][4] = {{1.0, -0.5, 0.25, 0.0}, {-1.0, 0.5, 0.75, -0.25}};
  per_response reward([&](std::span<token_id const> prompt, std::span<token_id const> response) {
    return rewards[prompt[0]][response[0]];
  });
  auto policy = test::random_tabular<double>({.vocabulary = 4}, 3);
  frozen const reference{policy};
  test::token_value<double> critic(4);
  adamw<double> optimizer, critic_optimizer;
  o.rollout.max_new_tokens = 1;
  o.kl.kl_coef = 0.5;
  o.loop.max_grad_norm = std::numeric_limits<double>::infinity();
  test::prompt_list prompts;
  for (std::size_t i = 0; i < copies_of_prompts; ++i) prompts.rows.insert(prompts.rows.end(), {{0}, {1}});
  if (o.advantages == advantage_estimator::gae)
    ppo_trainer(policy, reference, reward, separate_critic{critic, critic_optimizer, 2.0 * o.loop.learning_rate},
                optimizer, o)
        .fit(prompts);
  else
    ppo_trainer(policy, reference, reward, no_critic{}, optimizer, o).fit(prompts);
  double distance = 0.0;
  for (token_id prompt = 0; prompt < 2; ++prompt) {
    sequences s;
    for (token_id a = 0; a < 4; ++a) s.push_back(token_list{prompt}, token_list{a});
    std::vector<double> before(8), after(8), target(4);
    reference.log_probs(s, before);
    policy.log_probs(s, after);
    double z = 0.0;
    for (std::size_t a = 0; a < 4; ++a) z += target[a] = std::exp(before[2 * a + 1] + rewards[prompt][a] / 0.5);
    for (std::size_t a = 0; a < 4; ++a) distance += 0.25 * std::abs(std::exp(after[2 * a + 1]) - target[a] / z);
  }
  return distance;
}

}  // namespace

TEST_CASE("ppo trainer: it reaches the closed-form optimum pi_ref exp(r / kl_coef) / Z, with a critic and without") {
  loop_options const loop{
      .learning_rate = 0.05, .schedule = learning_rate_schedule::cosine, .max_steps = 400, .batch_size = 16};
  CHECK(distance_to_optimum({.loop = {.learning_rate = 1e-9, .max_steps = 1}, .advantages = advantage_estimator::gae}) >
        0.2);
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    loop_options here = loop;
    here.seed = seed;
    CHECK(distance_to_optimum({.loop = here, .num_ppo_epochs = 2}, 8) <= 0.01);
    CHECK(distance_to_optimum({.loop = here, .num_ppo_epochs = 1, .whiten_advantages = false}, 8) <= 0.01);
    CHECK(distance_to_optimum({.loop = here, .rollout = {.num_generations = 8}, .num_ppo_epochs = 2,
                               .advantages = advantage_estimator::rloo}) <= 0.01);
    // In the loss: k2 pulls to the same optimum, the KL of the other direction that k3's gradient belongs to does not.
    ppo_trainer_options in_loss{.loop = here, .rollout = {.num_generations = 64},
                                .kl = {.placement = kl_placement::loss, .estimator = kl_estimator::k2},
                                .num_ppo_epochs = 1, .advantages = advantage_estimator::rloo};
    CHECK(distance_to_optimum(in_loss) <= 0.01);
    in_loss.kl.estimator = kl_estimator::k3;
    CHECK(distance_to_optimum(in_loss) > 0.03);
  }
}

TEST_CASE("ppo trainer: every surrogate leads to the closed-form optimum, and so does the corrected k3") {
  for (std::uint64_t seed = 1; seed <= 2; ++seed) {
    ppo_trainer_options o{.loop = {.learning_rate = 0.05,
                                   .schedule = learning_rate_schedule::cosine,
                                   .max_steps = 400,
                                   .batch_size = 16,
                                   .seed = seed},
                          .rollout = {.num_generations = 8},
                          .num_ppo_epochs = 2,
                          .advantages = advantage_estimator::rloo};
    auto const distance = [&](policy_gradient_surrogate const& surrogate) {
      o.surrogate = surrogate;
      return distance_to_optimum(o);
    };
    CHECK(distance(gspo_options{.cliprange = 0.2, .cliprange_high = 0.28}) <= 0.01);
    CHECK(distance(cispo_options{}) <= 0.01);
    CHECK(distance(sapo_options{}) <= 0.01);
    o.kl = {.placement = kl_placement::loss, .estimator = kl_estimator::k3, .bias_correction = true};
    o.rollout.num_generations = 64;
    o.num_ppo_epochs = 1;
    CHECK(distance(ppo_options{}) <= 0.01);  // where the plain k3 does not get to: see above
  }
  proofs::law("gspo", "on a tabular policy training ends in pi_ref exp(r / kl_coef) / Z, <= 0.01 total variation");
  proofs::law("cispo", "on a tabular policy training ends in pi_ref exp(r / kl_coef) / Z, <= 0.01 total variation");
  proofs::law("sapo", "on a tabular policy training ends in pi_ref exp(r / kl_coef) / Z, <= 0.01 total variation");
}

TEST_CASE("ppo trainer: dynamic sampling learns from unequal groups alone, and counts all that it drew") {
  // Prompts 0 to 2 are never answered rightly, 3 always; 4 and 5 hang on what was drawn.
  auto reward_of = [](sequences_view s, std::span<double> scores) {
    for (std::size_t b = 0; b < s.size(); ++b) {
      token_id const prompt = s.sequence(b)[0];
      scores[b] = prompt < 3 ? 0.0 : prompt == 3 ? 1.0 : static_cast<double>(s.sequence(b).back() < 3);
    }
  };
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  adamw<double> optimizer;
  ppo_trainer trainer{policy, reference, reward_of, no_critic{}, optimizer,
                      {.loop = {.max_steps = 9, .batch_size = 4, .logging_steps = 1},
                       .rollout = {.num_generations = 3, .max_new_tokens = 2},
                       .advantages = advantage_estimator::grpo,
                       .max_resamples = 40}};
  double drawn = 0.0;
  trainer.fit(one_prompt_per_token(6), [&](report const& r) {
    if (r.kind != report_kind::log) return;
    auto const seen = metrics_of(r);
    rollout const& of = trainer.last_rollout();
    std::size_t const wanted = r.step % 2 == 1 ? 4 : 2;  // of six prompts
    CHECK(of.responses.size() == 3 * wanted);
    for (std::size_t b = 0; b < of.scores.size(); b += 3) {
      CHECK(of.prompts[b] >= 4);
      CHECK(of.prompts[b] == of.prompts[b + 2]);
      CHECK(!(of.scores[b] == of.scores[b + 1] && of.scores[b] == of.scores[b + 2]));
    }
    CHECK(seen.at("frac_reward_zero_std") == 0.0);
    double const groups = static_cast<double>(of.dropped_groups + wanted);
    CHECK(seen.at("rollout/dropped_groups") == static_cast<double>(of.dropped_groups) / groups);
    CHECK(of.drawn_scores.weight == 3.0 * groups);
    CHECK(seen.at("objective/scores") == of.drawn_scores.mean());
    drawn += of.drawn_scores.weight;
    CHECK(seen.at("episodes") == drawn);
  });
  CHECK(drawn > 9 * 3 * 3 + 20);
  proofs::law("dapo", "dynamic sampling: an update learns from groups of unequal scores alone, and is full");
}

TEST_CASE("ppo trainer: dynamic sampling without anything to learn from makes no step and goes on") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const before = values_of(policy);
  frozen const reference{policy};
  adamw<double> optimizer;
  per_response reward([](auto, auto) { return 0.5; });
  named_values last;
  ppo_trainer trainer{policy, reference, reward, no_critic{}, optimizer,
                      {.loop = {.max_steps = 3, .batch_size = 4, .logging_steps = 3},
                       .rollout = {.num_generations = 2, .max_new_tokens = 2},
                       .kl = {.kl_coef = 0.1, .target = 1.0},
                       .advantages = advantage_estimator::dr_grpo,
                       .max_resamples = 2}};
  auto const summary = trainer.fit(one_prompt_per_token(4), [&](report const& r) {
    if (r.kind == report_kind::log) last = metrics_of(r);
  });
  CHECK(summary.steps == 3);
  CHECK(summary.skipped_steps == 0);
  CHECK(values_of(policy) == before);
  CHECK(last.at("rollout/dropped_groups") == 1.0);
  CHECK(last.at("objective/scores") == 0.5);
  CHECK(last.at("episodes") == 3.0 * 3.0 * 4.0 * 2.0);
  CHECK(last.at("kl_coef") == 0.1);
  CHECK(last.count("grad_norm") == 0);
  for (auto const& [name, value] : last) CHECK_MESSAGE(std::isfinite(value), name);

  // After an update that did learn, what is reported is not that update's once more.
  double drawn = 0.0;
  per_response first_alone([&](auto, auto) { return drawn < 8.0 ? drawn += 1.0 : 0.5; });
  std::vector<named_values> seen;
  ppo_trainer later{policy, reference, first_alone, no_critic{}, optimizer,
                    {.loop = {.max_steps = 2, .batch_size = 4, .logging_steps = 1},
                     .rollout = {.num_generations = 2, .max_new_tokens = 2},
                     .advantages = advantage_estimator::dr_grpo,
                     .max_resamples = 2}};
  later.fit(one_prompt_per_token(4), [&](report const& r) {
    if (r.kind == report_kind::log) seen.push_back(metrics_of(r));
  });
  REQUIRE(seen.size() == 2);
  for (char const* const name : {"objective/kl", "objective/entropy", "objective/rlhf_reward", "loss/policy_avg"}) {
    CHECK(seen[0].count(name) == 1);
    CHECK(seen[1].count(name) == 0);
  }
}

TEST_CASE("ppo trainer: where no group is equal, dynamic sampling changes no bit") {
  auto const run = [](std::size_t max_resamples) {
    auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
    frozen const reference{policy};
    adamw<double> optimizer;
    double count = 0.0;
    per_response reward([&](auto, auto) { return count += 1.0; });  // all differ
    ppo_trainer trainer{policy, reference, reward, no_critic{}, optimizer,
                        {.loop = {.learning_rate = 0.1, .max_steps = 5, .batch_size = 4},
                         .rollout = {.num_generations = 2, .max_new_tokens = 3},
                         .advantages = advantage_estimator::grpo,
                         .max_resamples = max_resamples}};
    trainer.fit(test::random_prompts(6, 6, 2));
    return values_of(policy);
  };
  CHECK(run(0) == run(3));
}

TEST_CASE("ppo trainer: the distance to the optimum shrinks as the sample grows") {
  auto const mean_distance = [](std::size_t generations) {
    double sum = 0.0;
    for (std::uint64_t seed = 0; seed < 8; ++seed)
      sum += distance_to_optimum({.loop = {.learning_rate = 0.05,
                                           .schedule = learning_rate_schedule::constant,
                                           .max_steps = 60,
                                           .batch_size = 2,
                                           .seed = seed},
                                  .rollout = {.num_generations = generations},
                                  .num_ppo_epochs = 1,
                                  .advantages = advantage_estimator::rloo});
    return sum / 8.0;
  };
  double const two = mean_distance(2), eight = mean_distance(8), thirty_two = mean_distance(32);
  CHECK(eight < 0.6 * two);
  CHECK(thirty_two < 0.6 * eight);
}

TEST_CASE("ppo trainer: it teaches a transformer to end early, with a critic of its own and with a shared one") {
  per_response reward([](auto, std::span<token_id const> response) {
    return response.back() == end ? 1.0 - 0.1 * static_cast<double>(response.size()) : -1.0;
  });
  auto const prompts = test::random_prompts(8, 9, 3);
  named_values first, last;
  auto const sink = [&](report const& r) {
    if (r.kind != report_kind::log) return;
    if (first.empty()) first = metrics_of(r);
    last = metrics_of(r);
  };
  ppo_trainer_options const options{.loop = {.learning_rate = 3e-3, .max_steps = 30, .batch_size = 8},
                                    .rollout = {.num_generations = 2, .max_new_tokens = 6, .stop_tokens = {end}},
                                    .kl = {.kl_coef = 0.01},
                                    .num_mini_batches = 2};
  auto const check = [&] {
    CHECK(last.at("objective/scores") > first.at("objective/scores") + 0.3);
    CHECK(last.at("loss/value_avg") < first.at("loss/value_avg"));
    CHECK(last.at("val/num_eos_tokens") > 14.0);
    CHECK(last.at("completions/mean_length") < 3.0);
    CHECK(last.at("objective/kl") > 0.5);
    first.clear();
  };
  decoder<float> policy(small_decoder(), 4);
  frozen const reference{policy};
  adamw<float> optimizer, critic_optimizer, shared_optimizer;
  value_head<float> critic(policy);
  actor_critic<float> both(policy);
  frozen const reference_of_both{both};
  ppo_trainer(policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer, options)
      .fit(prompts, sink);
  check();
  ppo_trainer(both, reference_of_both, reward, shared_critic{}, shared_optimizer, options).fit(prompts, sink);
  check();
}

TEST_CASE("ppo trainer: a shared critic that shares nothing is a separate one") {
  ppo_trainer_options const options{
      .loop = {.learning_rate = 0.3, .max_steps = 4, .batch_size = 5, .micro_batch_tokens = 17},
      .rollout = {.max_new_tokens = 4, .stop_tokens = {end}},
      .num_mini_batches = 2};
  auto const prompts = test::random_prompts(7, 6, 2);
  auto reward = ids_reward();
  tabular_actor_critic both{test::random_tabular<double>({.vocabulary = 6}, 1), test::token_value<double>(6)};
  auto policy = both.policy;
  auto critic = both.critic;
  frozen const reference{policy};
  test::recording_sgd one, of_policy, of_critic;
  ppo_trainer(both, reference, reward, shared_critic{}, one, options).fit(prompts);
  ppo_trainer(policy, reference, reward, separate_critic{critic, of_critic}, of_policy, options).fit(prompts);
  CHECK(values_of(both.policy) == values_of(policy));
  CHECK(values_of(both.critic) == values_of(critic));
  CHECK(one.gradients.size() == 4 * 4 * 2);
  CHECK(values_of(critic) != std::vector<double>(6, 0.0));

  auto const refused = [&](ppo_trainer_options o) {
    return message_of<contract_violation>(
        [&] { ppo_trainer trainer(both, reference, reward, shared_critic{}, one, o); });
  };
  CHECK(refused({.score = score_position::after_end}).find("score end_token with a shared critic") !=
        std::string::npos);
  CHECK(refused({.entropy_coef = 0.1}).find("entropy_coef == 0") != std::string::npos);
}

TEST_CASE("ppo trainer: an adaptive kl_coef rises while the KL is above its target and falls below it") {
  auto const run = [](double target, double horizon, double reward_scale) {
    auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
    frozen const reference{policy};
    adamw<double> optimizer;
    per_response reward([&](auto, std::span<token_id const> response) { return reward_scale * response[0]; });
    std::vector<named_values> seen;
    ppo_trainer trainer{policy,
                        reference,
                        reward,
                        no_critic{},
                        optimizer,
                        {.loop = {.learning_rate = 0.1,
                                  .schedule = learning_rate_schedule::constant,
                                  .max_steps = 80,
                                  .batch_size = 8,
                                  .logging_steps = 1},
                         .rollout = {.num_generations = 4, .max_new_tokens = 2},
                         .kl = {.kl_coef = 0.05, .target = target, .horizon = horizon},
                         .advantages = advantage_estimator::rloo}};
    trainer.fit(test::random_prompts(16, 6, 2), [&](report const& r) {
      if (r.kind == report_kind::log) seen.push_back(metrics_of(r));
    });
    return seen;
  };
  auto const steered = run(0.3, 100.0, 1.0);
  // Every coefficient follows from the one before and the KL reported beside it: that of the update it was used in.
  double coef = 0.05;
  std::size_t rises = 0;
  for (named_values const& m : steered) {
    double const before = coef;
    coef *= 1.0 + std::clamp(m.at("objective/kl") / 0.3 - 1.0, -0.2, 0.2) * 32.0 / 100.0;
    CHECK(m.at("kl_coef") == doctest::Approx(coef).epsilon(1e-12));
    CHECK((coef > before) == (m.at("objective/kl") > 0.3));
    rises += coef > before ? 1 : 0;
  }
  CHECK(rises > 20);
  CHECK(steered.front().at("kl_coef") < 0.05);  // no KL in the first update
  CHECK(steered.back().at("kl_coef") > 0.2);
  CHECK(run(0.0, 100.0, 1.0).back().at("objective/kl") > 2.0 * steered.back().at("objective/kl"));
}

TEST_CASE("ppo trainer: rewards that are all equal teach nothing and harm nothing") {
  for (auto const estimator : {advantage_estimator::rloo, advantage_estimator::grpo, advantage_estimator::dr_grpo,
                               advantage_estimator::reinforce_plus_plus}) {
    auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
    auto const before = values_of(policy);
    frozen const reference{policy};
    adamw<float> optimizer;
    per_response reward([](auto, auto) { return 0.1; });
    named_values seen;
    ppo_trainer trainer{policy, reference, reward, no_critic{}, optimizer,
                        {.loop = {.learning_rate = 0.1, .max_steps = 4, .batch_size = 3},
                         .rollout = {.num_generations = 3, .max_new_tokens = 4},
                         .advantages = estimator}};
    trainer.fit(test::random_prompts(5, 6, 2),
                [&](report const& r) { seen = r.kind == report_kind::log ? metrics_of(r) : seen; });
    CHECK(seen.at("frac_reward_zero_std") == 1.0);
    CHECK(seen.at("loss/policy_avg") == 0.0);
    CHECK(seen.at("grad_norm") == 0.0);
    CHECK(values_of(policy) == before);
  }
}

TEST_CASE("ppo trainer: a reward that is not finite names update, response and prompt, or is skipped and counted") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const before = values_of(policy);
  frozen const reference{policy};
  test::token_value<double> critic(6);
  std::size_t calls = 0;
  auto reward = [&](sequences_view s, std::span<double> scores) {
    ++calls;
    for (std::size_t b = 0; b < s.size(); ++b)
      scores[b] = calls == 2 && s.sequence(b)[0] == 4 ? missing : 0.5 * s.sequence(b).back();
  };
  auto const run = [&](on_nonfinite what, named_values& last) {
    calls = 0;
    adamw<double> optimizer, critic_optimizer;
    ppo_trainer trainer{policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer,
                        {.loop = {.max_steps = 3, .batch_size = 6, .logging_steps = 3, .nonfinite = what},
                         .rollout = {.max_new_tokens = 3},
                         .require_reference_equals_policy = false}};
    return trainer.fit(one_prompt_per_token(6), [&](report const& r) {
      if (r.kind == report_kind::log) last = metrics_of(r);
    });
  };
  named_values last;
  std::string const why = message_of<nonfinite_error>([&] { run(on_nonfinite::stop, last); });
  CHECK(why.find("update 1: rollout: the reward is not finite for response ") == 0);
  CHECK(why.find(" (prompt 4)") != std::string::npos);
  CHECK(values_of(policy) != before);  // by the update before
  CHECK(gradients_are_zero(policy));
  CHECK(gradients_are_zero(critic));
  auto const summary = run(on_nonfinite::skip, last);
  CHECK(summary.steps == 3);
  CHECK(summary.skipped_steps == 1);
  CHECK(last.at("skipped_steps") == 1.0);
  CHECK(last.at("episodes") == 18.0);
  for (auto const& [name, value] : last) CHECK_MESSAGE(std::isfinite(value), name);
}

TEST_CASE("ppo trainer: a critic's value that is not finite names response and prompt") {
  struct bad_critic : test::token_value<double> {
    using token_value::token_value;
    void values(sequences_view s, std::span<double> out) const {
      token_value::values(s, out);
      for (std::size_t b = 0; b < s.size(); ++b)
        for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
          if (s.mask[t] == 0 || s.sequence(b)[0] == 2) out[t] = missing;  // on prompts it is nobody's business
    }
  };
  auto reward = ids_reward();
  auto const fit = [&](std::size_t prompts) {
    auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
    frozen const reference{policy};
    bad_critic critic(6);
    adamw<double> optimizer, critic_optimizer;
    ppo_trainer trainer{policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer,
                        {.loop = {.max_steps = 1}, .rollout = {.max_new_tokens = 3}}};
    trainer.fit(one_prompt_per_token(prompts));
  };
  CHECK(message_of<nonfinite_error>([&] { fit(2); }) == "nothing thrown");
  auto const why = message_of<nonfinite_error>([&] { fit(3); });
  CHECK(why.find("update 0: the critic's value of response ") == 0);
  CHECK(why.find(" (prompt 2) is not finite") != std::string::npos);
}

TEST_CASE("ppo trainer: a reward that throws leaves the parameters and the last checkpoint as they were") {
  test::temporary_folder const folder;
  auto const prompts = test::random_prompts(7, 6, 2);
  struct run_of {
    tabular_policy<double> policy = test::random_tabular<double>({.vocabulary = 6}, 1);
    test::token_value<double> critic{6};
    adamw<double> optimizer, critic_optimizer;
    std::vector<double> at_report;

    training_summary fit(test::prompt_list const& data, std::string const& path, std::size_t fail_at) {
      frozen const reference{test::random_tabular<double>({.vocabulary = 6}, 1)};
      std::size_t calls = 0;
      auto reward = [&](sequences_view s, std::span<double> scores) {
        if (++calls == fail_at) throw std::runtime_error("the reward server is down");
        for (std::size_t b = 0; b < s.size(); ++b) scores[b] = s.sequence(b).back();
      };
      ppo_trainer trainer{policy,
                          reference,
                          reward,
                          separate_critic{critic, critic_optimizer},
                          optimizer,
                          {.loop = {.learning_rate = 0.05,
                                    .max_steps = 6,
                                    .batch_size = 3,
                                    .save_steps = 2,
                                    .checkpoint_folder = path,
                                    .resume = true},
                           .rollout = {.max_new_tokens = 3}}};
      return trainer.fit(data, [&](report const&) { at_report = values_of(policy); });
    }
  };
  run_of whole, broken, resumed;
  whole.fit(prompts, folder / "whole", 0);
  CHECK(message_of<std::runtime_error>([&] { broken.fit(prompts, folder / "broken", 4); }) ==
        "the reward server is down");
  CHECK(values_of(broken.policy) == broken.at_report);  // those after the third update
  CHECK(gradients_are_zero(broken.policy));
  CHECK(checkpoint_folder(folder / "broken").steps() == std::vector<std::uint64_t>{2});
  auto const summary = resumed.fit(prompts, folder / "broken", 0);
  CHECK(summary.resumed_from == 2);
  CHECK(summary.steps == 6);
  CHECK(values_of(resumed.policy) == values_of(whole.policy));
  CHECK(values_of(resumed.critic) == values_of(whole.critic));
  CHECK(test::content_of(checkpoint_folder(folder / "broken").file(6)) ==
        test::content_of(checkpoint_folder(folder / "whole").file(6)));
}

TEST_CASE(
    "ppo trainer: a run is not resumed under other options, another reference, reward model, temperature or critic") {
  test::temporary_folder const folder;
  auto const prompts = test::random_prompts(7, 6, 2);
  auto const start = test::random_tabular<double>({.vocabulary = 6}, 1);
  struct change {
    double kl_coef = 0.1, critic_rate = 0.01, temperature = 1.0, weight = 0.5;
    std::uint64_t reference = 1;
    std::size_t critic_vocabulary = 6;
  };
  per_response last_id([](auto, std::span<token_id const> response) { return response.back(); });
  auto const fit = [&](auto& policy, auto const& reference, auto& reward, change const& c, std::string const& path) {
    test::token_value<double> critic(c.critic_vocabulary);
    adamw<double> optimizer, critic_optimizer;
    ppo_trainer trainer{policy, reference, reward, separate_critic{critic, critic_optimizer, c.critic_rate}, optimizer,
                        {.loop = {.max_steps = 2, .batch_size = 3, .checkpoint_folder = path, .resume = true},
                         .rollout = {.max_new_tokens = 3},
                         .kl = {.kl_coef = c.kl_coef},
                         .require_reference_equals_policy = false}};
    return trainer.fit(prompts).resumed_from;
  };
  auto const run = [&](change const& c) {
    auto policy = start;
    policy.set_temperature(c.temperature);
    auto from = test::random_tabular<double>({.vocabulary = 6}, c.reference);
    from.set_temperature(c.temperature);
    frozen const reference{from};
    test::token_score<double> reward(6);
    auto const weights = reward.parameters();
    for (double& w : weights[0].value) w = c.weight;
    return fit(policy, reference, reward, c, folder / "run");
  };
  CHECK(run({}) == 0);
  CHECK(run({}) == 2);
  auto const why = [&](change const& c) { return message_of<data_error>([&] { run(c); }); };
  for (change const& c : {change{.kl_coef = 0.2}, change{.critic_rate = 0.02}, change{.temperature = 0.5},
                          change{.weight = 0.25}, change{.reference = 2}})
    CHECK(why(c).find("the checkpoint belongs to a run with other options") != std::string::npos);
  CHECK(why({.critic_vocabulary = 7}).find("the checkpoint belongs to a model of another shape") != std::string::npos);

  // A reference that cannot say who it is still has the policy's temperature.
  auto policy = start, reference = start;
  CHECK(fit(policy, reference, last_id, {}, folder / "plain") == 0);
  CHECK(fit(policy, reference, last_id, {}, folder / "plain") == 2);
  policy.set_temperature(0.5);
  reference.set_temperature(0.5);
  CHECK(message_of<data_error>([&] { fit(policy, reference, last_id, {}, folder / "plain"); }).find("other options") !=
        std::string::npos);
}

TEST_CASE("ppo trainer: a reference that is not the policy is refused with the way out") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  auto const before = values_of(policy);
  adamw<float> optimizer;
  auto reward = ids_reward();
  auto const fit = [&](auto const& reference, bool require) {
    ppo_trainer trainer{policy, reference, reward, no_critic{}, optimizer,
                        {.loop = {.max_steps = 1}, .rollout = {.num_generations = 2, .max_new_tokens = 3},
                         .advantages = advantage_estimator::rloo, .require_reference_equals_policy = require}};
    trainer.fit(one_prompt_per_token(3));
  };
  auto const other = test::random_tabular<float>({.vocabulary = 6}, 2);
  auto const why = message_of<contract_violation>([&] { fit(other, true); });
  CHECK(why.find("ppo: the policy differs from the reference before the first update, so objective/kl does not start "
                 "at 0: response 0 (prompt ") == 0);
  CHECK(why.find(" at token 1. Is the reference the model that training starts from?") != std::string::npos);
  CHECK(why.find("set ppo_trainer_options.require_reference_equals_policy = false") != std::string::npos);
  CHECK(values_of(policy) == before);
  auto slightly = policy;
  slightly.row(0)[1] += 1e-2f;
  CHECK(message_of<contract_violation>([&] { fit(slightly, true); }) != "nothing thrown");
  CHECK_NOTHROW(fit(other, false));
}

TEST_CASE("ppo trainer: the policy cannot be its own reference, and the reference's temperature is the policy's") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  adamw<float> optimizer;
  auto reward = ids_reward();
  ppo_trainer_options const options{.rollout = {.num_generations = 2}, .advantages = advantage_estimator::rloo};
  CHECK(message_of<contract_violation>([&] {
          ppo_trainer trainer(policy, policy, reward, no_critic{}, optimizer, options);
        }) == "expected ppo_trainer: a reference that is not the policy itself, which moves; wrap a copy in frozen");
  policy.set_temperature(0.7);
  ppo_trainer trainer(policy, reference, reward, no_critic{}, optimizer, options);
  CHECK(message_of<contract_violation>([&] { trainer.fit(one_prompt_per_token(3)); }) ==
        "expected rollout: policy and reference at one temperature; the reference has, got 1");
}

TEST_CASE("ppo trainer: what does not go together is refused at construction, no data before the first update") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  adamw<float> optimizer, critic_optimizer;
  test::token_value<float> critic(6);
  auto reward = ids_reward();
  auto const with = [&](auto c, ppo_trainer_options o) {
    return message_of<contract_violation>([&] { ppo_trainer trainer(policy, reference, reward, c, optimizer, o); });
  };
  CHECK(with(no_critic{}, {}) == "expected a critic, since ppo_trainer_options.advantages is gae");
  CHECK(with(separate_critic{critic, critic_optimizer},
             {.rollout = {.num_generations = 2}, .advantages = advantage_estimator::grpo}) ==
        "expected no_critic, since ppo_trainer_options.advantages is a group's");
  CHECK(with(separate_critic{critic, critic_optimizer, -1.0}, {}) ==
        "expected separate_critic.learning_rate >= 0 and finite, got -1");
  CHECK(with(separate_critic{critic, critic_optimizer}, {.kl = {.kl_coef = -1.0}}) ==
        "expected kl_options.kl_coef >= 0 and finite, got -1");
  ppo_trainer trainer(policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer, {});
  CHECK(message_of<contract_violation>([&] { trainer.fit(test::prompt_list{}); }) ==
        "expected a dataset of at least one prompt");
}

TEST_CASE("ppo trainer: reports, summary and last rollout tell of the same run") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  test::token_value<double> critic(6);
  adamw<double> optimizer, critic_optimizer;
  auto reward = ids_reward();
  ppo_trainer trainer{policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer,
                      {.loop = {.learning_rate = 0.06, .epochs = 2, .batch_size = 3, .logging_steps = 4},
                       .rollout = {.num_generations = 2, .max_new_tokens = 3}}};
  std::vector<report_kind> kinds;
  named_values last;
  std::size_t tokens = 0;
  double progress_loss = 0.0, first_loss = missing;
  auto const summary = trainer.fit(test::random_prompts(7, 6, 2), [&](report const& r) {  // 3 + 3 + 1 prompts an epoch
    kinds.push_back(r.kind);
    CHECK(r.stage == "ppo");
    CHECK(r.total_steps == 6);
    if (r.kind == report_kind::progress) {
      progress_loss = metrics_of(r).at("loss");
      if (std::isnan(first_loss)) first_loss = progress_loss;
    }
    if (r.kind == report_kind::log) last = metrics_of(r);
    if (r.kind == report_kind::progress || r.kind == report_kind::log)
      tokens += trainer.last_rollout().responses.total_tokens();
    CHECK(r.tokens == tokens);
    CHECK(r.epoch == static_cast<double>(r.step) / 3.0);
  });
  using enum report_kind;
  CHECK(kinds == std::vector<report_kind>{start, progress, progress, progress, log, progress, log, finish});
  CHECK(summary.steps == 6);
  CHECK(summary.skipped_steps == 0);
  CHECK(summary.resumed_from == 0);
  CHECK(summary.tokens == tokens);
  CHECK(summary.first_loss == first_loss);
  CHECK(last.at("episodes") == 28.0);  // of one prompt in the last update of an epoch, two responses
  CHECK(last.at("learning_rate") == doctest::Approx(0.01));
  CHECK(last.at("kl_coef") == 0.05);
  CHECK(last.at("completions/mean_length") == 3.0);
  CHECK(last.at("rollout/tokens_per_second") > 0.0);
  CHECK(last.at("critic_grad_norm") > 0.0);
  CHECK(trainer.last_rollout().responses.size() == 2);
  policy = test::random_tabular<double>({.vocabulary = 6}, 1);  // what the reference is
  named_values again;
  auto const second = trainer.fit(test::random_prompts(7, 6, 2),
                                  [&](report const& r) { again = r.kind == log ? metrics_of(r) : again; });
  CHECK(second.steps == 6);
  CHECK(again.at("episodes") == 28.0);  // from the beginning
}

TEST_CASE("ppo trainer: once the buffers have grown an update allocates nothing") {
  auto reward = ids_reward();
  test::prompt_list prompts;
  random_stream random(1);
  for (int i = 0; i < 64; ++i)
    prompts.rows.push_back({static_cast<token_id>(random.below(6)), static_cast<token_id>(random.below(6))});
  auto const per_update = [&](auto&& fit) {
    std::vector<std::size_t> counts;
    counts.reserve(64);
    fit([&](report const& r) {
      if (r.kind == report_kind::progress || r.kind == report_kind::log) counts.push_back(allocations());
    });
    REQUIRE(counts.size() == 8);
    std::vector<std::size_t> out;
    for (std::size_t i = 2; i < counts.size(); ++i) out.push_back(counts[i] - counts[i - 1]);
    return out;
  };
  ppo_trainer_options options{
      .loop = {.batch_size = 8, .micro_batch_tokens = 30, .logging_steps = 4},
      .rollout = {.num_generations = 2, .max_new_tokens = 4},  // without a stop token all are equally long
      .num_mini_batches = 2,
      .advantages = advantage_estimator::rloo};
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  adamw<double> optimizer, critic_optimizer;
  auto const grouped = per_update([&](auto const& sink) {
    ppo_trainer(policy, reference, reward, no_critic{}, optimizer, options).fit(prompts, sink);
  });
  CHECK(grouped == std::vector<std::size_t>(6, 0));
  options.advantages = advantage_estimator::gae;
  options.require_reference_equals_policy = false;
  test::token_value<double> critic(6);
  auto const with_critic = per_update([&](auto const& sink) {
    ppo_trainer(policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer, options)
        .fit(prompts, sink);
  });
  CHECK(with_critic == std::vector<std::size_t>(6, 0));
}
