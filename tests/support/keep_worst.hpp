// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <initializer_list>
#include <limits>

namespace attune::test {

/// worst becomes the largest of itself and the errors; a NaN counts as infinite, where std::max would let it pass.
inline void keep_worst(double& worst, std::initializer_list<double> errors) {
  for (double const error : errors) {
    if (std::isnan(error)) worst = std::numeric_limits<double>::infinity();
    if (error > worst) worst = error;
  }
}

}  // namespace attune::test
