// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// The hinge loss on the implied reward: Liu et al. 2024, "Statistical rejection sampling improves preference
/// optimization" (RSO), eq. 10, after the calibration loss of Zhao et al. 2023 (SLiC-HF), eq. 1.
namespace attune {

struct hinge_options {
  static constexpr std::string_view name = "hinge";
  double beta = 0.1;  ///< 1 / the margin of the log-ratios that is asked for (RSO's gamma: 0.05); > 0

  static constexpr pair_inputs reads() noexcept { return {.divergence = true}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(hinge_options const& o) {
  expects(o.beta > 0.0 && o.beta <= (std::numeric_limits<double>::max)(), "hinge_options.beta > 0 and finite", o.beta);
}

/// max(0, 1 - z) with z = beta (chosen - rejected). At the kink, z = 1, the slope is 0, as in TRL.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         hinge_options o) noexcept {
  T const z = pair_margin(p.chosen, p.rejected, o.beta);
  if (!(real_part(z) < 1)) return through_margin<T>({z - z, T(0)}, o.beta);  // NaN stays NaN
  return through_margin<T>({T(1) - z, T(-1)}, o.beta);
}

}  // namespace attune
