// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <variant>
#include <vector>

#include <attune/core/checksum.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/gae.hpp>
#include <attune/objective/group_advantages.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/overlong_penalty.hpp>
#include <attune/objective/policy_gradient_surrogate.hpp>
#include <attune/objective/value_loss.hpp>
#include <attune/train/kl_controller.hpp>
#include <attune/train/loop_options.hpp>
#include <attune/train/rollout_options.hpp>

namespace attune {

/// What makes a response's rewards into advantages.
enum class advantage_estimator {
  gae,                  ///< generalised advantage estimation; needs a critic
  rloo,                 ///< the others are group_baseline's; they need no critic and num_generations >= 2
  grpo,
  dr_grpo,
  reinforce_plus_plus,
};

/// Which token bears the score.
enum class score_position {
  end_token,  ///< the response's last; the value after it is 0
  after_end,  ///< the position after it, as in TRL and Huang et al. 2024: lambda discounts the score and the critic's
              ///< value there replaces a part of it. For parity; a response of max_new_tokens bears it on its last
              ///< token
};

struct ppo_trainer_options {
  /// A step is an update: batch_size prompts, num_generations responses to each, num_ppo_epochs passes over them in
  /// num_mini_batches optimiser steps. The schedule runs over updates. There are no eval_steps. Large models are
  /// trained with a learning rate of 3e-6 (Huang et al. 2024); loop_options' default suits small ones.
  loop_options loop = {};
  rollout_options rollout = {};
  kl_options kl = {};
  policy_gradient_surrogate surrogate = ppo_options{};  ///< PPO's, or gspo_options, cispo_options, sapo_options
  value_loss_options value = {};
  double vf_coef = 0.1;                     ///< weight of the value loss; > 0
  double entropy_coef = 0.0;                ///< weight of the entropy bonus; >= 0; > 0 needs a TermedPolicy
  std::size_t num_ppo_epochs = 4;           ///< passes over a rollout; >= 1
  std::size_t num_mini_batches = 1;         ///< optimiser steps per pass; >= 1, at most the responses of an update
  loss_aggregation aggregation = loss_aggregation::token_mean;  ///< constant: divides by max_new_tokens. The papers of
                                                                ///< GSPO and SAPO have sequence_mean
  advantage_estimator advantages = advantage_estimator::gae;
  gae_options gae = {};
  double std_epsilon = 1e-4;                ///< GRPO's guard against a deviation of 0; > 0
  bool whiten_advantages = true;            ///< over the rollout; gae alone
  bool whiten_rewards = false;              ///< over the rollout, mean kept; gae alone
  score_position score = score_position::end_token;
  /// A mini-batch whose approxkl exceeds it is not applied and ends the update; > 0, or 0: off.
  double target_kl = 0.0;
  /// Rounds of further prompts in which an update replaces groups whose scores are all equal: DAPO's dynamic sampling.
  /// 0: off, such groups stay; at most 1000. Group estimators alone. What is still missing after them stays missing.
  std::size_t max_resamples = 0;
  /// Responses that did not end with a stop token have no part in the losses (DAPO, "overlong filtering"; TRL): neither
  /// slopes nor a place in token counts. Their scores stay a part of their group's baseline.
  bool mask_truncated_completions = false;
  /// Refuse to start unless policy and reference agree on the first rollout. false: they differ on purpose.
  bool require_reference_equals_policy = true;
};

/// Throws contract_violation naming the field and its value.
inline void validate(ppo_trainer_options const& o) {
  validate(o.loop);
  validate(o.kl);
  validate(o.surrogate);
  validate(o.value);
  validate(o.gae);
  expects(o.loop.eval_steps == 0 && !o.loop.eval_on_start,
          "loop_options.eval_steps == 0 and eval_on_start == false: PPO has no evaluation data");
  validate(o.rollout);
  rollout_options const& r = o.rollout;
  expects(!o.mask_truncated_completions || !r.stop_tokens.empty(),
          "rollout_options.stop_tokens, since mask_truncated_completions is set: nothing could end a response");
  expects(o.vf_coef > 0.0 && std::isfinite(o.vf_coef), "ppo_trainer_options.vf_coef > 0 and finite", o.vf_coef);
  expects(o.entropy_coef >= 0.0 && std::isfinite(o.entropy_coef), "ppo_trainer_options.entropy_coef >= 0 and finite",
          o.entropy_coef);
  expects(o.num_ppo_epochs >= 1, "ppo_trainer_options.num_ppo_epochs >= 1", o.num_ppo_epochs);
  expects(o.num_mini_batches >= 1 && o.num_mini_batches <= o.loop.batch_size * r.num_generations,
          "ppo_trainer_options.num_mini_batches in [1, batch_size * num_generations]", o.num_mini_batches);
  expects(o.target_kl >= 0.0 && std::isfinite(o.target_kl), "ppo_trainer_options.target_kl >= 0 and finite",
          o.target_kl);
  expects(o.std_epsilon > 0.0 && std::isfinite(o.std_epsilon), "ppo_trainer_options.std_epsilon > 0 and finite",
          o.std_epsilon);
  bool const grouped = o.advantages != advantage_estimator::gae;
  expects(!grouped || r.num_generations >= 2,
          "rollout_options.num_generations >= 2: in a group of one, a response has nothing to be compared with",
          r.num_generations);
  expects(!grouped || !o.whiten_rewards, "ppo_trainer_options.whiten_rewards == false, which only gae has a use for");
  expects(!grouped || o.score == score_position::end_token,
          "ppo_trainer_options.score end_token: without gae the score has no position");
  expects(o.max_resamples <= 1000, "ppo_trainer_options.max_resamples at most 1000", o.max_resamples);
  expects(grouped || o.max_resamples == 0,
          "ppo_trainer_options.max_resamples == 0: with gae a response is compared with the critic, not with a group",
          o.max_resamples);
}

/// Folds a surrogate and its options into a checksum.
inline void describe(policy_gradient_surrogate const& surrogate, checksum64& sum) noexcept {
  sum.update_number(static_cast<std::uint64_t>(surrogate.index()));
  if (auto const* o = std::get_if<ppo_options>(&surrogate))
    sum.update_number(o->cliprange).update_number(o->cliprange_high).update_number(o->dual_clip);
  if (auto const* o = std::get_if<gspo_options>(&surrogate))
    sum.update_number(o->cliprange)
        .update_number(o->cliprange_high)
        .update_number(static_cast<std::uint64_t>(o->token_advantages));
  if (auto const* o = std::get_if<cispo_options>(&surrogate)) sum.update_number(o->epsilon_high);
  if (auto const* o = std::get_if<sapo_options>(&surrogate))
    sum.update_number(o->sapo_temperature_pos).update_number(o->sapo_temperature_neg);
}

/// Folds what shapes the run's result into a checksum.
inline void describe(ppo_trainer_options const& o, checksum64& sum) noexcept {
  auto const whole = [&](auto value) { sum.update_number(static_cast<std::uint64_t>(value)); };
  describe(o.rollout, sum);
  sum.update_number(o.kl.kl_coef).update_number(o.kl.target).update_number(o.kl.horizon);
  whole(o.kl.placement);
  whole(o.kl.estimator);
  whole(o.kl.bias_correction);
  describe(o.surrogate, sum);
  sum.update_number(o.value.cliprange_value).update_number(o.vf_coef).update_number(o.entropy_coef);
  whole(o.num_ppo_epochs);
  whole(o.num_mini_batches);
  whole(o.aggregation);
  whole(o.advantages);
  sum.update_number(o.gae.gamma).update_number(o.gae.lam).update_number(o.std_epsilon);
  whole(o.whiten_advantages);
  whole(o.whiten_rewards);
  whole(o.score);
  sum.update_number(o.target_kl);
  whole(o.max_resamples);
  whole(o.mask_truncated_completions);
}

}  // namespace attune
