// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <attune/core/checksum.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/pairwise/alphapo.hpp>
#include <attune/objective/pairwise/aot.hpp>
#include <attune/objective/pairwise/apo.hpp>
#include <attune/objective/pairwise/bco_pair.hpp>
#include <attune/objective/pairwise/cpo.hpp>
#include <attune/objective/pairwise/discopop.hpp>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/objective/pairwise/exo.hpp>
#include <attune/objective/pairwise/hinge.hpp>
#include <attune/objective/pairwise/ipo.hpp>
#include <attune/objective/pairwise/nca.hpp>
#include <attune/objective/pairwise/orpo.hpp>
#include <attune/objective/pairwise/pair_loss.hpp>
#include <attune/objective/pairwise/sft_term.hpp>
#include <attune/objective/pairwise/sigmoid_norm.hpp>
#include <attune/objective/pairwise/simpo.hpp>
#include <attune/objective/pairwise/sppo.hpp>

/// Any weighted sum of the pairwise losses, chosen when the program runs (MPO of Wang et al. 2024 is one:
/// 0.8 sigmoid + 0.2 bco_pair + sft). Whoever knows the loss at compile time needs its own file and pair_loss alone.
namespace attune {

using any_pair_loss =
    std::variant<dpo_options, hinge_options, ipo_options, sigmoid_norm_options, exo_options, nca_options,
                 bco_pair_options, sppo_options, aot_options, apo_options, discopop_options, sft_term_options,
                 simpo_options, alphapo_options, cpo_options, orpo_options>;

/// One term of a preference_loss.
struct weighted_pair_loss {
  any_pair_loss loss = dpo_options{};
  double weight = 1.0;  ///< > 0
};

/// The terms of a preference_loss: one loss, or a list of weighted ones.
class pair_loss_sum {
 public:
  pair_loss_sum() : pair_loss_sum(dpo_options{}) {}
  template <class O>
    requires std::constructible_from<any_pair_loss, O>
  pair_loss_sum(O loss) : terms_{{any_pair_loss(std::move(loss)), 1.0}} {}
  pair_loss_sum(std::vector<weighted_pair_loss> terms) : terms_(std::move(terms)) {}
  pair_loss_sum(std::initializer_list<weighted_pair_loss> terms) : terms_(terms) {}

  std::size_t size() const noexcept { return terms_.size(); }
  auto begin() const noexcept { return terms_.begin(); }
  auto end() const noexcept { return terms_.end(); }
  auto begin() noexcept { return terms_.begin(); }
  auto end() noexcept { return terms_.end(); }

