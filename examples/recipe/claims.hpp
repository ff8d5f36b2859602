// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>

#include <attune/data/demonstration_data.hpp>
#include <attune/data/preference_data.hpp>
#include <attune/model/decoder.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/sft_trainer.hpp>

#include "figures.hpp"
#include "process_memory.hpp"
#include "scoring.hpp"

/// What is said of SFT, DPO and PPO, beside what this run measured.
namespace recipe {

/// What training holds in memory at most, from before `train` is called: model, gradients, optimiser, activations.
/// `train` takes a report sink.
template <class Train>
double training_memory_mb(Train&& train) {
  double const before = heap_in_use_mb();
  double most = before;
  train([&](attune::report const&) { most = std::max(most, heap_in_use_mb()); });
  return most - before;
}

/// Of DPO with cached reference log-probabilities, over that of SFT, both on the same sequences: the chosen and rejected
/// responses of `count` pairs, in one micro-batch.
inline double memory_of_dpo_over_sft(attune::decoder<float> const& model, attune::preference_data const& pairs, std::size_t count) {
  attune::preference_data few;
  attune::demonstration_data sides;
  for (std::size_t i = 0; i < std::min(count, pairs.size()); ++i) {
    few.push_back(pairs[i]);
    sides.push_back({.prompt = pairs[i].prompt, .completion = pairs[i].chosen});
    sides.push_back({.prompt = pairs[i].prompt, .completion = pairs[i].rejected});
  }
  auto const loop = [&](std::size_t examples) {
    return attune::loop_options{.max_steps = 3, .batch_size = examples, .micro_batch_tokens = 0};
  };
  double const sft = training_memory_mb([&](auto const& sink) {
    attune::decoder<float> policy = model;
    attune::adamw<float> adamw;
    attune::sft_trainer trainer{policy, adamw, attune::sft_trainer_options{.loop = loop(sides.size())}};
    trainer.fit(sides, sink);
  });
  double const dpo = training_memory_mb([&](auto const& sink) {
    attune::decoder<float> policy = model;
    attune::reference_cache const reference = attune::cached_reference("", policy, few);
    attune::adamw<float> adamw;
    attune::dpo_trainer trainer{policy, reference, adamw, attune::dpo_trainer_options{.loop = loop(few.size())}};
    trainer.fit(few, sink);
  });
  return dpo / sft;
}

inline arm_figures const* find_arm(world_figures const& f, std::string_view name) {
  for (arm_figures const& arm : f.arms)
    if (arm.name == name) return &arm;
  return nullptr;
}

/// The claims whose arms were trained.
inline std::vector<claim> check_claims(world_figures const& f, attune::decoder<float> const& model,
                                       attune::preference_data const& pairs, std::size_t pairs_of_memory_test) {
  std::vector<claim> claims;
  arm_figures const *const sft = find_arm(f, "sft"), *const dpo = find_arm(f, "dpo"), *const ppo = find_arm(f, "ppo"),
                    *const no_kl = find_arm(f, "ppo_no_kl");
  if (dpo != nullptr) {
    double const memory = memory_of_dpo_over_sft(model, pairs, pairs_of_memory_test);
    claims.push_back({"dpo_memory", "DPO needs the memory of supervised training",
                      number_text(memory) + " times SFT's at equal tokens, reference log-probabilities cached", memory, memory <= 1.10});
    double const compute = dpo->training.flops / sft->training.flops;
    claims.push_back({"dpo_compute", "DPO costs 2 to 5 times the compute of SFT, or less",
                      number_text(compute) + " times SFT's FLOPs, pass of the reference included", compute, compute <= 5.0});
  }
  if (dpo != nullptr && ppo != nullptr) {
    auto const of_a_response = [](arm_figures const& arm) { return arm.training.flops / static_cast<double>(arm.responses); };
    double const compute = of_a_response(*ppo) / of_a_response(*dpo);
    claims.push_back({"ppo_compute", "PPO costs several times more than DPO",
                      number_text(compute) + " times DPO's FLOPs for every response learnt from", compute, compute >= 2.0});
    claims.push_back({"ppo_models", "PPO holds several models",
                      std::to_string(ppo->model_copies) + " models (policy, reference, reward, critic); DPO holds " + std::to_string(dpo->model_copies),
                      static_cast<double>(ppo->model_copies), ppo->model_copies >= 3 && dpo->model_copies == 1});
  }
  if (ppo != nullptr)
    claims.push_back({"ppo_improves", "PPO aligns: better than SFT by the truth",
                      "wins " + number_text(100.0 * ppo->win_rate_vs_sft) + " % against SFT; true reward " + number_text(ppo->true_reward) +
                          " against " + number_text(sft->true_reward),
                      ppo->win_rate_vs_sft, ppo->win_rate_vs_sft > 0.5 && ppo->true_reward > sft->true_reward});
  if (ppo != nullptr && no_kl != nullptr)
    claims.push_back({"kl_prevents_collapse", "Without the KL penalty the policy exploits the reward model",
                      "without it, learned reward " + number_text(no_kl->learned_reward) + " (with: " + number_text(ppo->learned_reward) +
                          "), true reward " + number_text(no_kl->true_reward) + " (" + number_text(ppo->true_reward) + "), " +
                          number_text(no_kl->phrasings) + " phrasings in use (" + number_text(ppo->phrasings) + ")",
                      no_kl->learned_reward - ppo->learned_reward,
                      no_kl->learned_reward > ppo->learned_reward &&
                          (no_kl->true_reward < ppo->true_reward || no_kl->phrasings < ppo->phrasings)});
  return claims;
}

}  // namespace recipe
