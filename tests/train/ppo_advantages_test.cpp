// SPDX-License-Identifier: MIT
#include <attune/train/ppo_advantages.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"
#include "support/temporary_folder.hpp"

#include <attune/core/random.hpp>
#include <attune/objective/ppo.hpp>
#include <attune/objective/value_loss.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

using namespace attune;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t no_window = (std::numeric_limits<std::size_t>::max)();

// Responses of the given lengths after prompts of 1, 2, 3, 1, ... tokens; per-token numbers are set one response after
// another, NaN on the prompts.
rollout rollout_of(std::vector<std::size_t> const& lengths) {
  rollout of;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    std::vector<token_id> const prompt(1 + b % 3, 1), response(lengths[b], 2);
    of.responses.push_back(prompt, response);
    of.prompts.push_back(b);
    of.finished.push_back(1);
  }
  return of;
}

std::vector<double> on_tokens(std::span<double const> numbers, sequences_view s) {
  std::vector<double> out(s.total_tokens(), missing);
  std::size_t next = 0;
  for (std::size_t t = 0; t < out.size(); ++t)
    if (s.mask[t] != 0) out[t] = numbers[next++];
  REQUIRE(next == numbers.size());
  return out;
}

std::vector<double> off_tokens(std::span<double const> numbers, sequences_view s) {
  std::vector<double> out;
  REQUIRE(numbers.size() == s.total_tokens());
  for (std::size_t t = 0; t < numbers.size(); ++t) {
    if (s.mask[t] != 0) out.push_back(numbers[t]);
    else CHECK(numbers[t] == 0.0);
  }
  return out;
}

double worst(std::span<double const> a, std::span<double const> b) {
  REQUIRE(a.size() == b.size());
  double out = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return std::numeric_limits<double>::infinity();
    out = std::max(out, std::abs(a[i] - b[i]) / (1.0 + std::abs(b[i])));
  }
  return out;
}

rollout random_rollout(std::vector<std::size_t> const& lengths, std::uint64_t seed) {
  rollout of = rollout_of(lengths);
  random_stream random(seed);
  std::size_t tokens = 0;
  for (std::size_t const n : lengths) tokens += n;
  std::vector<double> logps(tokens), ref(tokens);
  for (std::size_t t = 0; t < tokens; ++t) {
    logps[t] = -std::abs(random.normal());
    ref[t] = logps[t] + 0.3 * random.normal();
  }
  of.logps = on_tokens(logps, of.responses);
  of.ref_logps = on_tokens(ref, of.responses);
  for (std::size_t b = 0; b < lengths.size(); ++b) of.scores.push_back(random.normal());
  return of;
}

std::vector<double> random_values(sequences_view s, std::uint64_t seed) {
  random_stream random(seed);
  std::vector<double> out(s.total_tokens(), missing);
  for (std::size_t t = 0; t < out.size(); ++t)
    if (s.mask[t] != 0) out[t] = random.normal();
  return out;
}

}  // namespace

