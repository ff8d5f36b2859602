// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite.hpp>

/// Advantages without a critic: several responses to one prompt are each other's baseline.
namespace attune {

/// The advantage of response i with reward r_i in a group of G.
enum class group_baseline {
  rloo,                 ///< r_i - mean of the other G - 1 rewards (Ahmadian et al. 2024): unbiased
  grpo,                 ///< (r_i - mean) / (std + std_epsilon), std over G - 1 (Shao et al. 2024, section 4.1.2)
  dr_grpo,              ///< r_i - mean: no weight on prompts that are almost settled (Liu et al. 2025)
  reinforce_plus_plus,  ///< r_i - mean, then / sqrt(variance over the whole batch + 1e-8) (Hu 2025, the variant with
                        ///< baseline). Each response counts once in that variance; VERL counts it once per token, for
                        ///< which take dr_grpo, broadcast_slopes and whiten
};

struct group_advantages_options {
  group_baseline baseline = group_baseline::rloo;
  std::size_t num_generations = 8;  ///< responses of a prompt, G; >= 2
  double std_epsilon = 1e-4;        ///< grpo alone, unit of the rewards; > 0. TRL's; VERL has 1e-6, OpenRLHF 1e-9
};

/// Throws contract_violation naming the field and its value.
inline void validate(group_advantages_options const& o) {
  expects(o.num_generations >= 2, "group_advantages_options.num_generations >= 2, a response to compare with",
          o.num_generations);
  expects(o.std_epsilon > 0.0 && o.std_epsilon <= (std::numeric_limits<double>::max)(),
          "group_advantages_options.std_epsilon > 0 and finite", o.std_epsilon);
}

/// advantages[b] from rewards[b], the reward of sequence b; sequences G k to G k + G - 1 are the group of prompt k.
/// broadcast_slopes brings them to tokens. Returns the number of groups whose rewards are all equal: their advantages
/// are exactly 0, they teach nothing, and a batch full of them is a reward without a gradient.
///
/// Expects whole groups, one at least, equal sizes, and finite rewards: an error names the sequence by its index.
/// Advantages may be the memory of the rewards. Finite for finite rewards: what lies beyond double's range is its
/// largest number. Left to right. Allocates nothing; writes nothing if it throws.
inline std::size_t group_advantages(std::span<double const> rewards, std::span<double> advantages,
                                    group_advantages_options options = {}) {
  validate(options);
  std::size_t const G = options.num_generations;
  expects(!rewards.empty() && rewards.size() % G == 0,
          "group_advantages: rewards of whole groups of num_generations sequences, one group at least", rewards.size());
  expects(advantages.size() == rewards.size(), "group_advantages: advantages.size() == rewards.size()",
          advantages.size());
  expects_finite(rewards, "group_advantages: rewards");

  double const size = static_cast<double>(G);
  double batch_squares = 0.0;
  std::size_t equal_groups = 0;
  for (std::size_t first = 0; first < rewards.size(); first += G) {
    double mean = 0.0;
    bool equal = true;
    for (std::size_t i = first; i < first + G; ++i) {
      mean += rewards[i] / size;  // divided before it is added, so that large rewards do not overflow
      equal = equal && rewards[i] == rewards[first];
    }
    if (equal) {  // not left to the rounding of the mean
      for (std::size_t i = first; i < first + G; ++i) advantages[i] = 0.0;
      ++equal_groups;
      continue;
    }
    double squares = 0.0;
    for (std::size_t i = first; i < first + G; ++i) {
      double const deviation = saturate_cast<double>(rewards[i] - mean);
      advantages[i] = deviation;
      squares += deviation * deviation;
    }
    batch_squares += squares;
    // r_i - mean of others = (r_i - mean) G / (G - 1)
    double const scale = options.baseline == group_baseline::rloo ? size / (size - 1.0)
                         : options.baseline == group_baseline::grpo
                             ? 1.0 / (std::sqrt(squares / (size - 1.0)) + options.std_epsilon)
                             : 1.0;
    for (std::size_t i = first; i < first + G; ++i) advantages[i] = saturate_cast<double>(advantages[i] * scale);
  }
  if (options.baseline == group_baseline::reinforce_plus_plus) {
    // The mean over the batch is 0 already, and not removing what rounding left of it keeps the zeros exact.
    double const variance = batch_squares / static_cast<double>(rewards.size() - 1);
    for (double& advantage : advantages) advantage /= std::sqrt(variance + 1e-8);
  }
  return equal_groups;
}

}  // namespace attune
