// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <concepts>
#include <functional>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/kto_trainer.hpp>
#include <attune/train/rollout_options.hpp>

#include "training_program.hpp"

/// The command line of dpo: a loss of pairs by name, or a weighted sum of some, or one of single responses, and what
/// can be said of them.
namespace programs {

struct preference_program_options {
  std::string reward;                          ///< online: the model that judges; empty: learn from the data's pairs
  attune::rollout_options rollout{.num_generations = 2, .max_new_tokens = 64};  ///< online: how responses are drawn
  attune::dpo_trainer_options pairwise;
  attune::kto_trainer_options unpaired;
  bool single_responses = false;  ///< train by `unpaired`, and not by `pairwise`
  bool feedback = false;          ///< the data are judged responses, and not pairs
};

struct named_unpaired_loss {
  char const* name;
  attune::unpaired_options objective;
};

inline std::array<named_unpaired_loss, 3> named_unpaired_losses() {
  return {{{"kto", attune::kto_options{}},
           {"bco", attune::bco_options{}},
           {"apo_zero_unpaired", attune::apo_zero_unpaired_options{}}}};
}

/// Reads --loss into `o`.
inline void choose_loss(std::string const& text, preference_program_options& o) {
  for (named_unpaired_loss const& known : named_unpaired_losses()) {
    if (text == known.name) {
      o.unpaired.objective = known.objective;
      o.single_responses = true;
      return;
    }
    for (std::string const& item : CLI::detail::split(text, ','))
      if (item.substr(0, item.find(':')) == known.name)
        throw std::invalid_argument("--loss " + text + ": " + known.name +
                                    " is a loss of single responses, not of pairs: it stands alone, without a weight");
  }
  try {
    o.pairwise.losses = attune::parse_pair_losses(text);
  } catch (attune::contract_violation const& refusal) {
    throw std::invalid_argument(std::string(refusal.what()) + "; of single responses: kto bco apo_zero_unpaired");
  }
}

/// Calls f(name, field) for every option of a loss, of pairs or of single responses.
template <class Loss, class F>
void for_each_field(Loss& loss, F const& f) {
  attune::for_each_option(loss, f);
  if constexpr (requires { loss.desirable_weight; }) {
    f("desirable_weight", loss.desirable_weight);
    f("undesirable_weight", loss.undesirable_weight);
  }
}

/// A number that some of the losses have.
struct loss_number {
  char const* flag;
  char const* field;  ///< in the losses' options
  char const* meaning;
};

inline constexpr std::array<loss_number, 10> loss_numbers{{
    {"--beta", "beta", "strength of the pull towards the reference, or scale of the reward"},
    {"--label-smoothing", "label_smoothing", "probability that a label is flipped"},
    {"--target-margin", "target_margin", "by how much the chosen reward is to exceed the rejected one"},
    {"--delta", "delta", "bco_pair: shift of the reward"},
    {"--discopop-tau", "tau", "discopop: width of the passage between its two losses"},
    {"--simpo-gamma", "gamma", "simpo, alphapo: target margin"},
    {"--alphapo-alpha", "alpha", "alphapo: bend of the reward"},
    {"--cpo-alpha", "cpo_alpha", "cpo: weight of the chosen response's likelihood"},
    {"--desirable-weight", "desirable_weight", "kto, apo_zero_unpaired: weight of a desirable response"},
    {"--undesirable-weight", "undesirable_weight", "kto, apo_zero_unpaired: weight of an undesirable response"},
}};

/// Adds them to `o`, and returns what is to be called after parsing: it refuses options that the losses have no use
/// for, and takes over the training loop of `run`. Both are borrowed.
inline std::function<void()> add_preference_options(CLI::App& app, run_options const& run,
                                                    preference_program_options& o) {
  struct given {
    std::string losses = "sigmoid", divergence = "reverse_kl", normalization = "token";
    std::array<double, loss_numbers.size()> numbers{};
    double f_alpha = attune::f_divergence_options{}.alpha;
    bool sync = false;
    attune::reference_sync_options sync_options;
  };
  auto const g = std::make_shared<given>();
  auto const names_of = [](auto const& losses) {
    std::vector<std::string> names;
    for (auto const& known : losses) names.emplace_back(known.name);
    return CLI::detail::join(names, ", ");
  };
  app.add_option("--loss", g->losses,
                 "of pairs: name, or name:weight,name:weight,...; of " + names_of(attune::named_pair_losses()) +
                     ". Of single responses, each pair's two or those of --feedback: " +
                     names_of(named_unpaired_losses()) +
                     ", alone; --batch-size counts responses, and the reference is a copy of the model in memory, not "
                     "a cache")
      ->capture_default_str()->group("Loss");
  auto* const feedback =
      app.add_flag("--feedback", o.feedback,
                   "rows are single responses, each with \"label\": true (desirable) or false")
          ->group("Loss");
  std::vector<CLI::Option*> numbers;
  for (std::size_t i = 0; i < loss_numbers.size(); ++i)
    numbers.push_back(app.add_option(loss_numbers[i].flag, g->numbers[i],
                                     std::string(loss_numbers[i].meaning) + " (default: its paper's)")
                          ->group("Loss"));
  auto* const normalization =
      app.add_option("--sft-normalization", g->normalization, "sft: mean over tokens of the step, or over responses")
          ->check(CLI::IsMember({"token", "sequence"}))->capture_default_str()->group("Loss");
  auto* const divergence =
      app.add_option("--f-divergence", g->divergence, "what ties the policy to the reference")
          ->check(CLI::IsMember({"reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"}))
          ->capture_default_str()->group("Loss");
  auto* const f_alpha =
      app.add_option("--f-alpha", g->f_alpha, "order of the alpha divergence")->capture_default_str()->group("Loss");
  auto* const reference_free =
      app.add_flag("--reference-free", o.pairwise.ratios.reference_free, "a uniform reference")->group("Loss");
  auto* const ld_alpha =
      app.add_option("--ld-alpha", o.pairwise.ld_alpha,
                     "weight of the tokens by which one response is longer; 1: as all others")
          ->capture_default_str()->group("Loss");

  auto* const wpo = app.add_flag("--wpo", o.pairwise.use_weighting, "weigh pairs by how likely the policy is to write them")
                        ->group("Loss");
  auto* const sync = app.add_flag("--sync-reference", g->sync, "TR-DPO: the reference follows the policy; no cache")
                         ->group("Reference");
  auto* const sync_alpha = app.add_option("--sync-alpha", g->sync_options.mixup_alpha, "the policy's share when it does")
                               ->capture_default_str()->group("Reference");
  auto* const sync_steps = add_count(app, "--sync-steps", g->sync_options.sync_steps, "optimiser steps from one move to the next")
                               ->group("Reference");
  app.add_option("--reward", o.reward, "online DPO: pairs are drawn from the policy for the data's prompts, and ordered by "
                                       "this model.safetensors of the program reward_model; --valid stays pairs")
      ->group("Online");
  auto* const generations =
      add_count(app, "--num-generations", o.rollout.num_generations, "responses per prompt, of which best and worst are the pair")
          ->group("Online");
  auto* const new_tokens = add_count(app, "--max-new-tokens", o.rollout.max_new_tokens, "longest response")->group("Online");

  return [=, &run, &o] {
    choose_loss(g->losses, o);
    if (g->sync) {
      validate(g->sync_options);
      o.pairwise.sync_ref_model = g->sync_options;
    }
    for (CLI::Option const* const option : {sync_alpha, sync_steps})
      if (option->count() > 0 && !g->sync) throw std::invalid_argument(option->get_name() + ": only with --sync-reference");
    for (CLI::Option const* const option : {generations, new_tokens})
      if (option->count() > 0 && o.reward.empty()) throw std::invalid_argument(option->get_name() + ": only with --reward");
    if (!o.reward.empty() && o.single_responses)
      throw std::invalid_argument("--reward: only with a loss of pairs, not --loss " + g->losses);
    auto const only = [&](char const* losses, bool applies, std::initializer_list<CLI::Option*> options) {
      for (CLI::Option const* const option : options)
        if (option->count() > 0 && !applies)
          throw std::invalid_argument(option->get_name() + ": only with a loss of " + losses + ", not --loss " +
                                      g->losses);
    };
    only("single responses", o.single_responses, {feedback});
    only("pairs", !o.single_responses, {divergence, f_alpha, reference_free, ld_alpha, wpo, sync});
    // Calls set(field) for the fields of that name; an option that no loss has is refused.
    auto const apply = [&](CLI::Option const* option, std::string const& field, auto const& set) {
      if (option->count() == 0) return;
      bool used = false;
      auto const set_in = [&](auto& loss) {
        for_each_field(loss, [&](std::string const& name, auto& value) {
          if (name == field) used = set(value) || used;
        });
      };
      if (o.single_responses) std::visit(set_in, o.unpaired.objective);
      else for (attune::weighted_pair_loss& term : o.pairwise.losses) std::visit(set_in, term.loss);
      if (!used) throw std::invalid_argument(option->get_name() + ": no loss in --loss " + g->losses + " has it");
    };
    for (std::size_t i = 0; i < loss_numbers.size(); ++i)
      apply(numbers[i], loss_numbers[i].field, [&](auto& value) {
        if constexpr (std::same_as<std::remove_cvref_t<decltype(value)>, double>) value = g->numbers[i];
        return std::same_as<std::remove_cvref_t<decltype(value)>, double>;
      });
    apply(normalization, "normalization", [&](auto& value) {
      if constexpr (std::same_as<std::remove_cvref_t<decltype(value)>, attune::sft_normalization>) {
        value = g->normalization == "token" ? attune::sft_normalization::token : attune::sft_normalization::sequence;
        return true;
      }
      return false;
    });
    using attune::f_divergence_type;
    o.pairwise.ratios.divergence.type = g->divergence == "forward_kl"         ? f_divergence_type::forward_kl
                               : g->divergence == "js_divergence"    ? f_divergence_type::js_divergence
                               : g->divergence == "alpha_divergence" ? f_divergence_type::alpha_divergence
                                                                     : f_divergence_type::reverse_kl;
    if (f_alpha->count() > 0 && o.pairwise.ratios.divergence.type != f_divergence_type::alpha_divergence)
      throw std::invalid_argument("--f-alpha: only with --f-divergence alpha_divergence");
    o.pairwise.ratios.divergence.alpha = g->f_alpha;
    o.pairwise.loop = o.unpaired.loop = run.loop;
    if (o.single_responses) {
      validate(o.unpaired);
    } else {
      validate(attune::preference_options{.losses = o.pairwise.losses, .ratios = o.pairwise.ratios});
      attune::validate_ld_alpha(o.pairwise.ld_alpha);
    }
  };
}

}  // namespace programs
