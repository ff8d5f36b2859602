// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Noise contrastive alignment (Chen et al. 2024, "Noise contrastive alignment of language models with explicit
/// rewards", section 4 for pairs): tells each response from a sample of the reference instead of from the other one,
/// which keeps the chosen response's probability from falling.
namespace attune {

struct nca_options {
  static constexpr std::string_view name = "nca_pair";
  double beta = 0.01;  ///< the paper's alpha, the reward's temperature; > 0

  static constexpr pair_inputs reads() noexcept { return {}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(nca_options const& o) {
  expects(o.beta > 0.0 && o.beta <= (std::numeric_limits<double>::max)(), "nca_options.beta > 0 and finite", o.beta);
}

/// -log s(w) - (log s(-w) + log s(-l)) / 2 with w = beta chosen, l = beta rejected.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         nca_options o) noexcept {
  T const w = saturate_cast<T>(T(o.beta) * p.chosen);
  T const l = saturate_cast<T>(T(o.beta) * p.rejected);
  value_and_slope<T> const is_data = negative_log_sigmoid(w);
  value_and_slope<T> const is_noise = negative_log_sigmoid(-w);
  value_and_slope<T> const other_is_noise = negative_log_sigmoid(-l);
  return through_rewards<T>({is_data.value + T(0.5) * is_noise.value, is_data.slope - T(0.5) * is_noise.slope},
                            {T(0.5) * other_is_noise.value, T(-0.5) * other_is_noise.slope}, o.beta);
}

}  // namespace attune
