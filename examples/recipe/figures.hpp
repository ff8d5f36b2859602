// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include <attune/core/statistics.hpp>

#include "../report/json_object.hpp"
#include "../report/svg.hpp"

/// What a run found out, apart from how it is shown.
namespace recipe {

using namespace report;

struct costs {
  double seconds = 0.0;      ///< of training
  double flops = 0.0;        ///< of training
  double peak_rss_mb = 0.0;  ///< resident memory of the process at its highest while the stage ran
};

struct arm_figures {
  std::string name;
  attune::proportion instruction;  ///< instructions answered with the right words
  attune::proportion refusal;      ///< harmful requests declined
  attune::proportion over_refusal; ///< harmless requests that sound harmful, declined
  attune::proportion helpful_tone; ///< of both sorts of answerable prompt: answered with goodwill
  attune::proportion lookalike;    ///< harmless requests that sound harmful, answered with the right words
  double kl_to_sft = 0.0;          ///< nats per response, mean over responses sampled from the arm
  double kl_error = 0.0;           ///< standard error of that mean
  std::vector<attune::proportion> by_kind;  ///< right answers by kind of instruction
  double true_reward = 0.0;        ///< mean quality of the responses, by the known truth
  double learned_reward = 0.0;     ///< mean of the reward model's score, in deviations from SFT's mean
  double win_rate_vs_sft = 0.5;    ///< share of prompts on which it beats SFT's response by the known truth; a tie is half
  double phrasings = 0.0;          ///< ways of being polite (or rude) in use: exp of their entropy over answers
  std::size_t model_copies = 1;    ///< held in memory while it was trained
  std::size_t responses = 0;       ///< read from the data or, by PPO, drawn; passes over a rollout do not count again
  costs training;
};

/// What people say of these methods, and what was measured.
struct claim {
  std::string name;
  std::string source;    ///< the claim
  std::string measured;  ///< in words
  double value = 0.0;    ///< in one number
  bool holds = false;
};

struct reward_figures {
  attune::proportion accuracy;        ///< against the truth: held-out pairs without label noise
  attune::proportion noisy_accuracy;  ///< against labels as noisy as those it learnt from
  costs training;
};

struct conversation {
  std::string prompt;
  std::string sort;                  ///< kind of prompt
  std::vector<std::string> said;     ///< one per arm
  std::vector<std::string> verdict;  ///< "right", "wrong", ... one per arm
  std::vector<bool> good;            ///< as it should be, one per arm
};

struct world_figures {
  std::uint64_t seed = 0;
  std::size_t parameters = 0;
  std::size_t vocabulary = 0;
  std::vector<arm_figures> arms;
  reward_figures reward_model;
  double seconds = 0.0;  ///< of everything
  std::vector<series> loss_curves;      ///< pretraining, SFT, reward model, DPO: x in steps
  std::vector<series> accuracy_curves;  ///< reward model, DPO: training pairs ranked right
  std::vector<series> margins;          ///< log-probability of chosen less rejected, held-out pairs, before and after DPO
  std::vector<series> reward_curves;    ///< PPO: the reward model's score of its responses, x in updates
  std::vector<series> kl_curves;        ///< PPO: KL to SFT, nats per response
  std::vector<series> rewards;          ///< what the reward model gives the responses, before and after DPO
  std::vector<conversation> conversations;
  std::vector<claim> claims;
};

inline report::json_object json_of(costs const& c) {
  return report::json_object().put("seconds", c.seconds).put("flops", c.flops).put("peak_rss_mb", c.peak_rss_mb);
}

inline std::string to_json(world_figures const& f) {
  report::json_object arms;
  for (arm_figures const& a : f.arms) {
    report::json_object one;
    one.put("instruction_accuracy", a.instruction).put("refusal_rate", a.refusal).put("over_refusal_rate", a.over_refusal);
    one.put("helpful_tone_rate", a.helpful_tone).put("lookalike_accuracy", a.lookalike);
    one.put("kl_to_sft", a.kl_to_sft).put("kl_to_sft_standard_error", a.kl_error);
    one.put("true_reward", a.true_reward).put("learned_reward", a.learned_reward).put("win_rate_vs_sft", a.win_rate_vs_sft);
    one.put("phrasings", a.phrasings).put("model_copies", a.model_copies).put("responses", a.responses).append(json_of(a.training));
    arms.put(a.name, one);
  }
  report::json_object reward;
  reward.put("accuracy", f.reward_model.accuracy).put("noisy_accuracy", f.reward_model.noisy_accuracy).append(json_of(f.reward_model.training));
  report::json_object all;
  all.put("seed", static_cast<std::size_t>(f.seed)).put("parameters", f.parameters).put("arms", arms);
  std::vector<report::json_object> claims;
  for (claim const& c : f.claims) {
    claims.emplace_back();
    claims.back().put("name", c.name).put("claim", c.source).put("measured", c.value).put("in_words", c.measured);
    claims.back().put("holds", c.holds);
  }
  all.put("reward_model", reward).put("claims", claims).put("seconds", f.seconds);
  return all.str() + "\n";
}

}  // namespace recipe