 private:
  std::vector<weighted_pair_loss> terms_;
};

struct preference_options {
  pair_loss_sum losses = {};
  pair_ratios ratios = {};
};

/// What all terms read, together.
[[nodiscard]] inline pair_inputs inputs_of(preference_options const& o) {
  pair_inputs all{.reference = false};
  for (weighted_pair_loss const& term : o.losses)
    std::visit(
        [&](auto const& loss) {
          pair_inputs const reads = loss.reads();
          all.reference = all.reference || (reads.reference && !o.ratios.reference_free);
          all.lengths = all.lengths || reads.lengths;
          all.per_chosen_token = all.per_chosen_token || reads.per_chosen_token;
        },
        term.loss);
  return all;
}

/// Whether a term speaks of the chosen response's likelihood on its own.
[[nodiscard]] inline bool has_likelihood(preference_options const& o) noexcept {
  for (weighted_pair_loss const& term : o.losses)
    if (std::holds_alternative<sft_term_options>(term.loss) || std::holds_alternative<cpo_options>(term.loss) ||
        std::holds_alternative<orpo_options>(term.loss))
      return true;
  return false;
}

/// The scale of the implied reward that reports speak of: the beta of the first term that has one; 1 if none has.
[[nodiscard]] inline double reward_scale(preference_options const& o) {
  for (weighted_pair_loss const& term : o.losses) {
    double const beta = std::visit(
        [](auto const& loss) {
          if constexpr (requires { loss.beta; }) return loss.beta;
          else return 0.0;
        },
        term.loss);
    if (beta > 0.0) return beta;
  }
  return 1.0;
}

/// Calls f(name, field) for every option of a loss, named as in its struct: what checkpoints and command lines go
/// through.
template <class O, class F>
void for_each_option(O& loss, F&& f) {
  if constexpr (requires { loss.beta; }) f("beta", loss.beta);
  if constexpr (requires { loss.label_smoothing; }) f("label_smoothing", loss.label_smoothing);
  if constexpr (requires { loss.smoothing; }) f("smoothing", loss.smoothing);
  if constexpr (requires { loss.target_margin; }) f("target_margin", loss.target_margin);
  if constexpr (requires { loss.length; }) f("length", loss.length);
  if constexpr (requires { loss.delta; }) f("delta", loss.delta);
  if constexpr (requires { loss.comparison; }) f("comparison", loss.comparison);
  if constexpr (requires { loss.anchor; }) f("anchor", loss.anchor);
  if constexpr (requires { loss.tau; }) f("tau", loss.tau);
  if constexpr (requires { loss.normalization; }) f("normalization", loss.normalization);
  if constexpr (requires { loss.gamma; }) f("gamma", loss.gamma);
  if constexpr (requires { loss.alpha; }) f("alpha", loss.alpha);
  if constexpr (requires { loss.cpo_alpha; }) f("cpo_alpha", loss.cpo_alpha);
}

/// Folds what shapes the loss into a checksum.
inline void describe(preference_options const& o, checksum64& sum) {
  for (weighted_pair_loss const& term : o.losses) {
    sum.update_number(term.weight).update_number(static_cast<std::uint64_t>(term.loss.index()));
    std::visit(
        [&](auto const& loss) {
          for_each_option(loss, [&](char const*, auto const& field) {
            if constexpr (std::floating_point<std::remove_cvref_t<decltype(field)>>) sum.update_number(field);
            else sum.update_number(static_cast<std::uint64_t>(field));
          });
        },
        term.loss);
  }
  sum.update_number(static_cast<std::uint64_t>(o.ratios.divergence.type)).update_number(o.ratios.divergence.alpha);
  sum.update_number(static_cast<std::uint64_t>(o.ratios.reference_free));
}

/// Throws contract_violation naming field and value. An f-divergence or reference_free must act on every term that has
/// a reference, and on one at least.
inline void validate(preference_options const& o) {
  expects(o.losses.size() > 0, "preference_options.losses: at least one");
  bool divergence_acts = false, reference_acts = false;
  for (weighted_pair_loss const& term : o.losses) {
    expects(term.weight > 0.0 && term.weight <= (std::numeric_limits<double>::max)(),
            "preference_options.losses: a weight > 0 and finite", term.weight);
    std::visit(
        [&](auto const& loss) {
          validate(loss);
          divergence_acts = divergence_acts || loss.reads().divergence;
          reference_acts = reference_acts || loss.reads().reference;
        },
        term.loss);
  }
  validate(o.ratios.divergence);
  for (weighted_pair_loss const& term : o.losses)
    std::visit(
        [&](auto const& loss) {
          if (loss.reads().reference) validate(o.ratios, loss);
        },
        term.loss);
  expects(o.ratios.divergence.type == f_divergence_type::reverse_kl || divergence_acts,
          "an f-divergence only with a loss of the difference of two implied rewards");
  expects(!o.ratios.reference_free || reference_acts, "reference_free only with a loss that has a reference");
}

/// The sum as one loss of a batch: sum over terms of weight * pair_loss. Keeps its scratch, so it allocates only when a
/// batch has more pairs than any before. Expectations and errors as pair_loss has them.
class preference_loss {
 public:
  explicit preference_loss(preference_options options = {}) : options_(std::move(options)) { validate(options_); }

  preference_options const& options() const noexcept { return options_; }
  pair_inputs inputs() const { return inputs_of(options_); }

  /// `totals` of the whole step; see pair_totals. Slopes may be the memory of the log-probabilities they belong to.
  template <class T>
  T operator()(pair_logps<T> logps, pair_slopes<T> slopes, pair_totals totals = {}) {
    std::size_t const pairs = logps.chosen.size();
    expects(slopes.chosen.size() == pairs, "preference_loss: slopes.chosen.size() == chosen.size()",
            slopes.chosen.size());
    expects(slopes.rejected.size() == pairs, "preference_loss: slopes.rejected.size() == chosen.size()",
            slopes.rejected.size());
    for (auto* const values : {&chosen_, &rejected_, &sum_chosen_, &sum_rejected_}) values->assign(pairs, 0.0);
    for (auto* const values : {&policy_chosen_, &policy_rejected_, &ref_chosen_, &ref_rejected_}) values->clear();
    pair_logps<double> wide{.chosen = widened(logps.chosen, policy_chosen_),
                            .rejected = widened(logps.rejected, policy_rejected_),
                            .ref_chosen = widened(logps.ref_chosen, ref_chosen_),
                            .ref_rejected = widened(logps.ref_rejected, ref_rejected_),
                            .chosen_tokens = logps.chosen_tokens,
                            .rejected_tokens = logps.rejected_tokens,
                            .weights = logps.weights};
    double loss = 0.0;
    for (weighted_pair_loss const& term : options_.losses) {
      double const value = std::visit([&](auto const& one) { return term_loss(one, wide, totals); }, term.loss);
      loss = saturate_cast<double>(loss + saturate_cast<double>(term.weight * value));
      for (std::size_t i = 0; i < pairs; ++i) {
        sum_chosen_[i] = saturate_cast<double>(sum_chosen_[i] + saturate_cast<double>(term.weight * chosen_[i]));
        sum_rejected_[i] = saturate_cast<double>(sum_rejected_[i] + saturate_cast<double>(term.weight * rejected_[i]));
      }
    }
    for (std::size_t i = 0; i < pairs; ++i) {
      slopes.chosen[i] = saturate_cast<T>(sum_chosen_[i]);
      slopes.rejected[i] = saturate_cast<T>(sum_rejected_[i]);
    }
    return saturate_cast<T>(loss);
  }

