// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Anchored preference optimisation (D'Oosterlinck et al. 2024, eqs. 7 and 8): says where both responses are to go, not
/// only which is to be above the other.
namespace attune {

/// Which of the paper's two losses.
enum class apo_anchor {
  zero,  ///< eq. 7: chosen up, rejected down; for chosen responses better than what the model writes
  down,  ///< eq. 8: chosen down, rejected further down; for chosen responses worse than what the model writes
};

struct apo_options {
  static constexpr std::string_view name = "apo";
  double beta = 0.1;                    ///< scale of the implied reward; > 0
  apo_anchor anchor = apo_anchor::zero;

  static constexpr pair_inputs reads() noexcept { return {}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(apo_options const& o) {
  expects(o.beta > 0.0 && o.beta <= (std::numeric_limits<double>::max)(), "apo_options.beta > 0 and finite", o.beta);
}

/// sigmoid(a) - sigmoid(b), given a - b: no digit is lost where they are close, at 1/2 or next to 1.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE T sigmoid_difference(T a, T b, T a_less_b) noexcept {
  if (real_part(a_less_b) < 0) return sigmoid(b) * sigmoid(-a) * exp_minus_one(a_less_b);
  return -sigmoid(a) * sigmoid(-b) * exp_minus_one(-a_less_b);
}

/// zero  s(-w) + s(l)      down  s(w) + s(-(w - l))
/// with w = beta chosen, l = beta rejected, s the logistic function. 1 - s(a) is computed as s(-a). The slope of `down`
/// in w, s'(w) - s'(w - l), is a difference that vanishes on two lines: the product (s(w) - s(z)) (s(-w) - s(z)),
/// z = w - l.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         apo_options o) noexcept {
  T const w = saturate_cast<T>(T(o.beta) * p.chosen);
  T const l = saturate_cast<T>(T(o.beta) * p.rejected);
  if (o.anchor == apo_anchor::zero) {
    value_and_slope<T> const below = sigmoid_and_slope(-w);
    return through_rewards<T>({below.value, -below.slope}, sigmoid_and_slope(l), o.beta);
  }
  T const z = saturate_cast<T>(w - l);
  value_and_slope<T> const wrong = sigmoid_and_slope(-z);
  T const chosen = sigmoid_difference(w, z, l) * sigmoid_difference(-w, z, saturate_cast<T>(-w - z));
  return through_rewards<T>({sigmoid(w) + wrong.value, chosen}, {T(0), wrong.slope}, o.beta);
}

}  // namespace attune
