// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <attune/concepts/policy.hpp>
#include <attune/train/ppo_options.hpp>

#include "training_program.hpp"

/// The command line of ppo.
namespace programs {

enum class policy_loss { ppo, gspo, cispo, sapo };

struct ppo_program_options {
  std::string reward, prompts;
  bool critic_from_policy = false;
  bool shared_critic = false;
  double critic_learning_rate = 0.0;  ///< 0: the policy's
  double temperature = 1.0;
  std::size_t normalize_reward = 0;  ///< responses; 0: rewards are taken as they are
  std::size_t samples = 3;           ///< shown at the end
  policy_loss loss = policy_loss::ppo;
  attune::ppo_options ppo;  ///< cliprange and cliprange_high are gspo's as well
  attune::gspo_options gspo;
  attune::cispo_options cispo;
  attune::sapo_options sapo;
  attune::ppo_trainer_options trainer;
};

/// An option with a name for every value.
template <class Value>
CLI::Option* add_choice(CLI::App& app, char const* name, Value& value,
                        std::vector<std::pair<std::string, Value>> const& names, char const* meaning) {
  std::vector<std::string> spelled;
  std::string standard;
  for (auto const& [text, meant] : names) {
    spelled.push_back(text);
    if (meant == value) standard = text;
  }
  auto const take = [&value, names](std::string const& given) {
    for (auto const& [text, meant] : names)
      if (text == given) value = meant;
  };
  CLI::Option* const option = app.add_option_function<std::string>(name, take, meaning);
  return option->check(CLI::IsMember(spelled))->default_str(standard)->group("PPO");
}

/// Adds them, and returns what is to be called after parsing: it refuses options that do not go together and settles
/// the defaults that hang on others. `o` is borrowed.
inline std::function<void()> add_ppo_options(CLI::App& app, ppo_program_options& o) {
  using attune::advantage_estimator, attune::kl_estimator, attune::kl_placement;
  using attune::loss_aggregation, attune::missing_eos;
  attune::ppo_trainer_options& t = o.trainer;
  auto const number = [&](char const* name, double& value, char const* meaning) {
    return app.add_option(name, value, meaning)->capture_default_str()->group("PPO");
  };
  auto const whole = [&](char const* name, std::size_t& value, char const* meaning) {
    return add_count(app, name, value, meaning)->group("PPO");
  };

  add_choice<advantage_estimator>(app, "--advantage", t.advantages,
                                  {{"gae", advantage_estimator::gae},
                                   {"rloo", advantage_estimator::rloo},
                                   {"grpo", advantage_estimator::grpo},
                                   {"dr_grpo", advantage_estimator::dr_grpo},
                                   {"reinforce_plus_plus", advantage_estimator::reinforce_plus_plus}},
                                  "gae has a critic; the others compare the responses to one prompt");
  auto* const generations =
      whole("--num-generations", t.rollout.num_generations, "responses per prompt; without a critic 4 if nothing is said");
  whole("--max-new-tokens", t.rollout.max_new_tokens, "longest response");
  number("--temperature", o.temperature, "of the policy that acts, learns and is held to the reference");
  whole("--top-k", t.rollout.top_k, "sample from the k likeliest tokens; 0: from all");
  number("--top-p", t.rollout.top_p, "sample from the likeliest tokens that make up this share");
  add_choice<missing_eos>(
      app, "--missing-eos", t.rollout.without_eos,
      {{"keep", missing_eos::keep}, {"subtract", missing_eos::subtract}, {"replace", missing_eos::replace}},
      "what becomes of the score of a response without an end");
  auto* const penalty =
      number("--missing-eos-penalty", t.rollout.missing_eos_penalty, "what is subtracted; replace: the score, negated");
  auto* const normalize = whole("--normalize-reward", o.normalize_reward,
                                "scores get mean 0 and deviation 1 over so many responses of the start; 0: they stay");

  number("--kl-coef", t.kl.kl_coef, "price of a nat of KL to the reference");
  auto* const placement =
      add_choice<kl_placement>(app, "--kl-placement", t.kl.placement,
                               {{"reward", kl_placement::reward}, {"loss", kl_placement::loss}}, "where it is charged");
  auto* const estimator = add_choice<kl_estimator>(
      app, "--kl-estimator", t.kl.estimator,
      {{"k1", kl_estimator::k1}, {"k2", kl_estimator::k2}, {"k3", kl_estimator::k3}}, "in the loss k2 if nothing is said, k3 if corrected");
  number("--kl-target", t.kl.target, "nats per response that --kl-coef is steered to; 0: it stays");
  auto* const horizon = number("--kl-horizon", t.kl.horizon, "responses in which --kl-coef may change by a fifth");

  auto* const bias = app.add_flag("--kl-bias-correction", t.kl.bias_correction,
                                  "KL in the loss times the ratio to the policy that drew the tokens")->group("PPO");

  add_choice<policy_loss>(app, "--loss", o.loss,
                          {{"ppo", policy_loss::ppo},
                           {"gspo", policy_loss::gspo},
                           {"cispo", policy_loss::cispo},
                           {"sapo", policy_loss::sapo}},
                          "what a token's ratio and advantage are worth");
  auto* const clip =
      number("--cliprange", o.ppo.cliprange, "room of a ratio to the policy that drew the tokens; gspo: 3e-4");
  auto* const clip_high =
      number("--cliprange-high", o.ppo.cliprange_high, "room above 1; 0: as --cliprange; gspo: 4e-4");
  auto* const dual_clip =
      number("--dual-clip", o.ppo.dual_clip, "bound on the ratio where the advantage is negative; 0: none");
  auto* const by_token =
      app.add_flag("--gspo-token", o.gspo.token_advantages, "a token's loss moves that token alone")->group("PPO");
  auto* const weight_bound = number("--epsilon-high", o.cispo.epsilon_high, "bound on a token's weight");
  auto* const tau_pos = number("--sapo-temperature-pos", o.sapo.sapo_temperature_pos, "where the advantage is above 0");
  auto* const tau_neg = number("--sapo-temperature-neg", o.sapo.sapo_temperature_neg, "elsewhere");
  auto* const resamples = whole("--max-resamples", t.max_resamples,
                                "rounds of further prompts for groups whose scores are all equal; 0: they stay");
  app.add_flag("--mask-truncated-completions", t.mask_truncated_completions, "no loss from responses without an end")
      ->group("PPO");
  whole("--overlong-buffer", t.rollout.overlong_buffer,
        "tokens before --max-new-tokens in which a penalty grows to --overlong-factor; 0: none");
  auto* const overlong_factor = number("--overlong-factor", t.rollout.overlong_factor, "unit of the scores");
  auto* const entropy = number("--entropy-coef", t.entropy_coef, "weight of an entropy bonus");
  whole("--ppo-epochs", t.num_ppo_epochs, "passes over the responses of an update");
  whole("--mini-batches", t.num_mini_batches, "optimiser steps per pass");
  number("--target-kl", t.target_kl, "an update ends when it has moved so far; 0: it does not");
  auto* const aggregation = add_choice<loss_aggregation>(
      app, "--aggregation", t.aggregation,
      {{"token_mean", loss_aggregation::token_mean},
       {"sequence_mean", loss_aggregation::sequence_mean},
       {"sequence_sum", loss_aggregation::sequence_sum},
       {"constant", loss_aggregation::constant}},
      "of tokens into a loss; constant divides by --max-new-tokens; gspo and sapo: sequence_mean");

  auto* const gamma = number("--gamma", t.gae.gamma, "discount per token");
  auto* const lam = number("--lam", t.gae.lam, "0: one-step advantages; 1: to the end of the response");
  auto* const whiten = app.add_flag("--whiten-rewards", t.whiten_rewards, "to variance 1")->group("PPO");
  auto* const value_clip = number("--cliprange-value", t.value.cliprange_value, "room of a value in an update; 0: any");
  auto* const value_weight = number("--vf-coef", t.vf_coef, "weight of the critic's loss");
  auto* const from = add_choice<bool>(app, "--critic-from", o.critic_from_policy, {{"reward", false}, {"policy", true}},
                                      "the model that the critic starts as");
  auto* const critic_rate = number("--critic-learning-rate", o.critic_learning_rate, "peak; 0: as --learning-rate");
  auto* const shared = app.add_flag("--shared-critic", o.shared_critic, "policy and critic on one trunk")->group("PPO");
  app.add_option("--samples", o.samples, "responses to show at the end")->check(not_negative)->capture_default_str();

  return [=, &o, &t] {
    auto const only = [](char const* when, bool applies, std::initializer_list<CLI::Option*> options) {
      for (CLI::Option const* const option : options)
        if (option->count() > 0 && !applies) throw std::invalid_argument(option->get_name() + ": only " + when);
    };
    bool const with_critic = t.advantages == advantage_estimator::gae;
    only("with --advantage gae, which has a critic", with_critic,
         {gamma, lam, whiten, value_clip, value_weight, from, critic_rate, shared});
    only("without --shared-critic", !o.shared_critic, {from, critic_rate, entropy});
    only("with --missing-eos subtract or replace", t.rollout.without_eos != missing_eos::keep, {penalty});
    only("with --kl-coef above 0", t.kl.kl_coef > 0.0, {placement, estimator, bias});
    only("with --kl-placement loss", t.kl.placement == kl_placement::loss, {bias});
    only("with --loss ppo or gspo", o.loss == policy_loss::ppo || o.loss == policy_loss::gspo, {clip, clip_high});
    only("with --loss ppo", o.loss == policy_loss::ppo, {dual_clip});
    only("with --loss gspo", o.loss == policy_loss::gspo, {by_token});
    only("with --loss cispo", o.loss == policy_loss::cispo, {weight_bound});
    only("with --loss sapo", o.loss == policy_loss::sapo, {tau_pos, tau_neg});
    only("without --advantage gae, whose responses are in no group", !with_critic, {resamples});
    only("with --overlong-buffer", t.rollout.overlong_buffer > 0, {overlong_factor});
    only("with --kl-target", t.kl.target > 0.0, {horizon});
    only("0, or 2 and more: one response has no deviation", o.normalize_reward != 1, {normalize});
    if (generations->count() == 0 && !with_critic) t.rollout.num_generations = 4;
    if (estimator->count() == 0 && t.kl.placement == kl_placement::loss)
      t.kl.estimator = t.kl.bias_correction ? kl_estimator::k3 : kl_estimator::k2;
    if (clip->count() > 0) o.gspo.cliprange = o.ppo.cliprange;
    if (clip_high->count() > 0) o.gspo.cliprange_high = o.ppo.cliprange_high;
    switch (o.loss) {
      case policy_loss::ppo: t.surrogate = o.ppo; break;
      case policy_loss::gspo: t.surrogate = o.gspo; break;
      case policy_loss::cispo: t.surrogate = o.cispo; break;
      case policy_loss::sapo: t.surrogate = o.sapo; break;
    }
    if (aggregation->count() == 0) t.aggregation = attune::paper_aggregation_of(t.surrogate);
    attune::validate_temperature(o.temperature);
  };
}

}  // namespace programs
