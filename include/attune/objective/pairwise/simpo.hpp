// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Simple preference optimisation (Meng et al. 2024, eq. 6): the reward is the response's own log-probability per
/// token, which is what generation maximises, and needs no reference.
namespace attune {

struct simpo_options {
  static constexpr std::string_view name = "simpo";
  double beta = 2.5;     ///< scale of the reward; > 0. The paper has 2 to 2.5 (10 for one model), TRL 0.1
  double gamma = 1.375;  ///< target margin of the rewards; finite. The paper's gamma / beta is 0.55 (TRL: simpo_gamma
                         ///< 0.5)

  static constexpr pair_inputs reads() noexcept { return {.reference = false, .lengths = true}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(simpo_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest, "simpo_options.beta > 0 and finite", o.beta);
  expects(o.gamma >= -largest && o.gamma <= largest, "simpo_options.gamma finite", o.gamma);
}

/// -log s(beta (chosen / |chosen| - rejected / |rejected|) - gamma), of log-probabilities.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         simpo_options o) noexcept {
  T const q = pair_margin(p.chosen / p.chosen_tokens, p.rejected / p.rejected_tokens, o.beta, o.gamma);
  auto const one = through_margin(negative_log_sigmoid(q), o.beta);
  return {one.value, one.chosen / p.chosen_tokens, one.rejected / p.rejected_tokens};
}

}  // namespace attune