 private:
  template <class T>
  static std::span<double const> widened(std::span<T const> from, std::vector<double>& to) {
    if constexpr (std::same_as<T, double>) {
      return from;
    } else {
      to.assign(from.begin(), from.end());
      return to;
    }
  }

  template <class O>
  double term_loss(O const& one, pair_logps<double> const& logps, pair_totals totals) {
    pair_ratios const ratios = one.reads().reference ? options_.ratios : pair_ratios{};
    pair_slopes<double> const slopes{.chosen = chosen_, .rejected = rejected_};
    if constexpr (std::same_as<O, aot_options>) return aot_loss(logps, slopes, one, aot_, totals, ratios);
    else return pair_loss(logps, slopes, one, totals, ratios);
  }

  preference_options options_;
  aot_workspace aot_;
  std::vector<double> policy_chosen_, policy_rejected_, ref_chosen_, ref_rejected_;
  std::vector<double> chosen_, rejected_, sum_chosen_, sum_rejected_;
};

/// A loss by the name that it has on a command line, with its paper's defaults.
struct named_pair_loss {
  std::string_view name;
  any_pair_loss loss;
};

/// All of them, in the order of the README's table.
[[nodiscard]] inline std::array<named_pair_loss, 20> named_pair_losses() {
  return {{{"sigmoid", dpo_options{}},
           {"robust", dpo_options{.label_smoothing = 0.1, .smoothing = dpo_smoothing::robust}},
           {"hinge", hinge_options{}},
           {"ipo", ipo_options{}},
           {"ipo_sum", ipo_options{.length = ipo_length::sum}},
           {"sigmoid_norm", sigmoid_norm_options{}},
           {"exo_pair", exo_options{}},
           {"nca_pair", nca_options{}},
           {"bco_pair", bco_pair_options{}},
           {"sppo_hard", sppo_options{}},
           {"aot", aot_options{}},
           {"aot_unpaired", aot_options{.comparison = aot_comparison::unpaired}},
           {"apo_zero", apo_options{.anchor = apo_anchor::zero}},
           {"apo_down", apo_options{.anchor = apo_anchor::down}},
           {"discopop", discopop_options{}},
           {"sft", sft_term_options{}},
           {"cpo", cpo_options{}},
           {"simpo", simpo_options{}},
           {"alphapo", alphapo_options{}},
           {"orpo", orpo_options{}}}};
}

/// "sigmoid:1,sft:0.005": names with their weights, 1 where none is given. contract_violation names what it cannot read
/// and lists the names.
[[nodiscard]] inline pair_loss_sum parse_pair_losses(std::string_view text) {
  auto const refuse = [](std::string const& what) {
    std::string message = "expected losses as name or name:weight, separated by commas; " + what + "; names:";
    for (named_pair_loss const& known : named_pair_losses()) message += " " + std::string(known.name);
    throw contract_violation(message);
  };
  std::vector<weighted_pair_loss> terms;
  for (bool more = true; more;) {
    std::size_t const comma = text.find(',');
    more = comma != std::string_view::npos;
    std::string_view const item = text.substr(0, comma);
    if (more) text.remove_prefix(comma + 1);
    std::size_t const colon = item.find(':');
    std::string_view const name = item.substr(0, colon);
    weighted_pair_loss term;
    bool found = false;
    for (named_pair_loss const& known : named_pair_losses())
      if (known.name == name) {
        term.loss = known.loss;
        found = true;
      }
    if (!found) refuse("no loss is called \"" + std::string(name) + "\"");
    if (colon != std::string_view::npos) {
      std::string const digits(item.substr(colon + 1));
      std::size_t used = 0;
      try {
        term.weight = std::stod(digits, &used);
      } catch (std::exception const&) {
        used = 0;
      }
      if (used == 0 || used != digits.size() || !(term.weight > 0.0) || !std::isfinite(term.weight))
        refuse("\"" + digits + "\" is no weight above 0, in \"" + std::string(item) + "\"");
    }
    terms.push_back(std::move(term));
  }
  return terms;
}

}  // namespace attune
