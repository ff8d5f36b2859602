// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite.hpp>
#include <attune/objective/value_and_slope.hpp>

/// The reward model's loss on preferences (Bradley and Terry 1952; Ouyang et al. 2022, eq. 1), with the margin of
/// Touvron et al. 2023 (Llama 2, eq. 2) and the centering of Eisenstein et al. 2023 (section 2).
namespace attune {

struct bradley_terry_options {
  /// Weight of (chosen + rejected)^2, which holds the scores' free constant near 0; >= 0, 0.01 is customary.
  double center_rewards_coefficient = 0.0;
};

/// Throws contract_violation naming the field and its value.
inline void validate(bradley_terry_options const& o) {
  expects(o.center_rewards_coefficient >= 0.0 && o.center_rewards_coefficient <= (std::numeric_limits<double>::max)(),
          "bradley_terry_options.center_rewards_coefficient >= 0 and finite", o.center_rewards_coefficient);
}

/// The loss of one pair of scores, -log sigmoid(chosen - rejected - margin) + c (chosen + rejected)^2, and its two
/// derivatives. Finite for every finite input: what lies beyond T's range is T's largest number.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> bradley_terry_objective(
    T chosen, T rejected, T margin = T(0), bradley_terry_options o = {}) noexcept {
  T const difference = saturate_cast<T>(saturate_cast<T>(chosen - rejected) - margin);
  value_and_slope<T> const preference = negative_log_sigmoid(difference);
  T const sum = saturate_cast<T>(chosen + rejected);
  T const pull = saturate_cast<T>(T(o.center_rewards_coefficient) * sum);
  return {saturate_cast<T>(preference.value + pull * sum), saturate_cast<T>(pull + pull + preference.slope),
          saturate_cast<T>(pull + pull - preference.slope)};
}

template <class T>
struct pair_scores {
  std::span<T const> chosen;            // (pairs)
  std::span<T const> rejected;          // (pairs)
  std::span<double const> margin = {};  // (pairs), unit of the scores; empty is all 0
};

/// Sum over this batch of the pairs' losses / total_pairs; overwrites the slopes with its derivatives. total_pairs is
/// that of the whole optimiser step, over all of its micro-batches and ranks; 0 means that this batch is all of it.
///
/// Expects a pair or more, equal sizes, finite scores and margins, total_pairs not smaller than this batch. Slopes may
/// be the memory of the scores they belong to. The sum runs in double, left to right. Allocates nothing; writes nothing
/// if it throws.
template <class T>
T bradley_terry_loss(pair_scores<T> scores, pair_slopes<T> slopes, bradley_terry_options options = {},
                     std::size_t total_pairs = 0) {
  validate(options);
  std::size_t const pairs = scores.chosen.size();
  expects(pairs > 0, "bradley_terry_loss: at least one pair");
  expects(scores.rejected.size() == pairs, "bradley_terry_loss: rejected.size() == chosen.size()",
          scores.rejected.size());
  expects(scores.margin.empty() || scores.margin.size() == pairs, "bradley_terry_loss: margin.size() == chosen.size()",
          scores.margin.size());
  expects(slopes.chosen.size() == pairs, "bradley_terry_loss: slopes.chosen.size() == chosen.size()",
          slopes.chosen.size());
  expects(slopes.rejected.size() == pairs, "bradley_terry_loss: slopes.rejected.size() == chosen.size()",
          slopes.rejected.size());
  expects(total_pairs == 0 || total_pairs >= pairs, "bradley_terry_loss: total_pairs >= chosen.size()", total_pairs);
  expects_finite(scores.chosen, "bradley_terry_loss: chosen");
  expects_finite(scores.rejected, "bradley_terry_loss: rejected");
  expects_finite(scores.margin, "bradley_terry_loss: margin");

  double const total = static_cast<double>(total_pairs == 0 ? pairs : total_pairs);
  double loss = 0.0;
  constexpr std::size_t block = 128;
  double difference[block], sum[block], value[block], slope[block];
  for (std::size_t first = 0; first < pairs; first += block) {
    std::size_t const count = (std::min)(block, pairs - first);
    for (std::size_t k = 0; k < count; ++k) {
      double const chosen = static_cast<double>(scores.chosen[first + k]);
      double const rejected = static_cast<double>(scores.rejected[first + k]);
      difference[k] = saturate_cast<double>(chosen - rejected);
      sum[k] = saturate_cast<double>(chosen + rejected);
    }
    if (!scores.margin.empty())
      for (std::size_t k = 0; k < count; ++k)
        difference[k] = saturate_cast<double>(difference[k] - scores.margin[first + k]);
    negative_log_sigmoids(difference, count, value, slope);
    for (std::size_t k = 0; k < count; ++k) {
      double const pull = saturate_cast<double>(options.center_rewards_coefficient * sum[k]);
      value[k] = saturate_cast<double>(value[k] + pull * sum[k]) / total;
      sum[k] = pull + pull;
    }
    for (std::size_t k = 0; k < count; ++k) loss += value[k];
    for (std::size_t k = 0; k < count; ++k)
      slopes.chosen[first + k] = saturate_cast<T>(saturate_cast<double>(sum[k] + slope[k]) / total);
    for (std::size_t k = 0; k < count; ++k)
      slopes.rejected[first + k] = saturate_cast<T>(saturate_cast<double>(sum[k] - slope[k]) / total);
  }
  return saturate_cast<T>(loss);
}

}  // namespace attune
