// SPDX-License-Identifier: MIT
#pragma once

#include <attune/model/decoder.hpp>
#include <attune/model/scalar_head.hpp>
#include <attune/model/value_head.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/ppo_trainer.hpp>
#include <attune/train/reward_functions.hpp>

#include "corpus.hpp"
#include "figures.hpp"
#include "learning_curves.hpp"
#include "stage_meter.hpp"
#include "stage_options.hpp"

/// PPO on the prompts of the preference pairs, against the learned reward model, with a critic that starts as that model.
namespace recipe {

struct reinforcement_options {
  stage_options updates{.learning_rate = 3e-4, .batch_size = 128, .epochs = 0.5, .warmup_steps = 5};  ///< of prompts
  double kl_coef = 0.1;               ///< price of a nat, in deviations of SFT's reward
  std::size_t num_ppo_epochs = 2;
  std::size_t num_mini_batches = 2;
  double gae_lam = 0.95;
  std::size_t longest_response = 16;  ///< tokens
  double missing_eos_penalty = 2.0;   ///< the score of what does not end, negated
  std::size_t scale_responses = 512;  ///< by which SFT's mean reward and deviation are measured
};

/// Mean and deviation of the reward over the SFT model's own responses.
inline attune::reward_statistics reward_scale(attune::decoder<float>& sft, attune::scalar_head<float>& reward, lexicon const& words,
                                              attune::preference_data const& prompts, reinforcement_options const& o, std::uint64_t seed) {
  return attune::measure_reward(sft, reward, prompts, o.scale_responses,
                                {.max_new_tokens = o.longest_response, .stop_tokens = {words.id(end_mark)}, .seed = seed + 1});
}

/// Trains `policy`, which is as `sft` is. Adds curves to the figures.
inline costs reinforce(std::string const& name, attune::decoder<float>& policy, attune::decoder<float> const& sft,
                       attune::scalar_head<float>& reward, attune::reward_statistics scale, lexicon const& words,
                       attune::preference_data const& prompts, reinforcement_options const& o, std::uint64_t seed,
                       checkpoint_place const& checkpoints, world_figures& figures) {
  attune::value_head<float> critic(reward);
  auto const flops = [&] { return policy.flops() + sft.flops() + reward.flops() + critic.flops(); };
  stage_meter const meter(flops());
  learning_curves sink(name);
  attune::normalized_reward score(std::ref(reward), scale);
  attune::adamw<float> adamw({.beta2 = 0.95, .epsilon = 1e-5}), critic_adamw({.beta2 = 0.95, .epsilon = 1e-5});
  attune::ppo_trainer trainer{policy, sft, score, attune::separate_critic{critic, critic_adamw}, adamw,
                              attune::ppo_trainer_options{
                                  .loop = loop_of(o.updates, prompts.size(), seed, checkpoints, name),
                                  .rollout = {.max_new_tokens = o.longest_response,
                                              .stop_tokens = {words.id(end_mark)},
                                              .without_eos = attune::missing_eos::replace,
                                              .missing_eos_penalty = o.missing_eos_penalty},
                                  .kl = {.kl_coef = o.kl_coef},
                                  .num_ppo_epochs = o.num_ppo_epochs,
                                  .num_mini_batches = o.num_mini_batches,
                                  .gae = {.lam = o.gae_lam}}};
  trainer.fit(prompts, sink);
  figures.reward_curves.push_back(sink.score(name, figures.arms.size()));
  figures.kl_curves.push_back(sink.kl(name, figures.arms.size()));
  return meter.read(flops());
}

}  // namespace recipe
