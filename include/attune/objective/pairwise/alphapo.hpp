// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// AlphaPO (Gupta et al. 2025, "Reward shape matters for LLM alignment", eq. 5): SimPO with a bent reward. alpha > 0
/// punishes improbable responses harder than their log-probability does, alpha < 0 softer.
namespace attune {

struct alphapo_options {
  static constexpr std::string_view name = "alphapo";
  double beta = 2.5;    ///< scale of the reward; > 0
  double gamma = 0.1;   ///< target margin of the rewards; finite
  double alpha = 0.25;  ///< bend of the reward; finite; 0 is SimPO

  static constexpr pair_inputs reads() noexcept { return {.reference = false, .lengths = true}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(alphapo_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest, "alphapo_options.beta > 0 and finite", o.beta);
  expects(o.gamma >= -largest && o.gamma <= largest, "alphapo_options.gamma finite", o.gamma);
  expects(o.alpha >= -largest && o.alpha <= largest, "alphapo_options.alpha finite", o.alpha);
}

/// -log s(beta (r(chosen / |chosen|) - r(rejected / |rejected|)) - gamma) with r(x) = (1 - e^(-alpha x)) / alpha, and
/// its limit r(x) = x at alpha = 0; next to 0 no digit cancels.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         alphapo_options o) noexcept {
  using std::exp;
  auto const reward = [o](T mean_logp) -> value_and_slope<T> {
    if (o.alpha == 0.0) return {mean_logp, T(1)};
    T const exponent = saturate_cast<T>(T(-o.alpha) * mean_logp);
    return {saturate_cast<T>(-exp_minus_one(exponent) / T(o.alpha)), saturate_cast<T>(exp(exponent))};
  };
  value_and_slope<T> const chosen = reward(p.chosen / p.chosen_tokens);
  value_and_slope<T> const rejected = reward(p.rejected / p.rejected_tokens);
  auto const one =
      through_margin(negative_log_sigmoid(pair_margin(chosen.value, rejected.value, o.beta, o.gamma)), o.beta);
  return {one.value, saturate_cast<T>(one.chosen * chosen.slope) / p.chosen_tokens,
          saturate_cast<T>(one.rejected * rejected.slope) / p.rejected_tokens};
}

}  // namespace attune
