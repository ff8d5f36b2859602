// SPDX-License-Identifier: MIT
#pragma once

#include <limits>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/unpaired/kto.hpp>
#include <attune/objective/value_and_slope.hpp>

/// APO-zero for single responses (D'Oosterlinck et al. 2024, "Anchored preference optimization and contrastive
/// revisions", eq. 7, taken apart into its two terms, as TRL's KTOTrainer has it under loss_type apo_zero_unpaired):
/// desirable responses become likelier than the reference has them, undesirable ones less likely, each by itself.
///
/// With D = log pi(y) - log pi_ref(y), s the logistic function:
///   desirable    desirable_weight   (1 - s(beta D))
///   undesirable  undesirable_weight s(beta D)
///
/// It is KTO measured from the reference itself, z0 = 0: no mismatched pairs, no further pass. For data whose desirable
/// responses are better than what the model would say.
namespace attune {

struct apo_zero_unpaired_options {
  double beta = 0.1;                ///< strength of the KL constraint behind the implied reward; > 0
  double desirable_weight = 1.0;    ///< of a desirable example; >= 0
  double undesirable_weight = 1.0;  ///< of an undesirable example; >= 0, not both 0
};

/// Throws contract_violation naming the field and its value.
inline void validate(apo_zero_unpaired_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest, "apo_zero_unpaired_options.beta > 0 and finite", o.beta);
  expects(o.desirable_weight >= 0.0 && o.desirable_weight <= largest,
          "apo_zero_unpaired_options.desirable_weight >= 0 and finite", o.desirable_weight);
  expects(o.undesirable_weight >= 0.0 && o.undesirable_weight <= largest,
          "apo_zero_unpaired_options.undesirable_weight >= 0 and finite", o.undesirable_weight);
  expects(o.desirable_weight > 0.0 || o.undesirable_weight > 0.0,
          "apo_zero_unpaired_options.desirable_weight > 0 or undesirable_weight > 0: with neither there is nothing to "
          "learn");
}

/// There is no baseline: 0 says so.
inline void validate_baseline(apo_zero_unpaired_options const&, double baseline) {
  expects(baseline == 0.0, "unpaired_loss: baseline = 0 (APO-zero has none)", baseline);
}

/// The loss of one example and its derivative, from its log-ratio. The baseline is not read; unpaired_loss refuses one
/// that is not 0. Finite for every finite input. Expects valid options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_and_slope<T> unpaired_objective(T log_ratio, bool desirable,
                                                                       apo_zero_unpaired_options o,
                                                                       double /*baseline*/ = 0.0) noexcept {
  return unpaired_objective(log_ratio, desirable, kto_options{o.beta, o.desirable_weight, o.undesirable_weight}, 0.0);
}

}  // namespace attune
