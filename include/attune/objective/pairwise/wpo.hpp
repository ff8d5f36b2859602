// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>

/// Weighted preference optimisation (Zhou et al. 2024, "WPO: Enhancing RLHF with weighted preference optimization", eq.
/// 2 with the alignment by sampled outputs of section 3.2): pairs that the policy itself would write count for more, so
/// that learning from somebody else's data comes nearer to learning from one's own. The weights multiply any pairwise
/// loss, are made anew from the policy at every step and are held fixed in its gradient: pair_logps.weights.
namespace attune {

/// weights[i] = w(chosen) w(rejected) with w(y) = exp(mean over tokens of log pi(y_t) - log sum over v of pi(v)^2): 1
/// where the policy writes like itself on average, less for what it would not write.
///
/// `logps` and `collisions` (log sum over v of pi(v | before t)^2) have one entry per token of a pair batch, sequences
/// 2i and 2i + 1 being pair i; read where the mask is 1. contract_violation names a sequence without a completion
/// token, and a token whose numbers are not finite. Allocates nothing; arithmetic in double.
template <class T>
void wpo_weights(std::span<T const> logps, std::span<T const> collisions, sequences_view pairs,
                 std::span<double> weights) {
  expects(pairs.size() % 2 == 0, "wpo_weights: chosen and rejected in turn, an even number of sequences", pairs.size());
  expects(logps.size() == pairs.total_tokens(), "wpo_weights: logps.size() == pairs.total_tokens()", logps.size());
  expects(collisions.size() == pairs.total_tokens(), "wpo_weights: collisions.size() == pairs.total_tokens()",
          collisions.size());
  expects(weights.size() == pairs.size() / 2, "wpo_weights: a weight per pair", weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    double log_weight = 0.0;
    for (std::size_t const b : {2 * i, 2 * i + 1}) {
      double sum = 0.0;
      std::size_t tokens = 0;
      for (std::size_t t = pairs.offsets[b]; t < pairs.offsets[b + 1]; ++t) {
        if (pairs.mask[t] == 0) continue;
        double const aligned = static_cast<double>(logps[t]) - static_cast<double>(collisions[t]);
        if (!std::isfinite(aligned)) [[unlikely]]
          throw contract_violation("expected wpo_weights: finite numbers, got " +
                                   std::to_string(static_cast<double>(logps[t])) + " and " +
                                   std::to_string(static_cast<double>(collisions[t])) + " (sequence " +
                                   std::to_string(b) + ", token " + std::to_string(t - pairs.offsets[b]) + ")");
        sum += aligned;
        ++tokens;
      }
      expects(tokens > 0, "wpo_weights: a masked-in token in every sequence; found none in sequence", b);
      log_weight += sum / static_cast<double>(tokens);
    }
    weights[i] = saturate_cast<double>(std::exp(log_weight));
  }
}

}  // namespace attune
