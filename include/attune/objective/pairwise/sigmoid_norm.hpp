// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Length-normalised DPO (Lambert et al. 2024, "Tulu 3", section 5.1.2): DPO's loss with log-ratios per token, so that
/// a response gains nothing by being long.
namespace attune {

struct sigmoid_norm_options {
  static constexpr std::string_view name = "sigmoid_norm";
  double beta = 0.1;           ///< scale of the implied reward per token; > 0. Tulu 3 has 5, TRL 0.1
  double target_margin = 0.0;  ///< by how much the chosen reward is to exceed the rejected one; finite

  static constexpr pair_inputs reads() noexcept { return {.lengths = true, .divergence = true}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(sigmoid_norm_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest, "sigmoid_norm_options.beta > 0 and finite", o.beta);
  expects(o.target_margin >= -largest && o.target_margin <= largest, "sigmoid_norm_options.target_margin finite",
          o.target_margin);
}

/// -log s(beta (chosen / |chosen| - rejected / |rejected|) - target_margin), s the logistic function.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         sigmoid_norm_options o) noexcept {
  T const z = pair_margin(p.chosen / p.chosen_tokens, p.rejected / p.rejected_tokens, o.beta, o.target_margin);
  auto const one = through_margin(negative_log_sigmoid(z), o.beta);
  return {one.value, one.chosen / p.chosen_tokens, one.rejected / p.rejected_tokens};
}

}  // namespace attune
