// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite.hpp>
#include <attune/objective/value_and_slope.hpp>

/// Kahneman-Tversky optimisation (Ethayarajh et al. 2024, "KTO: Model alignment as prospect theoretic optimization",
/// eq. 7): a loss on single responses that are called desirable or undesirable, without a response to compare with.
/// What a response gains is measured from where the policy stands, an estimate of its divergence from the reference.
///
/// With D = log pi(y) - log pi_ref(y), z0 = kto_kl(...), s the logistic function:
///   desirable    desirable_weight   (1 - s(beta (D - z0)))
///   undesirable  undesirable_weight (1 - s(beta (z0 - D)))
///
/// z0 is a number of the whole optimiser step that no gradient goes through. TRL's KTOTrainer computes it per
/// micro-batch and device batch, so its results depend on how a step is cut; here one z0 serves all of a step's
/// micro-batches. TRL pairs a prompt with the completion before it in the batch, (x_i, y_(i-1)), the paper with the one
/// after it; either way every completion is used once.
namespace attune {

struct kto_options {
  double beta = 0.1;                ///< strength of the KL constraint behind the implied reward; > 0
  double desirable_weight = 1.0;    ///< lambda_D: of a desirable example; >= 0
  /// lambda_U: of an undesirable example; >= 0, not both 0. With n_D and n_U examples of each kind, the paper (eq. 8)
  /// has lambda_D n_D / (lambda_U n_U) lie between 1 and 4/3.
  double undesirable_weight = 1.0;
};

/// Throws contract_violation naming the field and its value.
inline void validate(kto_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest, "kto_options.beta > 0 and finite", o.beta);
  expects(o.desirable_weight >= 0.0 && o.desirable_weight <= largest, "kto_options.desirable_weight >= 0 and finite",
          o.desirable_weight);
  expects(o.undesirable_weight >= 0.0 && o.undesirable_weight <= largest,
          "kto_options.undesirable_weight >= 0 and finite", o.undesirable_weight);
  expects(o.desirable_weight > 0.0 || o.undesirable_weight > 0.0,
          "kto_options.desirable_weight > 0 or undesirable_weight > 0: with neither there is nothing to learn");
}

/// What unpaired_loss takes as baseline: z0, in nats.
inline void validate_baseline(kto_options const&, double kl) {
  expects(kl >= 0.0 && kl <= (std::numeric_limits<double>::max)(),
          "unpaired_loss: baseline = kto_kl(...) >= 0 and finite (KTO)", kl);
}

/// z0 = max(0, mean of log pi(y') - log pi_ref(y') over mismatched pairs), in nats, from the sums of their tokens'
/// log-probabilities: completion y' of one example after the prompt of another. Of all pairs of the step, over its
/// micro-batches and ranks.
///
/// Expects two pairs or more (a single example has no mismatched pair: its own completion would take the place of one,
/// and the loss would be constant), equal sizes, finite log-probabilities. Double, left to right; allocates nothing.
template <class T>
[[nodiscard]] double kto_kl(std::span<T const> logps, std::span<T const> ref_logps) {
  expects(logps.size() >= 2, "kto_kl: two mismatched pairs or more, which takes a step of two examples or more",
          logps.size());
  expects(ref_logps.size() == logps.size(), "kto_kl: ref_logps.size() == logps.size()", ref_logps.size());
  expects_finite(logps, "kto_kl: logps");
  expects_finite(ref_logps, "kto_kl: ref_logps");
  double const count = static_cast<double>(logps.size());
  double sum = 0.0, scaled = 0.0;  // the second for what lies beyond the largest number before it is divided
  for (std::size_t i = 0; i < logps.size(); ++i) {
    double const ratio = saturate_cast<double>(static_cast<double>(logps[i]) - static_cast<double>(ref_logps[i]));
    sum += ratio;
    scaled += ratio / count;
  }
  double const mean = std::isfinite(sum) ? sum / count : saturate_cast<double>(scaled);
  return mean > 0.0 ? mean : 0.0;
}

/// The loss of one example and its derivative, from its log-ratio log pi(y) - log pi_ref(y) and z0 (not
/// differentiated).
///
/// Either case is weight s(t) with t = -beta (D - z0) or beta (D - z0), the logistic function's own tail, so that
/// nothing cancels next to 0 where the example is learnt. Bounded by the weight: an outlier has no pull, an example on
/// the wrong side by much has none either. Finite for every finite input: what lies beyond T's range is T's largest
/// number. Expects valid options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_and_slope<T> unpaired_objective(T log_ratio, bool desirable, kto_options o,
                                                                       double kl) noexcept {
  using std::exp;
  T const gain = saturate_cast<T>(saturate_cast<T>(o.beta) * saturate_cast<T>(log_ratio - saturate_cast<T>(kl)));
  T const t = desirable ? -gain : gain;
  T const weight = saturate_cast<T>(desirable ? o.desirable_weight : o.undesirable_weight);
  bool const positive = real_part(t) > 0;
  T const e = exp(positive ? -t : t);  // in [0, 1]
  T const tail = e / (T(1) + e);       // s(-|t|)
  T const slope = saturate_cast<T>(saturate_cast<T>(o.beta) * (weight * (tail / (T(1) + e))));
  return {weight * (positive ? T(1) / (T(1) + e) : tail), desirable ? -slope : slope};
}

}  // namespace attune
