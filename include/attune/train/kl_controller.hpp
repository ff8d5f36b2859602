// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <attune/core/contract.hpp>
#include <attune/objective/kl.hpp>

namespace attune {

/// Where the price of leaving the reference is charged.
enum class kl_placement {
  reward,  ///< in every token's reward (Ziegler et al. 2019, eq. 2): the advantages carry it
  loss,    ///< in the loss, beside the surrogate (Shao et al. 2024, eq. 3)
};

struct kl_options {
  double kl_coef = 0.05;  ///< price of a nat, unit of the scores; >= 0. The start value where it adapts
  kl_placement placement = kl_placement::reward;
  kl_estimator estimator = kl_estimator::k1;  ///< objective/kl.hpp says which fits where; k1 is refused in the loss
  double target = 0.0;     ///< nats per response that an adaptive kl_coef steers to; > 0, or 0: kl_coef is fixed
  double horizon = 10000;  ///< responses in which an adaptive kl_coef may change by a fifth; > 0
  bool bias_correction = false;  ///< kl_loss_options'; in the loss alone, and with a kl_coef above 0
};

/// Throws contract_violation naming the field and its value.
inline void validate(kl_options const& o) {
  expects(o.kl_coef >= 0.0 && std::isfinite(o.kl_coef), "kl_options.kl_coef >= 0 and finite", o.kl_coef);
  expects(o.target >= 0.0 && std::isfinite(o.target), "kl_options.target >= 0 and finite", o.target);
  expects(o.horizon > 0.0 && std::isfinite(o.horizon), "kl_options.horizon > 0 and finite", o.horizon);
  expects(o.target == 0.0 || o.kl_coef > 0.0,
          "kl_options.kl_coef > 0, since an adaptive one (target > 0) grows by factors", o.kl_coef);
  expects(o.placement == kl_placement::reward || o.estimator != kl_estimator::k1,
          "kl_options.estimator k2 or k3 with placement loss: as a loss, k1 has a gradient of 0 in expectation");
  expects(!o.bias_correction || (o.placement == kl_placement::loss && o.kl_coef > 0.0),
          "kl_options.bias_correction == false, unless placement is loss and kl_coef above 0");
}

/// The coefficient of the KL over time: fixed, or steered to a target by a proportional controller in log space
/// (Ziegler et al. 2019, section 2.2):
///
///   kl_coef <- kl_coef (1 + clip(kl / target - 1, -0.2, 0.2) responses / horizon)
class kl_controller {
 public:
  explicit kl_controller(kl_options options = {}) : options_(options), kl_coef_(options.kl_coef) { validate(options_); }

  double kl_coef() const noexcept { return kl_coef_; }

  /// `kl`: nats per response, mean over `responses` of them. A factor that would end at or below 0, when more responses
  /// than five horizons come at once, stops at a tenth.
  void update(double kl, std::size_t responses) noexcept {
    if (options_.target == 0.0) return;
    double const error = (std::clamp)(kl / options_.target - 1.0, -0.2, 0.2);
    kl_coef_ *= (std::max)(0.1, 1.0 + error * static_cast<double>(responses) / options_.horizon);
  }

  /// For a run that is resumed.
  void restore(double kl_coef) noexcept { kl_coef_ = kl_coef; }

 private:
  kl_options options_;
  double kl_coef_;
};

}  // namespace attune
