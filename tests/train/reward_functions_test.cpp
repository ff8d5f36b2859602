// SPDX-License-Identifier: MIT
#include <attune/train/reward_functions.hpp>

#include "support/small_world.hpp"
#include "support/temporary_folder.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

using namespace attune;
using test::message_of;
using test::token_list;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();

template <class R>
std::vector<double> scores_of(R&& reward, sequences_view s) {
  std::vector<double> scores(s.size(), 77.0);
  reward(s, std::span<double>(scores));
  return scores;
}

sequences three_responses() {
  sequences s;
  s.push_back(token_list{4, 5}, token_list{1, 2, 3});
  s.push_back(token_list{6}, token_list{0});
  s.push_back(token_list{7, 8, 9}, token_list{});
  return s;
}

// Counts its calls, to see whether it was copied.
struct counting_reward {
  std::size_t calls = 0;
  void operator()(sequences_view s, std::span<double> scores) {
    ++calls;
    for (std::size_t b = 0; b < s.size(); ++b) scores[b] = static_cast<double>(s.length(b));
  }
};

double first_token(std::span<token_id const>, std::span<token_id const> response) { return response.front(); }

}  // namespace

static_assert(RewardModel<per_response<double (*)(std::span<token_id const>, std::span<token_id const>)>>);
static_assert(RewardModel<reward_mixture<counting_reward, std::reference_wrapper<counting_reward>>>);
static_assert(RewardModel<normalized_reward<counting_reward>>);

TEST_CASE("rewards: a rule sees the prompt and the response, the end token included") {
  std::vector<token_list> prompts, responses;
  per_response rule([&](std::span<token_id const> prompt, std::span<token_id const> response) {
    prompts.emplace_back(prompt.begin(), prompt.end());
    responses.emplace_back(response.begin(), response.end());
    return static_cast<float>(response.size());
  });
  CHECK(scores_of(rule, three_responses()) == std::vector<double>{3.0, 1.0, 0.0});
  CHECK(prompts == std::vector<token_list>{{4, 5}, {6}, {7, 8, 9}});
  CHECK(responses == std::vector<token_list>{{1, 2, 3}, {0}, {}});
  std::vector<double> wrong(2);
  CHECK_THROWS_AS(rule(three_responses(), wrong), contract_violation);
}

TEST_CASE("rewards: a mixture is the weighted sum of its parts, borrowed ones not copied") {
  counting_reward length;
  per_response one([](auto, auto) { return 1.0; });
  reward_mixture mixture{weighted_reward{0.5, std::ref(length)}, weighted_reward{-2.0, one}};
  CHECK(scores_of(mixture, three_responses()) == std::vector<double>{0.5, -1.0, -0.5});
  CHECK(scores_of(mixture, three_responses()) == std::vector<double>{0.5, -1.0, -0.5});
  CHECK(length.calls == 2);
  auto const weigh = [&](double weight) { reward_mixture made(weighted_reward{weight, one}); };
  CHECK(message_of<contract_violation>([&] { weigh(missing); }) == "expected weighted_reward.weight finite, got nan");
}

TEST_CASE("rewards: a part that is not finite is not lost in a mixture, whatever its weight") {
  per_response broken([](auto, auto) { return missing; });
  reward_mixture mixture{weighted_reward{0.0, broken}};
  for (double const score : scores_of(mixture, three_responses())) CHECK(std::isnan(score));
}

TEST_CASE("rewards: normalisation takes off the mean and divides by the deviation") {
  normalized_reward reward(counting_reward{}, {.mean = 2.0, .deviation = 0.5});
  CHECK(scores_of(reward, three_responses()) == std::vector<double>{6.0, 0.0, 2.0});
  auto const why = [](reward_statistics of) {
    return message_of<contract_violation>([&] { normalized_reward r(counting_reward{}, of); });
  };
  CHECK(why({.mean = missing}) == "expected reward_statistics.mean finite, got nan");
  CHECK(why({.deviation = 0.0}) == "expected reward_statistics.deviation > 0 and finite, got 0");
}

TEST_CASE("rewards: measured on a model's own responses, the normalised reward has mean 0 and deviation 1 there") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const prompts = test::random_prompts(7, 6, 2);
  sampling_options const options{.max_new_tokens = 5, .stop_tokens = {0}, .seed = 3};
  per_response raw([](auto, std::span<token_id const> response) {
    double sum = 100.0;
    for (token_id const id : response) sum += 3.0 * id;
    return sum;
  });
  auto const of = measure_reward(policy, raw, prompts, 150, options);
  CHECK(of.mean > 100.0);
  CHECK(of.deviation > 1.0);
  normalized_reward reward(raw, of);
  auto const after = measure_reward(policy, reward, prompts, 150, options);
  CHECK(std::abs(after.mean) <= 1e-13);
  CHECK(std::abs(after.deviation - 1.0) <= 1e-13);

  // The 150 responses in one call, by hand: the groups in which they are drawn leave no trace.
  sequences asked, answered;
  for (std::size_t i = 0; i < 150; ++i) asked.push_back(prompts.rows[i % 7], {});
  policy.generate(asked, options, answered);
  auto const scores = scores_of(raw, answered);
  double sum = 0.0, squares = 0.0;
  for (double const score : scores) sum += score;
  for (double const score : scores) squares += (score - sum / 150.0) * (score - sum / 150.0);
  CHECK(of.mean == doctest::Approx(sum / 150.0).epsilon(1e-14));
  CHECK(of.deviation == doctest::Approx(std::sqrt(squares / 149.0)).epsilon(1e-13));
}

TEST_CASE("rewards: equal ones have deviation 1, whatever the rounding of their mean") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  per_response tenth([](auto, auto) { return 0.1; });
  auto const of = measure_reward(policy, tenth, test::random_prompts(3, 6, 2), 7, {.max_new_tokens = 2});
  CHECK(of.mean == 0.1);
  CHECK(of.deviation == 1.0);
}

TEST_CASE("rewards: measuring names the prompt whose reward is not finite, and refuses too little to measure") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  test::prompt_list const prompts{{{1}, {2}, {3}}};
  per_response broken([](std::span<token_id const> prompt, auto) { return prompt[0] == 3 ? missing : 1.0; });
  CHECK(message_of<nonfinite_error>([&] { static_cast<void>(measure_reward(policy, broken, prompts, 100, {})); }) ==
        "measure_reward: the reward of a response to prompt 2 is not finite");
  per_response fine(first_token);
  CHECK(message_of<contract_violation>([&] { static_cast<void>(measure_reward(policy, fine, prompts, 1, {})); }) ==
        "expected measure_reward: two responses or more, got 1");
  CHECK(message_of<contract_violation>([&] { static_cast<void>(measure_reward(policy, fine, test::prompt_list{}, 4, {})); }) ==
        "expected measure_reward: a dataset of at least one prompt");
}