TEST_CASE("ppo advantages: rewards, advantages, returns and losses are those of TRL's padded loop (golden)") {
  std::size_t extended = 0;
  for (golden_case const& g : read_golden("ppo_advantages.txt")) {
    ppo_trainer_options o{.rollout = {.max_new_tokens = static_cast<std::size_t>(g.number("response_length"))},
                          .kl = {.estimator = g.number("kl_estimator") == 1 ? kl_estimator::k1 : kl_estimator::k3},
                          .surrogate = ppo_options{.cliprange = g.number("cliprange")},
                          .value = {.cliprange_value = g.number("cliprange_value")},
                          .vf_coef = g.number("vf_coef"),
                          .gae = {.gamma = g.number("gamma"), .lam = g.number("lam")},
                          .whiten_advantages = g.number("whiten_advantages") != 0,
                          .whiten_rewards = g.number("whiten_rewards") != 0,
                          .score = g.number("after_end") != 0 ? score_position::after_end : score_position::end_token};
    rollout of = rollout_of(g.integers<std::size_t>("lengths"));
    sequences_view const s = of.responses;
    of.logps = on_tokens(g["logps"], s);
    of.ref_logps = on_tokens(g["ref_logps"], s);
    of.scores = g["scores"];
    ppo_advantages advantages(o);
    ppo_targets targets;
    advantages.extend(of, no_window, targets);
    sequences_view const longer = targets.critic_sequences(of);
    extended += targets.extended.size();
    targets.values = on_tokens(g["values"], longer);
    advantages(of, g.number("kl_coef"), targets);
    auto const returns = off_tokens(targets.returns, longer);
    CHECK(worst(off_tokens(targets.advantages, s), g["advantages"]) <= 1e-10);
    CHECK(worst(returns, g["returns"]) <= 1e-10);
    CHECK(targets.kl.mean() == doctest::Approx(g.number("kl")).epsilon(1e-12));
    CHECK(targets.non_score_reward.mean() == doctest::Approx(g.number("non_score_reward")).epsilon(1e-12));
    CHECK(targets.rlhf_reward.mean() == doctest::Approx(g.number("rlhf_reward")).epsilon(1e-12));

    // Returns less values are the advantages before whitening, and these give the rewards away.
    std::vector<double> rewards;
    for (std::size_t b = 0, at = 0; b < longer.size(); ++b) {
      std::size_t const n = completion_tokens(longer.sequence_mask(b));
      for (std::size_t k = 0; k < n; ++k, ++at) {
        double const a = returns[at] - g["values"][at];
        double const after = k + 1 < n ? returns[at + 1] - g["values"][at + 1] : 0.0;
        double const v_after = k + 1 < n ? g["values"][at + 1] : 0.0;
        rewards.push_back(a - o.gae.gamma * o.gae.lam * after - o.gae.gamma * v_after + g["values"][at]);
      }
    }
    CHECK(worst(rewards, g["rewards"]) <= 1e-10);

    auto const new_logps = on_tokens(g["new_logps"], s), new_values = on_tokens(g["new_values"], longer);
    std::vector<double> slopes(s.total_tokens()), value_slopes(longer.total_tokens());
    policy_gradient_statistics statistics;
    value_statistics of_values;
    double const policy_loss =
        ppo_loss<double>({.logps = new_logps, .old_logps = of.logps, .advantages = targets.advantages}, s, slopes,
                         aggregation_totals_of(s), o.aggregation, std::get<ppo_options>(o.surrogate), &statistics);
    double const critic_loss =
        value_loss<double>({.values = new_values, .returns = targets.returns, .old_values = targets.values}, longer,
                           value_slopes, aggregation_totals_of(longer), o.value, &of_values);
    CHECK(policy_loss == doctest::Approx(g.number("policy_loss")).epsilon(1e-10));
    CHECK(critic_loss == doctest::Approx(g.number("value_loss")).epsilon(1e-10));
    CHECK(policy_loss + o.vf_coef * critic_loss == doctest::Approx(g.number("loss")).epsilon(1e-10));
    CHECK(statistics.clipfrac.mean() == doctest::Approx(g.number("clipfrac")).epsilon(1e-12));
    CHECK(of_values.clipfrac.mean() == doctest::Approx(g.number("value_clipfrac")).epsilon(1e-12));
  }
  CHECK(extended > 0);
}

TEST_CASE("ppo advantages: by hand, the score lies on the end token and the value after it is 0") {
  ppo_trainer_options const o{.gae = {.gamma = 1.0, .lam = 0.5}, .whiten_advantages = false};
  rollout of = rollout_of({2});
  of.logps = {missing, -1.0, -2.0};
  of.ref_logps = {missing, -1.5, -1.0};
  of.scores = {3.0};
  ppo_targets targets;
  targets.values = {missing, 0.25, 0.75};
  ppo_advantages advantages(o);
  advantages(of, 0.1, targets);
  double const last = 3.0 + 0.1 * 1.0 - 0.75;                       // -kl_coef (-2 + 1), score, less V
  double const first = -0.1 * 0.5 + 0.75 - 0.25 + 0.5 * last;
  CHECK(targets.advantages == std::vector<double>{0.0, first, last});
  CHECK(targets.returns == std::vector<double>{0.0, first + 0.25, last + 0.75});
  CHECK(targets.kl.mean() == doctest::Approx(-0.5));
  CHECK(targets.kl_k3.mean() == doctest::Approx(std::exp(-0.5) - 0.5 + std::exp(1.0) - 2.0));
  CHECK(targets.entropy.mean() == 3.0);
  CHECK(targets.rlhf_reward.mean() == doctest::Approx(3.05));
}

