// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Exact optimisation of the alignment objective (Ji et al. 2024, "Towards efficient exact optimization of language
/// model alignment", eq. 16): the reverse KL between what the policy implies of the pair and smoothed labels, where DPO
/// takes the forward one.
namespace attune {

struct exo_options {
  static constexpr std::string_view name = "exo_pair";
  double beta = 0.1;              ///< strength of the KL constraint behind the implied reward; > 0
  double label_smoothing = 1e-3;  ///< probability that the label is wrong; (0, 1/2]: at 0 the loss is infinite

  static constexpr pair_inputs reads() noexcept { return {.divergence = true}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(exo_options const& o) {
  expects(o.beta > 0.0 && o.beta <= (std::numeric_limits<double>::max)(), "exo_options.beta > 0 and finite", o.beta);
  expects(o.label_smoothing > 0.0 && o.label_smoothing <= 0.5, "exo_options.label_smoothing in (0, 1/2]",
          o.label_smoothing);
}

/// s(z) (log s(z) - log(1 - e)) + s(-z) (log s(-z) - log e), z = beta (chosen - rejected), e = label_smoothing: 0 where
/// the policy's odds are the labels', z = log((1 - e) / e). Bounded by -log e, and by -log(1 - e) on the other side.
/// Written around the larger of the two probabilities, since log s(z) - log s(-z) = z cancels far from 0.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         exo_options o) noexcept {
  using std::exp;
  double const kept = std::log1p(-o.label_smoothing);
  double const flipped = std::log(o.label_smoothing);
  T const z = pair_margin(p.chosen, p.rejected, o.beta);
  bool const positive = real_part(z) > 0;
  T const distance = positive ? z : -z;
  T const e = exp(-distance);
  T const less_likely = e / (T(1) + e);
  T const beyond = saturate_cast<T>(z - T(kept - flipped));
  T const value = -log_one_plus(e) - T(positive ? kept : flipped) - less_likely * (positive ? beyond : -beyond);
  return through_margin<T>({value, less_likely / (T(1) + e) * beyond}, o.beta);
}

}  // namespace attune
