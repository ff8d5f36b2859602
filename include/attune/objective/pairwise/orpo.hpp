// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Odds ratio preference optimisation (Hong et al. 2024, eqs. 6 and 7): supervised fine-tuning and a preference for the
/// chosen response in one loss, without a reference.
namespace attune {

struct orpo_options {
  static constexpr std::string_view name = "orpo";
  double beta = 0.1;  ///< weight of the odds ratio's term, the paper's lambda; > 0

  static constexpr pair_inputs reads() noexcept { return {.reference = false, .lengths = true}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(orpo_options const& o) {
  expects(o.beta > 0.0 && o.beta <= (std::numeric_limits<double>::max)(), "orpo_options.beta > 0 and finite", o.beta);
}

/// -w - beta log s(odds(w) - odds(l)) with w = chosen / |chosen| and l = rejected / |rejected|, means of
/// log-probabilities, and odds(x) = x - log(1 - e^x). Means above 0 are no log-probabilities and count as 0.
///
/// With P = e^w, Q = e^l and D = Q (1 - P) + P (1 - Q) the preference's slopes are -beta Q / D and
/// beta Q (1 - P) / ((1 - Q) D), the larger of P and Q taken out of D: neither a certain response nor an impossible one
/// makes the first 0 / 0. odds() goes through log1mexp, where log(1 - e^x) loses every digit next to 0. A certain
/// rejected response makes the loss and its slope infinite: T's largest number.
///
/// The likelihood is the response's alone: TRL's ORPO takes it over prompt and response. Its normaliser is the paper's,
/// the response's length; TRL's the micro-batch's tokens.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         orpo_options o) noexcept {
  using std::exp;
  auto const at_most_zero = [](T x) { return real_part(x) > 0 ? T(0) : x; };
  T const w = at_most_zero(p.chosen / p.chosen_tokens);
  T const l = at_most_zero(p.rejected / p.rejected_tokens);
  T const odds_of_odds = saturate_cast<T>(log1mexp(l)) - saturate_cast<T>(log1mexp(w));
  T const log_odds_ratio = saturate_cast<T>(saturate_cast<T>(w - l) + saturate_cast<T>(odds_of_odds));
  value_and_slope<T> const preference = negative_log_sigmoid(log_odds_ratio);

  T const largest = real_part(w) > real_part(l) ? w : l;
  T const chosen = exp(w - largest);
  T const rejected = exp(l - largest);
  T const chosen_doubt = -exp_minus_one(w);
  T const rejected_doubt = -exp_minus_one(l);
  T const both = rejected * chosen_doubt + chosen * rejected_doubt;
  T const beta = T(o.beta);
  T const pull = saturate_cast<T>(beta * rejected / both);
  T const push = real_part(rejected_doubt) > 0 ? saturate_cast<T>(pull * chosen_doubt / rejected_doubt)
                                               : T(largest_finite<decltype(real_part(T()))>);
  return {saturate_cast<T>(saturate_cast<T>(beta * preference.value) - w),
          saturate_cast<T>(-pull - T(1)) / p.chosen_tokens,
          push / p.rejected_tokens};
}

}  // namespace attune
