// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <limits>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/value_and_slope.hpp>

/// f-DPO (Wang et al. 2023, "Beyond reverse KL", table 1): the reward that a policy implies when another divergence
/// than the reverse KL ties it to the reference. It is beta f'(pi / pi_ref) and so only bends the log-ratio that a
/// pairwise loss of the difference of two rewards sees; constants, which cancel there, are those of f'(1) = 0, as in
/// TRL.
///
///   reverse_kl        d                        forward_kl        1 - e^-d
///   js_divergence     log 2 + log s(d)         alpha_divergence  (e^((a - 1) d) - 1) / (a - 1)
///
/// The alpha divergence is the forward KL at a = 0 and the reverse KL at a = 1.
namespace attune {

enum class f_divergence_type { reverse_kl, forward_kl, js_divergence, alpha_divergence };

struct f_divergence_options {
  f_divergence_type type = f_divergence_type::reverse_kl;
  double alpha = 0.5;  ///< order of the alpha divergence (TRL: f_alpha_divergence_coef); finite
};

/// Throws contract_violation naming the field and its value; alpha set for a divergence that has none is refused.
inline void validate(f_divergence_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.alpha >= -largest && o.alpha <= largest, "f_divergence_options.alpha finite", o.alpha);
  expects(o.type == f_divergence_type::alpha_divergence || o.alpha == f_divergence_options{}.alpha,
          "f_divergence_options.alpha as it is by default: only alpha_divergence has one", o.alpha);
}

/// f'(e^log_ratio) and its derivative in the log-ratio. Finite for every finite input: what lies beyond T's range is
/// T's largest number, where TRL clamps the exponent at 80 (and has no alpha divergence in fp64 at all).
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE value_and_slope<T> f_divergence_score(T log_ratio, f_divergence_options o) noexcept {
  using std::exp;
  switch (o.type) {
    case f_divergence_type::reverse_kl:
      break;
    case f_divergence_type::js_divergence: {
      value_and_slope<T> const logistic = negative_log_sigmoid(log_ratio);
      return {T(0.6931471805599453) - logistic.value, -logistic.slope};
    }
    case f_divergence_type::forward_kl:
    case f_divergence_type::alpha_divergence: {
      double const order = o.type == f_divergence_type::forward_kl ? -1.0 : o.alpha - 1.0;
      if (order == 0.0) break;  // the limit, the reverse KL
      T const exponent = saturate_cast<T>(T(order) * log_ratio);
      return {saturate_cast<T>(exp_minus_one(exponent) / T(order)), saturate_cast<T>(exp(exponent))};
    }
  }
  return {log_ratio, T(1)};
}

}  // namespace attune
