// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <attune/objective/pairwise/preference_loss.hpp>

/// The pairwise losses over a grid of their options: what the proofs run through.
struct loss_case {
  std::string objective;  ///< the name in the README's table
  attune::any_pair_loss loss;
  attune::pair_ratios ratios = {};
};

inline std::vector<loss_case> loss_grid() {
  using namespace attune;
  std::vector<loss_case> grid;
  auto const add = [&](char const* name, any_pair_loss loss) { grid.push_back({name, loss}); };
  for (double const beta : {0.01, 0.1, 1.0, 5.0}) {
    for (double const target : {0.0, 0.7}) {
      for (double const e : {0.0, 0.1, 0.5}) add("sigmoid", dpo_options{.beta = beta, .label_smoothing = e, .target_margin = target});
      for (double const e : {0.1, 0.4})
        add("robust", dpo_options{beta, e, dpo_smoothing::robust, target});
      add("sigmoid_norm", sigmoid_norm_options{beta, target});
    }
    add("hinge", hinge_options{beta});
    for (auto const length : {ipo_length::average, ipo_length::sum})
      add(length == ipo_length::average ? "ipo" : "ipo_sum", ipo_options{beta, length});
    for (double const e : {1e-3, 0.1, 0.5}) add("exo_pair", exo_options{beta, e});
    add("nca_pair", nca_options{beta});
    for (double const delta : {0.0, 0.4}) add("bco_pair", bco_pair_options{beta, delta});
    add("sppo_hard", sppo_options{beta});
    add("apo_zero", apo_options{beta, apo_anchor::zero});
    add("apo_down", apo_options{beta, apo_anchor::down});
    for (double const tau : {0.05, 0.5, 2.0}) add("discopop", discopop_options{beta, tau});
    for (double const gamma : {0.0, 1.375}) add("simpo", simpo_options{beta, gamma});
    for (double const alpha : {-0.5, 0.0, 0.25, 1.0}) add("alphapo", alphapo_options{beta, 0.1, alpha});
    for (double const e : {0.0, 0.2})
      for (double const cpo_alpha : {0.0, 1.0}) add("cpo", cpo_options{beta, e, cpo_alpha});
    add("orpo", orpo_options{beta});
  }
  for (auto const normalization : {sft_normalization::token, sft_normalization::sequence})
    add("sft", sft_term_options{normalization});

  std::vector<loss_case> const plain = grid;
  std::vector<f_divergence_options> const divergences{{f_divergence_type::forward_kl},
                                                      {f_divergence_type::js_divergence},
                                                      {f_divergence_type::alpha_divergence, -1.0},
                                                      {f_divergence_type::alpha_divergence, 0.5},
                                                      {f_divergence_type::alpha_divergence, 2.0}};
  for (named_pair_loss const& one : named_pair_losses())
    std::visit(
        [&](auto const& loss) {
          if (!loss.reads().divergence) return;
          for (f_divergence_options const& divergence : divergences)
            grid.push_back({"f_divergence", one.loss, {.divergence = divergence}});
        },
        one.loss);
  return grid;
}

/// f(options) with the options' own type; AOT, which has no objective of a pair, is left out.
template <class F>
void visit_pair_objective(attune::any_pair_loss const& loss, F&& f) {
  std::visit(
      [&](auto const& options) {
        if constexpr (attune::PairObjective<std::remove_cvref_t<decltype(options)>>) f(options);
      },
      loss);
}

/// The loss of a pair as one function of any kind of number, the divergence included.
template <class T, class O>
T value_of(T chosen, T rejected, double chosen_tokens, double rejected_tokens, O const& options,
           attune::pair_ratios const& ratios) {
  if (options.reads().divergence) {
    chosen = attune::f_divergence_score(chosen, ratios.divergence).value;
    rejected = attune::f_divergence_score(rejected, ratios.divergence).value;
  }
  return pair_objective(attune::response_pair<T>{chosen, rejected, T(chosen_tokens), T(rejected_tokens)}, options).value;
}
