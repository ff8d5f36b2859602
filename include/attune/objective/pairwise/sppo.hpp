// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Self-play preference optimisation with hard labels (Wu et al. 2024, eq. 4.7, the winner's probability set to 1 and
/// the loser's to 0): each log-ratio is pulled to its own target, the chosen one up and the rejected one down.
namespace attune {

struct sppo_options {
  static constexpr std::string_view name = "sppo_hard";
  double beta = 1e-3;  ///< 1 / the paper's eta: the targets are +- 1 / (2 beta); > 0

  static constexpr pair_inputs reads() noexcept { return {}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(sppo_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest && 0.5 / o.beta <= largest,
          "sppo_options.beta > 0 and finite, as is 1 / (2 beta)", o.beta);
}

/// (chosen - 1 / (2 beta))^2 + (rejected + 1 / (2 beta))^2.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         sppo_options o) noexcept {
  T const target = saturate_cast<T>(0.5 / o.beta);
  T const w = saturate_cast<T>(p.chosen - target);
  T const l = saturate_cast<T>(p.rejected + target);
  return {saturate_cast<T>(saturate_cast<T>(w * w) + saturate_cast<T>(l * l)), saturate_cast<T>(T(2) * w),
          saturate_cast<T>(T(2) * l)};
}

}  // namespace attune
