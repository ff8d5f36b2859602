// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Identity preference optimisation (Azar et al. 2023, "A general theoretical paradigm to understand learning from
/// human preferences", eq. 17): regression of the margin to a constant, so that a preference held with certainty does
/// not pull for ever.
namespace attune {

/// What becomes of a response's log-ratio. Two different losses, which systems ship under one name.
enum class ipo_length {
  average,  ///< per token of the response, as the authors ran it and TRL and LLaMA-Factory have it
  sum,      ///< of the whole response, as eq. 17 is written and OpenRLHF and the DPO paper's code have it
};

struct ipo_options {
  static constexpr std::string_view name = "ipo";
  double beta = 0.1;                        ///< the paper's tau: the margin's target is 1 / (2 beta); > 0
  ipo_length length = ipo_length::average;  ///< what the margin is made of

  constexpr pair_inputs reads() const noexcept {
    return {.lengths = length == ipo_length::average, .divergence = true};
  }
};

/// Throws contract_violation naming the field and its value.
inline void validate(ipo_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest && 0.5 / o.beta <= largest,
          "ipo_options.beta > 0 and finite, as is 1 / (2 beta)", o.beta);
}

/// h^2 with h = chosen - rejected - 1 / (2 beta), each over its length under `average`.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         ipo_options o) noexcept {
  bool const average = o.length == ipo_length::average;
  T const chosen_share = average ? T(1) / p.chosen_tokens : T(1);
  T const rejected_share = average ? T(1) / p.rejected_tokens : T(1);
  T const h = saturate_cast<T>(saturate_cast<T>(p.chosen * chosen_share - p.rejected * rejected_share) -
                               T(0.5 / o.beta));
  T const slope = saturate_cast<T>(T(2) * h);
  return {saturate_cast<T>(h * h), slope * chosen_share, -slope * rejected_share};
}

}  // namespace attune
