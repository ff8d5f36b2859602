// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include <attune/core/contract.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite.hpp>

/// Whitening: advantages or rewards brought to unit variance over a whole rollout.
namespace attune {

struct whiten_options {
  bool shift_mean = true;  ///< true: the mean is removed (advantages). false: it is kept (rewards, whose sign means
                           ///< something). OpenAI's, TRL's and VERL's meaning; torchtune has it the other way round
  bool bessel_correction = true;  ///< true: variance over n - 1 (TRL, VERL). false: over n (OpenAI, OpenRLHF)
};

/// whitened[i] = (values[i] - mean) / sqrt(variance + 1e-8), plus mean unless shift_mean; mean and variance over the
/// entries that the mask leaves in, a sequences_view's mask, say. Writes 0 where the mask is 0. Where there is nothing
/// to scale by, one value or equal ones, the result is exactly 0 with shift_mean and exactly the value itself without.
///
/// Expects equal sizes, a masked-in entry, finite numbers where the mask is 1 (where it is 0 they are not read) and a
/// variance within double's range. Whitened may be the memory of the values. Two passes in double, left to right.
/// Allocates nothing; writes nothing if it throws.
template <class T>
void whiten(std::span<T const> values, std::span<std::uint8_t const> mask, std::span<T> whitened,
            whiten_options options = {}) {
  expects(mask.size() == values.size(), "whiten: mask.size() == values.size()", mask.size());
  expects(whitened.size() == values.size(), "whiten: whitened.size() == values.size()", whitened.size());
  std::size_t count = 0;
  double sum = 0.0;
  bool equal = true;
  T first = T(0);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (mask[i] == 0) continue;
    if (!std::isfinite(values[i])) [[unlikely]]
      throw contract_violation("expected whiten: values[" + std::to_string(i) + "] finite, got " +
                               nonfinite_text(values[i]));
    if (count == 0) first = values[i];
    equal = equal && values[i] == first;
    sum += static_cast<double>(values[i]);
    ++count;
  }
  expects(count > 0, "whiten: at least one masked-in value");
  double const mean = equal ? static_cast<double>(first) : sum / static_cast<double>(count);
  double squares = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (mask[i] == 0) continue;
    double const deviation = static_cast<double>(values[i]) - mean;
    squares += deviation * deviation;
  }
  double const variance = equal ? 0.0 : squares / static_cast<double>(options.bessel_correction ? count - 1 : count);
  expects(variance <= (std::numeric_limits<double>::max)(), "whiten: a variance within double's range", variance);

  double const deviation = std::sqrt(variance + 1e-8);
  double const kept = options.shift_mean ? 0.0 : mean;
  for (std::size_t i = 0; i < values.size(); ++i)
    whitened[i] = mask[i] == 0 ? T(0) : saturate_cast<T>((static_cast<double>(values[i]) - mean) / deviation + kept);
}

}  // namespace attune
