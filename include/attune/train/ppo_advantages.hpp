// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
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
  void extend(rollout const& of, std::size_t window, ppo_targets& out) {
    out.extended.clear();
    if (options_.score == score_position::end_token) return;
    sequences_view const s = of.responses;
    for (std::size_t b = 0; b < s.size(); ++b) {
      tokens_.assign(s.sequence(b).begin(), s.sequence(b).end());
      mask_.assign(s.sequence_mask(b).begin(), s.sequence_mask(b).end());
      if (completion_tokens(mask_) < options_.rollout.max_new_tokens && tokens_.size() < window) {
        tokens_.push_back(tokens_.back());  // any token does: a value is read before it
        mask_.push_back(1);
      }
      out.extended.push_back_masked(tokens_, mask_);
    }
  }

  /// Fills out; out.values holds the critic's values of out.critic_sequences(of), if there is a critic.
  void operator()(rollout const& of, double kl_coef_in_reward, ppo_targets& out) {
    sequences_view const s = of.responses;
    bool const grouped = options_.advantages != advantage_estimator::gae;
    if (out.extended.size() == 0 || grouped) {
      rewards(of, of.logps, of.ref_logps, s, kl_coef_in_reward);
    } else {  // the token after the end is nobody's choice: its log-ratio is 0, and it bears the score
      lengthen(of.logps, s, out.extended, longer_logps_);
      lengthen(of.ref_logps, s, out.extended, longer_ref_logps_);
      rewards(of, longer_logps_, longer_ref_logps_, out.extended, kl_coef_in_reward);
    }
    measure(of, out);
    if (grouped) in_groups(s, out);
    else with_critic(of, out);
  }

 private:
  // rewards_ of tokens and sums_ of responses.
  void rewards(rollout const& of, std::span<double const> logps, std::span<double const> ref_logps, sequences_view s,
               double kl_coef) {
    rewards_.resize(s.total_tokens());
    token_rewards<double>({.logps = logps, .ref_logps = ref_logps, .scores = of.scores}, s, rewards_,
                          {.kl_coef = kl_coef, .estimator = options_.kl.estimator});
    sums_.resize(s.size());
    sequence_sums<double>(rewards_, s, sums_);
  }

  static void lengthen(std::span<double const> values, sequences_view s, sequences_view longer,
                       std::vector<double>& out) {
    out.assign(longer.total_tokens(), 0.0);
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t k = 0; k < s.length(b); ++k) out[longer.offsets[b] + k] = values[s.offsets[b] + k];
  }

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
    if (options_.whiten_rewards) whiten<double>(rewards_, longer.mask, rewards_, {.shift_mean = false});
    longer_advantages_.resize(longer.total_tokens());
    out.returns.resize(longer.total_tokens());
    gae<double>({.rewards = rewards_, .values = out.values}, longer,
                {.advantages = longer_advantages_, .returns = out.returns}, options_.gae);
    out.advantages.resize(s.total_tokens());
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t k = 0; k < s.length(b); ++k)
        out.advantages[s.offsets[b] + k] = longer_advantages_[longer.offsets[b] + k];
    if (options_.whiten_advantages) whiten<double>(out.advantages, s.mask, out.advantages);
  }

  void in_groups(sequences_view s, ppo_targets& out) {
    out.values.clear();
    out.returns.clear();
    out.advantages.resize(s.total_tokens());
    out.equal_groups = group_advantages(sums_, sums_,
                                        {.baseline = baseline(),
                                         .num_generations = options_.rollout.num_generations,
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
  std::vector<double> rewards_, sums_, longer_logps_, longer_ref_logps_, longer_advantages_;
  std::vector<token_id> tokens_;
  std::vector<std::uint8_t> mask_;
};

}  // namespace attune