TEST_CASE("ppo advantages: one token more where there is room, by the length limit and by the window") {
  ppo_trainer_options const o{.rollout = {.max_new_tokens = 3}, .score = score_position::after_end};
  ppo_advantages advantages(o);
  rollout const of = rollout_of({2, 3, 1});  // 3, 5 and 4 tokens in all
  ppo_targets targets;
  advantages.extend(of, no_window, targets);
  sequences_view s = targets.critic_sequences(of);
  CHECK(std::vector<std::size_t>(s.offsets.begin(), s.offsets.end()) == std::vector<std::size_t>{0, 4, 9, 14});
  CHECK(completion_tokens(s.mask) == 3 + 3 + 2);
  advantages.extend(of, 4, targets);
  s = targets.critic_sequences(of);
  CHECK(std::vector<std::size_t>(s.offsets.begin(), s.offsets.end()) == std::vector<std::size_t>{0, 4, 9, 13});

  ppo_trainer_options const at_end{.rollout = {.max_new_tokens = 3}};
  ppo_advantages(at_end).extend(of, no_window, targets);
  CHECK(targets.extended.size() == 0);
  CHECK(targets.critic_sequences(of).total_tokens() == of.responses.total_tokens());
}

TEST_CASE("ppo advantages: where nothing has room, after_end is end_token to the bit") {
  rollout const of = random_rollout({4, 4, 4}, 3);
  std::vector<double> results[2];
  for (auto const position : {score_position::end_token, score_position::after_end}) {
    ppo_trainer_options const o{.rollout = {.max_new_tokens = 4}, .score = position};
    ppo_advantages advantages(o);
    ppo_targets targets;
    advantages.extend(of, no_window, targets);
    targets.values = random_values(of.responses, 5);
    advantages(of, 0.2, targets);
    results[position == score_position::end_token ? 0 : 1] = targets.advantages;
  }
  CHECK(results[0] == results[1]);
}

TEST_CASE("ppo advantages: after the end a large score does not round away the price of the last token") {
  ppo_trainer_options const o{.rollout = {.max_new_tokens = 3}, .gae = {.gamma = 0.0}, .whiten_advantages = false,
                              .score = score_position::after_end};
  rollout of = rollout_of({1});
  of.logps = {missing, -1.0};
  of.ref_logps = {missing, -1.5};
  of.scores = {1e15};
  ppo_advantages advantages(o);
  ppo_targets targets;
  advantages.extend(of, no_window, targets);
  targets.values = {missing, 0.0, 0.0};
  advantages(of, 0.1, targets);
  CHECK(targets.advantages[1] == -0.05);
}

TEST_CASE("ppo advantages: groups compare the whole rewards, the KL in them included, and have no values") {
  rollout const of = random_rollout({2, 5, 1, 3, 3, 2}, 4);
  std::vector<double> rewards;
  for (std::size_t b = 0; b < 6; ++b) {
    double sum = of.scores[b];
    sequences_view const s = of.responses;
    for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
      if (s.mask[t] != 0) sum -= 0.3 * (of.logps[t] - of.ref_logps[t]);
    rewards.push_back(sum);
  }
  for (auto const& [estimator, baseline] :
       {std::pair{advantage_estimator::rloo, group_baseline::rloo},
        std::pair{advantage_estimator::grpo, group_baseline::grpo},
        std::pair{advantage_estimator::dr_grpo, group_baseline::dr_grpo},
        std::pair{advantage_estimator::reinforce_plus_plus, group_baseline::reinforce_plus_plus}}) {
    ppo_trainer_options const o{.rollout = {.num_generations = 3}, .advantages = estimator, .std_epsilon = 0.01};
    ppo_advantages advantages(o);
    ppo_targets targets;
    targets.values = {1.0};
    advantages(of, 0.3, targets);
    std::vector<double> expected(6);
    group_advantages(rewards, expected, {.baseline = baseline, .num_generations = 3, .std_epsilon = 0.01});
    sequences_view const s = of.responses;
    for (std::size_t b = 0; b < 6; ++b)
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
        CHECK(targets.advantages[t] == (s.mask[t] == 0 ? 0.0 : doctest::Approx(expected[b]).epsilon(1e-12)));
    CHECK(targets.values.empty());
    CHECK(targets.returns.empty());
    CHECK(targets.equal_groups == 0);
  }
}

