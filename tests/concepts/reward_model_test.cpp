// SPDX-License-Identifier: MIT
#include <attune/concepts/reward_model.hpp>

#include <doctest/doctest.h>

#include <array>
#include <span>
#include <vector>

using namespace attune;

namespace {

void plain_function(sequences_view s, std::span<double> scores) {
  for (std::size_t b = 0; b < s.size(); ++b) scores[b] = static_cast<double>(s.length(b));
}

struct trainable_archetype {
  using scalar = float;
  void operator()(sequences_view, std::span<double>) {}
  void scores(sequences_view, std::span<float>) const {}
  void accumulate_score_gradient(sequences_view, score_slopes_of<float>) {}
  std::array<parameter<float>, 0> parameters() { return {}; }
};

struct scores_one_sequence {
  double operator()(std::span<token_id const>) const { return 0.0; }
};
struct scores_in_float {
  void operator()(sequences_view, std::span<float>) const {}
};
struct cannot_be_called {
  using scalar = float;
  void scores(sequences_view, std::span<float>) const {}
  void accumulate_score_gradient(sequences_view, score_slopes_of<float>) {}
  std::array<parameter<float>, 0> parameters() { return {}; }
};
struct scores_not_const {
  using scalar = float;
  void operator()(sequences_view, std::span<double>) {}
  void scores(sequences_view, std::span<float>) {}
  void accumulate_score_gradient(sequences_view, score_slopes_of<float>) {}
  std::array<parameter<float>, 0> parameters() { return {}; }
};
struct no_gradient {
  using scalar = float;
  void operator()(sequences_view, std::span<double>) {}
  void scores(sequences_view, std::span<float>) const {}
  std::array<parameter<float>, 0> parameters() { return {}; }
};
struct no_parameters {
  using scalar = float;
  void operator()(sequences_view, std::span<double>) {}
  void scores(sequences_view, std::span<float>) const {}
  void accumulate_score_gradient(sequences_view, score_slopes_of<float>) {}
};

using lambda = decltype([](sequences_view, std::span<double>) {});

}  // namespace

static_assert(RewardModel<decltype(plain_function)>, "a function is a reward model");
static_assert(RewardModel<lambda>, "so is a lambda");
static_assert(TrainableRewardModel<trainable_archetype>);
static_assert(!TrainableRewardModel<lambda>);
static_assert(!RewardModel<scores_one_sequence>);
static_assert(!RewardModel<scores_in_float>);
static_assert(!TrainableRewardModel<cannot_be_called>);
static_assert(RewardModel<scores_not_const> && !TrainableRewardModel<scores_not_const>);
static_assert(RewardModel<no_gradient> && !TrainableRewardModel<no_gradient>);
static_assert(RewardModel<no_parameters> && !TrainableRewardModel<no_parameters>);

TEST_CASE("reward model: a plain function scores a batch") {
  sequences s;
  std::vector<token_id> const prompt{0}, completion{1, 0};
  s.push_back(prompt, completion);
  s.push_back(prompt, prompt);
  std::vector<double> scores(2);
  plain_function(s, scores);
  CHECK(scores == std::vector<double>{3.0, 2.0});
}
