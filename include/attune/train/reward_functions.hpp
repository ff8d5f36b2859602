// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/reward_model.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/statistics.hpp>
#include <attune/train/loop_options.hpp>

/// Rewards made of other things: a rule about one response, a mixture, a reward brought to the scale of a model's own
/// responses. Each is a RewardModel. What they are made of is held by value; pass std::ref for what should be borrowed.
namespace attune {

/// A rule about one response, f(prompt, response) -> number, as a RewardModel. The prompt is what comes before the
/// first masked-in token, the response what follows, its end-of-sequence token included.
template <class F>
class per_response {
 public:
  explicit per_response(F rule) : rule_(std::move(rule)) {}

  void operator()(sequences_view s, std::span<double> scores) {
    expects(scores.size() == s.size(), "per_response: scores.size() == s.size()", scores.size());
    for (std::size_t b = 0; b < s.size(); ++b) {
      std::span<token_id const> const all = s.sequence(b);
      std::size_t prompt = 0;
      while (prompt < all.size() && s.mask[s.offsets[b] + prompt] == 0) ++prompt;
      scores[b] = static_cast<double>(std::invoke(rule_, all.first(prompt), all.subspan(prompt)));
    }
  }

 private:
  F rule_;
};

/// A part of a mixture: its weight and what it weighs.
template <class R>
struct weighted_reward {
  double weight;
  R reward;
};

template <class R>
weighted_reward(double, R) -> weighted_reward<R>;

/// The weighted sum of rewards: reward_mixture{weighted_reward{0.8, std::ref(model)}, weighted_reward{0.2, rule}}.
template <class... R>
class reward_mixture {
 public:
  explicit reward_mixture(weighted_reward<R>... parts) : parts_(std::move(parts)...) {
    auto const check = [](double weight) { expects(std::isfinite(weight), "weighted_reward.weight finite", weight); };
    std::apply([&](auto const&... part) { (check(part.weight), ...); }, parts_);
  }

  void operator()(sequences_view s, std::span<double> scores) {
    expects(scores.size() == s.size(), "reward_mixture: scores.size() == s.size()", scores.size());
    part_.resize(s.size());
    for (double& score : scores) score = 0.0;
    auto const add = [&](auto& one) {
      one.reward(s, std::span<double>(part_));
      for (std::size_t b = 0; b < scores.size(); ++b) scores[b] += one.weight * part_[b];
    };
    std::apply([&](auto&... one) { (add(one), ...); }, parts_);
  }

 private:
  std::tuple<weighted_reward<R>...> parts_;
  std::vector<double> part_;
};

/// Mean and deviation of a reward over some responses.
struct reward_statistics {
  double mean = 0.0;
  double deviation = 1.0;  ///< square root of the unbiased variance; > 0
};

/// (reward - mean) / deviation. With the statistics of the SFT model's own responses, PPO starts at a mean reward of 0,
/// and kl_coef means the same whatever reward model was trained (Stiennon et al. 2020; Huang et al. 2024, detail 9).
template <class R>
class normalized_reward {
 public:
  normalized_reward(R reward, reward_statistics of) : reward_(std::move(reward)), of_(of) {
    expects(std::isfinite(of.mean), "reward_statistics.mean finite", of.mean);
    expects(of.deviation > 0.0 && std::isfinite(of.deviation), "reward_statistics.deviation > 0 and finite",
            of.deviation);
  }

  void operator()(sequences_view s, std::span<double> scores) {
    reward_(s, scores);
    for (double& score : scores) score = (score - of_.mean) / of_.deviation;
  }

 private:
  R reward_;
  reward_statistics of_;
};

/// The statistics of a reward over a model's own responses to the first `responses` prompts (round and round if there
/// are fewer), sampled as `options` say. A function of the arguments: whoever resumes a run asks again and gets the
/// same. nonfinite_error names a prompt whose reward is not finite; rewards that are all equal have deviation 1.
template <GenerativePolicy P, RewardModel R, PromptDataset Prompts>
[[nodiscard]] reward_statistics measure_reward(P& policy, R& reward, Prompts const& prompts, std::size_t responses,
                                               sampling_options const& options) {
  expects(prompts.size() > 0, "measure_reward: a dataset of at least one prompt");
  expects(responses >= 2, "measure_reward: two responses or more", responses);
  constexpr std::size_t at_once = 64;
  std::vector<double> all, scores;
  sequences asked, answered;
  for (std::size_t first = 0; first < responses; first += at_once) {
    asked.clear();
    for (std::size_t i = first; i < (std::min)(responses, first + at_once); ++i) {
      auto&& row = prompts[i % prompts.size()];
      asked.push_back(std::span<token_id const>(row.prompt), {});
    }
    sampling_options here = options;
    here.first_stream += first;
    policy.generate(asked, here, answered);
    scores.assign(answered.size(), 0.0);
    reward(answered.view(), std::span<double>(scores));
    for (std::size_t i = 0; i < scores.size(); ++i)
      if (!std::isfinite(scores[i]))
        throw nonfinite_error("measure_reward: the reward of a response to prompt " +
                              std::to_string((first + i) % prompts.size()) + " is not finite");
    all.insert(all.end(), scores.begin(), scores.end());
  }
  // Not left to the rounding of the mean, which would make a deviation of 1e-17 out of rewards that are all 0.1.
  if (std::ranges::count(all, all.front()) == std::ssize(all)) return {.mean = all.front()};
  metric_sum sum, squares;
  for (double const score : all) sum.add(score);
  double const mean = sum.mean();
  for (double const score : all) squares.add((score - mean) * (score - mean));
  return {.mean = mean, .deviation = std::sqrt(squares.sum / (static_cast<double>(all.size()) - 1.0))};
}

}  // namespace attune
