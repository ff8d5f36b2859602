// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/statistics.hpp>
#include <attune/objective/gae.hpp>
#include <attune/objective/group_advantages.hpp>
#include <attune/objective/kl.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/objective/token_rewards.hpp>
#include <attune/objective/whiten.hpp>
#include <attune/train/ppo_options.hpp>
#include <attune/train/rollout.hpp>

namespace attune {

/// What an update steers to: an advantage for every token of a rollout, and, with a critic, a return. The critic may be
/// asked about one token more per response than the policy drew: see score_position::after_end.
struct ppo_targets {
  std::vector<double> advantages;  ///< (tokens of the rollout)
  std::vector<double> values;      ///< (tokens of critic_sequences) of the critic before the update; empty without one
  std::vector<double> returns;     ///< (tokens of critic_sequences); empty without a critic
  sequences extended;              ///< responses with one token more; empty unless after_end

  sequences_view critic_sequences(rollout const& of) const noexcept {
    return extended.size() > 0 ? extended.view() : of.responses.view();
  }

  /// Of a rollout; nats per response, mean over responses, by two unbiased estimators.
  metric_sum kl, kl_k3;
  metric_sum entropy;            ///< -log pi of whole responses, mean
  metric_sum non_score_reward;   ///< what the KL in the reward takes off a response
  metric_sum rlhf_reward;        ///< score and KL together
  std::size_t equal_groups = 0;  ///< groups whose rewards are all equal, which teach nothing; group estimators alone
};

/// From a rollout to its targets (steps 5 to 11 of Huang et al. 2024's pipeline). Keeps its memory.
class ppo_advantages {
 public:
  explicit ppo_advantages(ppo_trainer_options const& options) : options_(options) {}

  /// The sequences that the critic is to be asked about; with after_end each response that ended before max_new_tokens,
  /// and leaves room in the `window`, gets one token more: its state is the whole response.
  void extend(rollout const& of, std::size_t window, ppo_targets& out) const {
    out.extended.clear();
    if (options_.score == score_position::end_token) return;
    sequences_view const s = of.responses;
    std::vector<token_id> tokens;
    std::vector<std::uint8_t> mask;
    for (std::size_t b = 0; b < s.size(); ++b) {
      tokens.assign(s.sequence(b).begin(), s.sequence(b).end());
      mask.assign(s.sequence_mask(b).begin(), s.sequence_mask(b).end());
      if (completion_tokens(mask) < options_.rollout.max_new_tokens && tokens.size() < window) {
        tokens.push_back(tokens.back());  // any token does: a value is read before it
        mask.push_back(1);
      }
      out.extended.push_back_masked(tokens, mask);
    }
  }

  /// Fills out; out.values holds the critic's values of out.critic_sequences(of), if there is a critic.
  void operator()(rollout const& of, double kl_coef_in_reward, ppo_targets& out) {
    sequences_view const s = of.responses;
    rewards_.resize(s.total_tokens());
    token_rewards<double>({.logps = of.logps, .ref_logps = of.ref_logps, .scores = of.scores}, s, rewards_,
                          {.kl_coef = kl_coef_in_reward,
                           .estimator = options_.kl.placement == kl_placement::reward ? options_.kl.estimator : kl_estimator::k1});
    sums_.resize(s.size());
    sequence_sums<double>(rewards_, s, sums_);
    measure(of, out);
    if (options_.advantages == advantage_estimator::gae) with_critic(of, out);
    else in_groups(s, out);
  }

 private:
  void measure(rollout const& of, ppo_targets& out) {
    sequences_view const s = of.responses;
    out.kl = out.kl_k3 = out.entropy = out.non_score_reward = out.rlhf_reward = {};
    out.equal_groups = 0;
    for (std::size_t b = 0; b < s.size(); ++b) {
      double k1 = 0.0, k3 = 0.0, entropy = 0.0;
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t) {
        if (s.mask[t] == 0) continue;
        double const log_ratio = of.logps[t] - of.ref_logps[t];
        k1 += log_ratio;
        k3 += kl_estimate(log_ratio, kl_estimator::k3).value;
        entropy -= of.logps[t];
      }
      out.kl.add(k1);
      out.kl_k3.add(k3);
      out.entropy.add(entropy);
      out.non_score_reward.add(sums_[b] - of.scores[b]);
      out.rlhf_reward.add(sums_[b]);
    }
  }

  void with_critic(rollout const& of, ppo_targets& out) {
    sequences_view const s = of.responses, longer = out.critic_sequences(of);
    expects(out.values.size() == longer.total_tokens(), "ppo_advantages: a value for every token of critic_sequences",
            out.values.size());
    std::vector<double>* rewards = &rewards_;
    if (out.extended.size() > 0) {
      place_after_end(of, longer);
      rewards = &longer_rewards_;
    }
    if (options_.whiten_rewards) whiten<double>(*rewards, longer.mask, *rewards, {.shift_mean = false});
    longer_advantages_.resize(longer.total_tokens());
    out.returns.resize(longer.total_tokens());
    gae<double>({.rewards = *rewards, .values = out.values}, longer,
                {.advantages = longer_advantages_, .returns = out.returns}, options_.gae);
    out.advantages.resize(s.total_tokens());
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t k = 0; k < s.length(b); ++k)
        out.advantages[s.offsets[b] + k] = longer_advantages_[longer.offsets[b] + k];
    if (options_.whiten_advantages) whiten<double>(out.advantages, s.mask, out.advantages);
  }

  // Where there is a token after the end, it bears the score.
  void place_after_end(rollout const& of, sequences_view longer) {
    sequences_view const s = of.responses;
    longer_rewards_.assign(longer.total_tokens(), 0.0);
    for (std::size_t b = 0; b < s.size(); ++b) {
      for (std::size_t k = 0; k < s.length(b); ++k) longer_rewards_[longer.offsets[b] + k] = rewards_[s.offsets[b] + k];
      if (longer.length(b) == s.length(b)) continue;
      longer_rewards_[longer.offsets[b + 1] - 2] -= of.scores[b];
      longer_rewards_[longer.offsets[b + 1] - 1] = of.scores[b];
    }
  }

  void in_groups(sequences_view s, ppo_targets& out) {
    out.values.clear();
    out.returns.clear();
    out.advantages.resize(s.total_tokens());
    out.equal_groups = group_advantages(sums_, sums_, {.baseline = baseline(), .num_generations = options_.rollout.num_generations,
                                                       .std_epsilon = options_.std_epsilon});
    broadcast_slopes<double>(sums_, s, out.advantages);
  }

  group_baseline baseline() const noexcept {
    switch (options_.advantages) {
      case advantage_estimator::grpo: return group_baseline::grpo;
      case advantage_estimator::dr_grpo: return group_baseline::dr_grpo;
      case advantage_estimator::reinforce_plus_plus: return group_baseline::reinforce_plus_plus;
      case advantage_estimator::rloo:
      case advantage_estimator::gae: break;
    }
    return group_baseline::rloo;
  }

  ppo_trainer_options const& options_;
  std::vector<double> rewards_, longer_rewards_, longer_advantages_, sums_;
};

}  // namespace attune