TEST_CASE("ppo advantages: groups of equal rewards are counted and teach nothing") {
  rollout of = rollout_of({2, 5, 1, 3});
  of.logps = of.ref_logps = on_tokens(std::vector<double>(11, -1.0), of.responses);
  of.scores = {0.1, 0.1, 0.7, 0.2};
  ppo_trainer_options const o{.rollout = {.num_generations = 2}, .advantages = advantage_estimator::grpo};
  ppo_advantages advantages(o);
  ppo_targets targets;
  advantages(of, 0.3, targets);
  CHECK(targets.equal_groups == 1);
  for (std::size_t t = 0; t < of.responses.view().offsets[2]; ++t) CHECK(targets.advantages[t] == 0.0);
  CHECK(targets.advantages.back() < 0.0);
  advantages(random_rollout({1, 1}, 2), 0.3, targets);
  CHECK(targets.equal_groups == 0);
}

TEST_CASE("ppo advantages: the order of the responses changes no response's numbers") {
  std::vector<std::size_t> const lengths{3, 1, 4, 2};
  rollout const of = random_rollout(lengths, 6);
  rollout turned;
  std::vector<double> values = random_values(of.responses, 7), turned_values;
  sequences_view const s = of.responses;
  for (std::size_t const b : {2u, 0u, 3u, 1u}) {
    turned.responses.push_back_masked(s.sequence(b), s.sequence_mask(b));
    turned.scores.push_back(of.scores[b]);
    for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t) {
      turned.logps.push_back(of.logps[t]);
      turned.ref_logps.push_back(of.ref_logps[t]);
      turned_values.push_back(values[t]);
    }
  }
  for (bool const whitened : {false, true}) {
    ppo_trainer_options const o{.whiten_advantages = whitened};
    ppo_advantages advantages(o);
    ppo_targets a, b;
    a.values = values;
    b.values = turned_values;
    advantages(of, 0.1, a);
    advantages(turned, 0.1, b);
    sequences_view const other = turned.responses;
    std::size_t at = 0;
    for (std::size_t const from : {2u, 0u, 3u, 1u}) {
      for (std::size_t k = 0; k < s.length(from); ++k) {
        double const x = a.advantages[s.offsets[from] + k], y = b.advantages[other.offsets[at] + k];
        if (whitened) CHECK(std::abs(x - y) <= 1e-13);
        else CHECK(x == y);
        CHECK(a.returns[s.offsets[from] + k] == b.returns[other.offsets[at] + k]);
      }
      ++at;
    }
  }
}

TEST_CASE("ppo advantages: values that are not one per token are refused") {
  ppo_trainer_options const o{};
  ppo_advantages advantages(o);
  ppo_targets targets;
  targets.values = {1.0};
  CHECK(test::message_of<contract_violation>([&] { advantages(random_rollout({2}, 1), 0.1, targets); }) ==
        "expected ppo_advantages: a value for every token of critic_sequences, got 1");
}

TEST_CASE("ppo advantages: nothing is allocated once the buffers have grown") {
  rollout const of = random_rollout({3, 1, 4, 2}, 6);
  for (auto const position : {score_position::end_token, score_position::after_end}) {
    ppo_trainer_options const o{.whiten_rewards = true, .score = position};
    ppo_advantages advantages(o);
    ppo_targets targets;
    auto const run = [&] {
      advantages.extend(of, no_window, targets);
      targets.values.assign(targets.critic_sequences(of).total_tokens(), 0.5);
      advantages(of, 0.1, targets);
    };
    run();
    std::size_t const before = allocations();
    run();
    CHECK(allocations() == before);
  }
}
