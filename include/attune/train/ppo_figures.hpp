// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <vector>

#include <attune/concepts/report_sink.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/statistics.hpp>
#include <attune/train/ppo_advantages.hpp>
#include <attune/train/ppo_options.hpp>
#include <attune/train/ppo_update.hpp>
#include <attune/train/rollout.hpp>

namespace attune {

/// What PPO reports of its updates: means over the updates since the last report, under TRL's names. Over completion
/// tokens alone, each with one weight; prompts, and padding where others have it, have no part in them.
///
///   objective/kl, objective/kl_k3     nats per response, two unbiased estimates from the rollout: 0 at the first
///                                     update. k1 below 0 by more than noise says that sampler and scorer differ
///   objective/entropy                 -log pi of a response, mean
///   objective/scores                  of the reward model, dropped groups included; non_score_reward: the KL's part;
///                                     rlhf_reward: both
///   policy/approxkl_avg               (log-ratio to the rollout's policy)^2 / 2; policy/clipfrac_avg: tokens at the
///                                     bound
///   policy/entropy_avg                nats per token, with an entropy bonus alone
///   loss/policy_avg, loss/value_avg   per mini-batch; val/clipfrac_avg: tokens at the value's bound
///   val/ratio, val/ratio_var          of pi / pi_old
///   val/num_eos_tokens                responses that ended with a stop token, per update
///   completions/mean_length           tokens
///   frac_reward_zero_std              share of groups whose rewards are all equal, which teach nothing; groups alone
///   rollout/dropped_groups            share of groups drawn that max_resamples dropped; with max_resamples alone
///   grad_norm, critic_grad_norm       per mini-batch, before clipping; the critic's where it is a model of its own
///   rollout/log_ratio                 log sampler - log policy per token, with a sampling filter alone
///   early_stops                       share of updates that target_kl ended
struct ppo_figures {
  enum figure : std::size_t {
    kl, kl_k3, entropy_of_responses, non_score_reward, rlhf_reward, scores, approxkl, clipfrac, entropy, policy_loss,
    value_loss_avg, value_clipfrac, ratio, ratio_squared, eos, length, equal_groups, grad_norm, critic_grad_norm,
    log_ratio, early_stops, dropped_groups,
    count
  };
  static constexpr std::array<std::string_view, count> names{
      "objective/kl", "objective/kl_k3", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward",
      "objective/scores", "policy/approxkl_avg", "policy/clipfrac_avg", "policy/entropy_avg", "loss/policy_avg",
      "loss/value_avg", "val/clipfrac_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens",
      "completions/mean_length", "frac_reward_zero_std", "grad_norm", "critic_grad_norm", "rollout/log_ratio",
      "early_stops", "rollout/dropped_groups"};

  std::array<metric_sum, count> sums{};  ///< bytes of a checkpoint: no padding

  void add(ppo_trainer_options const& options, rollout const& of, ppo_targets const& targets,
           ppo_update_outcome const& outcome) {
    sums[kl].add(targets.kl);
    sums[kl_k3].add(targets.kl_k3);
    sums[entropy_of_responses].add(targets.entropy);
    sums[non_score_reward].add(targets.non_score_reward);
    sums[rlhf_reward].add(targets.rlhf_reward);
    double ended = 0.0;
    for (std::size_t b = 0; b < of.scores.size(); ++b) {
      ended += of.finished[b];
      sums[length].add(static_cast<double>(completion_tokens(of.responses.view().sequence_mask(b))));
    }
    sums[scores].add(of.drawn_scores);
    sums[eos].add(ended);
    sums[approxkl].add(outcome.policy.approxkl);
    sums[clipfrac].add(outcome.policy.clipfrac);
    sums[ratio].add(outcome.policy.ratio);
    sums[ratio_squared].add(outcome.policy.ratio_squared);
    sums[entropy].add(outcome.entropy);
    sums[policy_loss].add(outcome.policy_loss);
    sums[value_loss_avg].add(outcome.value_loss);
    sums[value_clipfrac].add(outcome.value.clipfrac);
    sums[grad_norm].add(outcome.grad_norm);
    sums[critic_grad_norm].add(outcome.critic_grad_norm);
    sums[log_ratio].add(of.sampler_log_ratio);
    if (options.target_kl > 0.0) sums[early_stops].add(outcome.stopped_early ? 1.0 : 0.0);
    if (options.advantages != advantage_estimator::gae) {
      double const groups = static_cast<double>(of.scores.size() / options.rollout.num_generations);
      sums[equal_groups].add(metric_sum{static_cast<double>(targets.equal_groups), groups});
      double const dropped = static_cast<double>(of.dropped_groups);
      if (options.max_resamples > 0) sums[dropped_groups].add(metric_sum{dropped, dropped + groups});
    }
  }

  /// The figures that there are; one that was never measured is left out.
  void append_to(std::vector<metric>& metrics) const {
    for (std::size_t i = 0; i < count; ++i) {
      if (sums[i].weight == 0.0) continue;
      double value = sums[i].mean();
      if (i == ratio_squared)
        value = (std::max)(0.0, value - sums[ratio].mean() * sums[ratio].mean());  // but for rounding
      metrics.push_back({names[i], value});
    }
  }
};

}  // namespace attune
