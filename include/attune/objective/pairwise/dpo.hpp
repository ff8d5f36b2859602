// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/objective/pairwise/pair_loss.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Direct preference optimisation (Rafailov et al. 2023, eq. 7): the reward model's loss with the reward that the
/// policy itself implies, beta * log(pi / pi_ref).
namespace attune {

/// What label_smoothing means. Two different losses from one number, equal at 0.
enum class dpo_smoothing {
  conservative,  ///< the expected loss when that share of labels is flipped (Mitchell 2023, "A note on DPO with noisy
                 ///< preferences and relationship to IPO")
  robust,        ///< corrected so that its expectation under flipped labels is the clean loss (Chowdhury et al. 2024,
                 ///< "Provably robust DPO")
};

struct dpo_options {
  static constexpr std::string_view name = "sigmoid";
  double beta = 0.1;             ///< strength of the KL constraint behind the implied reward; > 0
  double label_smoothing = 0.0;  ///< probability that a label is flipped; [0, 1/2], robust [0, 1/2)
  dpo_smoothing smoothing = dpo_smoothing::conservative;  ///< what label_smoothing means
  /// By how much the chosen implied reward is to exceed the rejected one (Amini et al. 2024, "Direct preference
  /// optimization with an offset", eq. 4, with one offset for all pairs); finite.
  double target_margin = 0.0;

  static constexpr pair_inputs reads() noexcept { return {.divergence = true}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(dpo_options const& o) {
  constexpr double largest = (std::numeric_limits<double>::max)();
  expects(o.beta > 0.0 && o.beta <= largest, "dpo_options.beta > 0 and finite", o.beta);
  if (o.smoothing == dpo_smoothing::robust)
    expects(o.label_smoothing >= 0.0 && o.label_smoothing < 0.5, "dpo_options.label_smoothing in [0, 0.5) (robust)",
            o.label_smoothing);
  else
    expects(o.label_smoothing >= 0.0 && o.label_smoothing <= 0.5, "dpo_options.label_smoothing in [0, 0.5]",
            o.label_smoothing);
  expects(o.target_margin >= -largest && o.target_margin <= largest, "dpo_options.target_margin finite",
          o.target_margin);
}

/// The loss of one pair and its derivatives, from its two log-ratios log pi(y) - log pi_ref(y).
///
/// With z = beta (chosen - rejected) - target_margin, e = label_smoothing, s the logistic function:
///   conservative  -(1 - e) log s(z) - e log s(-z)                    =  -log s(z) + e z
///   robust        (-(1 - e) log s(z) + e log s(-z)) / (1 - 2 e)      =  -log s(z) - e z / (1 - 2 e)
/// since log s(z) - log s(-z) = z; the right-hand sides need one exponential and cancel nowhere. Finite for every
/// finite input: what lies beyond T's range is T's largest number. Expects valid options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> dpo_objective(T chosen_log_ratio, T rejected_log_ratio,
                                                                        dpo_options o = {}) noexcept {
  double const denominator = o.smoothing == dpo_smoothing::robust ? 1.0 - 2.0 * o.label_smoothing : -1.0;
  T const tilt = T(-o.label_smoothing / denominator);
  T const z = pair_margin(chosen_log_ratio, rejected_log_ratio, o.beta, o.target_margin);
  value_and_slope<T> const plain = negative_log_sigmoid(z);
  return through_margin<T>({plain.value + tilt * z, plain.slope + tilt}, o.beta);
}

/// The same as the pairwise losses have it.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> pair_objective(response_pair<T> const& p,
                                                                         dpo_options o) noexcept {
  return dpo_objective(p.chosen, p.rejected, o);
}

/// The same for many, on vectors.
inline void pair_objectives(pair_block& block, std::size_t count, dpo_options const& o) noexcept {
  double const denominator = o.smoothing == dpo_smoothing::robust ? 1.0 - 2.0 * o.label_smoothing : -1.0;
  double const tilt = -o.label_smoothing / denominator;
  double z[pair_block::size];
  for (std::size_t k = 0; k < count; ++k)
    z[k] = pair_margin(block.chosen[k], block.rejected[k], o.beta, o.target_margin);
  negative_log_sigmoids(z, count, block.value, block.chosen_slope);
  for (std::size_t k = 0; k < count; ++k) {
    auto const one = through_margin<double>({block.value[k] + tilt * z[k], block.chosen_slope[k] + tilt}, o.beta);
    block.value[k] = one.value;
    block.chosen_slope[k] = one.chosen;
    block.rejected_slope[k] = one.rejected;
  }
}

/// pair_loss of DPO: the batch loss under the name that users look for.
template <class T>
T dpo_loss(pair_logps<T> logps, pair_slopes<T> slopes, dpo_options options = {}, std::size_t total_pairs = 0) {
  return pair_loss(logps, slopes, options, {.pairs = total_pairs});
}

}  // namespace attune
