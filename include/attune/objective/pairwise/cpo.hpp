// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Contrastive preference optimisation (Xu et al. 2024, eqs. 4 and 5): DPO's loss against a uniform reference, which
/// drops out, and the likelihood of the chosen response.
namespace attune {

struct cpo_options {
  static constexpr std::string_view name = "cpo";
  double beta = 0.1;             ///< scale of the log-probabilities; > 0
  double label_smoothing = 0.0;  ///< probability that a label is flipped; [0, 1/2]
  /// Weight of the chosen response's negative log-likelihood per token of it; >= 0. The paper sums it over the
  /// response; TRL's mean is over the micro-batch's tokens: cpo_alpha = 0 beside an sft_term has that, over the step's.
  double cpo_alpha = 1.0;

  static constexpr pair_inputs reads() noexcept { return {.reference = false, .lengths = true}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(cpo_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest, "cpo_options.beta > 0 and finite", o.beta);
  expects(o.label_smoothing >= 0.0 && o.label_smoothing <= 0.5, "cpo_options.label_smoothing in [0, 0.5]",
          o.label_smoothing);
  expects(o.cpo_alpha >= 0.0 && o.cpo_alpha <= largest, "cpo_options.cpo_alpha >= 0 and finite", o.cpo_alpha);
}

/// -(1 - e) log s(z) - e log s(-z) - cpo_alpha chosen / |chosen| with z = beta (chosen - rejected), of
/// log-probabilities, and e = label_smoothing. As in dpo.hpp the smoothed loss is -log s(z) + e z.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         cpo_options o) noexcept {
  T const z = pair_margin(p.chosen, p.rejected, o.beta);
  T const e = T(o.label_smoothing);
  value_and_slope<T> const plain = negative_log_sigmoid(z);
  auto const one = through_margin<T>({plain.value + e * z, plain.slope + e}, o.beta);
  T const pull = T(-o.cpo_alpha) / p.chosen_tokens;
  return {saturate_cast<T>(one.value + saturate_cast<T>(pull * p.chosen)), saturate_cast<T>(one.chosen + pull),
          one.rejected};
}

}  // namespace attune
