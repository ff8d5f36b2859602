// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Binary classifier optimisation on pairs (Jung et al. 2024, "Binary classifier optimization for large language model
/// alignment", eq. 9 with a reward shift of 0, as TRL has it): cross-entropy of a classifier whose logit is the implied
/// reward. With unpaired labels and a running shift: objective/unpaired/bco.hpp.
namespace attune {

struct bco_pair_options {
  static constexpr std::string_view name = "bco_pair";
  double beta = 0.01;  ///< scale of the implied reward; > 0
  double delta = 0.0;  ///< shift of the reward, the paper's delta; finite

  static constexpr pair_inputs reads() noexcept { return {}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(bco_pair_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest, "bco_pair_options.beta > 0 and finite", o.beta);
  expects(o.delta >= -largest && o.delta <= largest, "bco_pair_options.delta finite", o.delta);
}

/// -log s(beta chosen - delta) - log s(-(beta rejected - delta)).
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         bco_pair_options o) noexcept {
  T const w = saturate_cast<T>(saturate_cast<T>(T(o.beta) * p.chosen) - T(o.delta));
  T const l = saturate_cast<T>(saturate_cast<T>(T(o.beta) * p.rejected) - T(o.delta));
  value_and_slope<T> const rejected = negative_log_sigmoid(-l);
  return through_rewards<T>(negative_log_sigmoid(w), {rejected.value, -rejected.slope}, o.beta);
}

}  // namespace attune
