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

/// Binary classifier optimisation (Jung et al. 2024, "Binary classifier optimization for large language model
/// alignment"): the implied reward as the logit of a classifier that tells desirable responses from undesirable ones.
/// Unlike KTO's, its slope does not vanish for an example on the wrong side by much.
///
/// With the implied reward r = beta (log pi(y) - log pi_ref(y)), s the logistic function, delta the rewards' mean so
/// far:
///   desirable    -log s(r - delta)
///   undesirable  -log s(delta - r)
///
/// delta is a number that no gradient goes through. It is state: the mean over every example trained on so far, the
/// present step's included (TRL's experimental BCOTrainer; the paper has the mean of the two kinds' means, which is the
/// same where they are equally many). TRL updates it per micro-batch, and in fp32; here once per optimiser step, in
/// double, so that results do not depend on how a step is cut.
namespace attune {

struct bco_options {
  double beta = 0.1;  ///< strength of the KL constraint behind the implied reward; > 0
};

/// Throws contract_violation naming the field and its value.
inline void validate(bco_options const& o) {
  expects(o.beta > 0.0 && o.beta <= (std::numeric_limits<double>::max)(), "bco_options.beta > 0 and finite", o.beta);
}

/// What unpaired_loss takes as baseline: delta, in the reward's unit.
inline void validate_baseline(bco_options const&, double delta) {
  expects(std::abs(delta) <= (std::numeric_limits<double>::max)(),
          "unpaired_loss: baseline = bco_delta.mean finite (BCO)", delta);
}

/// The mean of all implied rewards so far. Eight-byte members only, so that it goes into a checkpoint as it is.
struct bco_delta {
  double mean = 0.0;   ///< delta
  double count = 0.0;  ///< examples behind it
};

/// The same with a step's implied rewards (beta * log-ratio, both kinds) taken in: of all examples of the step, over
/// its micro-batches and ranks. Expects an example or more, finite rewards. Double, left to right; allocates nothing.
[[nodiscard]] inline bco_delta updated(bco_delta delta, std::span<double const> rewards) {
  expects(!rewards.empty(), "bco_delta: a reward or more");
  expects_finite(rewards, "bco_delta: rewards");
  double const count = static_cast<double>(rewards.size());
  double sum = 0.0, scaled = 0.0;  // the second for what lies beyond the largest number before it is divided
  for (double const r : rewards) {
    sum += r;
    scaled += r / count;
  }
  double const mean = std::isfinite(sum) ? sum / count : saturate_cast<double>(scaled);
  double const total = delta.count + count;
  double const moved = delta.mean + saturate_cast<double>(mean - delta.mean) * (count / total);
  return {saturate_cast<double>(moved), total};
}

struct density_ratio_options {
  double min_density_ratio = 0.5;   ///< no weight is below it; >= 0
  double max_density_ratio = 10.0;  ///< none above it; >= min_density_ratio
};

/// Throws contract_violation naming the field and its value.
inline void validate(density_ratio_options const& o) {
  expects(o.min_density_ratio >= 0.0 && o.min_density_ratio <= (std::numeric_limits<double>::max)(),
          "density_ratio_options.min_density_ratio >= 0 and finite", o.min_density_ratio);
  expects(o.max_density_ratio >= o.min_density_ratio && o.max_density_ratio <= (std::numeric_limits<double>::max)(),
          "density_ratio_options.max_density_ratio >= min_density_ratio and finite", o.max_density_ratio);
}

/// The weight of an undesirable example whose prompt a classifier (the user's) calls one of the desirable examples'
/// with this probability: p / (1 - p + 1e-8), held between the bounds. Makes up for prompts that differ between the
/// kinds (the paper's underlying distribution matching); desirable examples weigh 1. The 1e-8 is TRL's. Expects p in
/// [0, 1].
[[nodiscard]] inline double density_ratio_weight(double probability_desirable, density_ratio_options o = {}) {
  validate(o);
  expects(probability_desirable >= 0.0 && probability_desirable <= 1.0,
          "density_ratio_weight: probability_desirable in [0, 1]", probability_desirable);
  double const ratio = probability_desirable / (1.0 - probability_desirable + 1e-8);
  return ratio < o.min_density_ratio ? o.min_density_ratio : ratio > o.max_density_ratio ? o.max_density_ratio : ratio;
}

/// The loss of one example and its derivative, from its log-ratio log pi(y) - log pi_ref(y) and delta (not
/// differentiated). Finite for every finite input: what lies beyond T's range is T's largest number. Expects valid
/// options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_and_slope<T> unpaired_objective(T log_ratio, bool desirable, bco_options o,
                                                                       double delta) noexcept {
  T const reward = saturate_cast<T>(o.beta) * log_ratio;  // may overflow, which a finite delta leaves as it is
  T const logit = saturate_cast<T>(reward - saturate_cast<T>(delta));
  value_and_slope<T> const one = negative_log_sigmoid(desirable ? logit : -logit);
  T const slope = saturate_cast<T>(saturate_cast<T>(o.beta) * one.slope);
  return {one.value, desirable ? slope : -slope};
}

}  // namespace attune
