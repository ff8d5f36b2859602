// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <concepts>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <attune/train/dpo_trainer.hpp>

#include "training_program.hpp"

/// The command line of dpo: a loss by name, or a weighted sum of some, and what can be said of them.
namespace programs {

/// A number that some of the losses have.
struct loss_number {
  char const* flag;
  char const* field;  ///< in the losses' options
  char const* meaning;
};

inline constexpr std::array<loss_number, 8> loss_numbers{{
    {"--beta", "beta", "strength of the pull towards the reference, or scale of the reward"},
    {"--label-smoothing", "label_smoothing", "probability that a label is flipped"},
    {"--target-margin", "target_margin", "by how much the chosen reward is to exceed the rejected one"},
    {"--delta", "delta", "bco_pair: shift of the reward"},
    {"--discopop-tau", "tau", "discopop: width of the passage between its two losses"},
    {"--simpo-gamma", "gamma", "simpo, alphapo: target margin"},
    {"--alphapo-alpha", "alpha", "alphapo: bend of the reward"},
    {"--cpo-alpha", "cpo_alpha", "cpo: weight of the chosen response's likelihood"},
}};

/// Adds them to `o`, and returns what is to be called after parsing: it refuses options that the losses have no use for.
/// `o` is borrowed.
inline std::function<void()> add_preference_options(CLI::App& app, attune::dpo_trainer_options& o) {
  struct given {
    std::string losses = "sigmoid", divergence = "reverse_kl", normalization = "token";
    std::array<double, loss_numbers.size()> numbers{};
    double f_alpha = attune::f_divergence_options{}.alpha;
  };
  auto const g = std::make_shared<given>();
  std::vector<std::string> names;
  for (attune::named_pair_loss const& known : attune::named_pair_losses()) names.emplace_back(known.name);
  app.add_option("--loss", g->losses, "name, or name:weight,name:weight,...; of " + CLI::detail::join(names, ", "))
      ->capture_default_str()->group("Loss");
  std::vector<CLI::Option*> numbers;
  for (std::size_t i = 0; i < loss_numbers.size(); ++i)
    numbers.push_back(app.add_option(loss_numbers[i].flag, g->numbers[i], std::string(loss_numbers[i].meaning) +
                                                                           " (default: its paper's)")
                          ->group("Loss"));
  auto* const normalization =
      app.add_option("--sft-normalization", g->normalization, "sft: mean over tokens of the step, or over responses")
          ->check(CLI::IsMember({"token", "sequence"}))->capture_default_str()->group("Loss");
  app.add_option("--f-divergence", g->divergence, "what ties the policy to the reference")
      ->check(CLI::IsMember({"reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"}))
      ->capture_default_str()->group("Loss");
  auto* const f_alpha =
      app.add_option("--f-alpha", g->f_alpha, "order of the alpha divergence")->capture_default_str()->group("Loss");
  app.add_flag("--reference-free", o.ratios.reference_free, "a uniform reference")->group("Loss");
  app.add_option("--ld-alpha", o.ld_alpha, "weight of the tokens by which one response is longer; 1: as all others")
      ->capture_default_str()->group("Loss");

  return [=, &o] {
    o.losses = attune::parse_pair_losses(g->losses);
    // Calls set(field) for the fields of that name; an option that no loss has is refused.
    auto const apply = [&](CLI::Option const* option, std::string const& field, auto const& set) {
      if (option->count() == 0) return;
      bool used = false;
      for (attune::weighted_pair_loss& term : o.losses)
        std::visit(
            [&](auto& loss) {
              attune::for_each_option(loss, [&](std::string const& name, auto& value) {
                if (name == field) used = set(value) || used;
              });
            },
            term.loss);
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
    o.ratios.divergence.type = g->divergence == "forward_kl"         ? f_divergence_type::forward_kl
                               : g->divergence == "js_divergence"    ? f_divergence_type::js_divergence
                               : g->divergence == "alpha_divergence" ? f_divergence_type::alpha_divergence
                                                                     : f_divergence_type::reverse_kl;
    if (f_alpha->count() > 0 && o.ratios.divergence.type != f_divergence_type::alpha_divergence)
      throw std::invalid_argument("--f-alpha: only with --f-divergence alpha_divergence");
    o.ratios.divergence.alpha = g->f_alpha;
    validate(attune::preference_options{.losses = o.losses, .ratios = o.ratios});
    attune::validate_ld_alpha(o.ld_alpha);
  };
}

}  // namespace programs
