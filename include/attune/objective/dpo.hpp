// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite.hpp>
#include <attune/objective/value_and_slope.hpp>

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
  double beta = 0.1;             ///< strength of the KL constraint behind the implied reward; > 0
  double label_smoothing = 0.0;  ///< probability that a label is flipped; [0, 1/2], robust [0, 1/2)
  dpo_smoothing smoothing = dpo_smoothing::conservative;  ///< what label_smoothing means
  /// Weight of the chosen response's negative log-likelihood per token, added to the pair's loss (Pang et al. 2024,
  /// "Iterative reasoning preference optimization", eq. 2): keeps its probability up while the rejected one's falls,
  /// where DPO alone may let both go; >= 0.
  double rpo_alpha = 0.0;
};

/// Throws contract_violation naming the field and its value.
inline void validate(dpo_options const& o) {
  expects(o.beta > 0.0 && o.beta <= (std::numeric_limits<double>::max)(), "dpo_options.beta > 0 and finite", o.beta);
  if (o.smoothing == dpo_smoothing::robust)
    expects(o.label_smoothing >= 0.0 && o.label_smoothing < 0.5, "dpo_options.label_smoothing in [0, 0.5) (robust)",
            o.label_smoothing);
  else
    expects(o.label_smoothing >= 0.0 && o.label_smoothing <= 0.5, "dpo_options.label_smoothing in [0, 0.5]",
            o.label_smoothing);
  expects(o.rpo_alpha >= 0.0 && o.rpo_alpha <= (std::numeric_limits<double>::max)(),
          "dpo_options.rpo_alpha >= 0 and finite", o.rpo_alpha);
}

/// The loss of one pair and its derivatives, from its two log-ratios log pi(y) - log pi_ref(y); without the term of
/// rpo_alpha, which is no function of the ratios.
///
/// With z = beta (chosen - rejected), e = label_smoothing, s the logistic function:
///   conservative  -(1 - e) log s(z) - e log s(-z)                    =  -log s(z) + e z
///   robust        (-(1 - e) log s(z) + e log s(-z)) / (1 - 2 e)      =  -log s(z) - e z / (1 - 2 e)
/// since log s(z) - log s(-z) = z; the right-hand sides need one exponential and cancel nowhere. Finite for every
/// finite input: what lies beyond T's range is T's largest number. Expects valid options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<T> dpo_objective(T chosen_log_ratio, T rejected_log_ratio,
                                                                        dpo_options o = {}) noexcept {
  T const tilt = T(o.smoothing == dpo_smoothing::robust ? -o.label_smoothing / (1.0 - 2.0 * o.label_smoothing)
                                                        : o.label_smoothing);
  T const beta = T(o.beta);
  T const z = saturate_cast<T>(beta * saturate_cast<T>(chosen_log_ratio - rejected_log_ratio));
  value_and_slope<T> const plain = negative_log_sigmoid(z);
  T const slope = saturate_cast<T>(beta * (plain.slope + tilt));
  return {saturate_cast<T>(plain.value + tilt * z), slope, -slope};
}

/// Log-probabilities of whole completions: sums over their tokens (sequence_sums), under the policy and the reference.
template <class T>
struct pair_logps {
  std::span<T const> chosen;        // (pairs)
  std::span<T const> rejected;      // (pairs)
  std::span<T const> ref_chosen;    // (pairs)
  std::span<T const> ref_rejected;  // (pairs)
  std::span<std::size_t const> chosen_tokens = {};  // (pairs) tokens in the chosen completion; for rpo_alpha > 0 only
};

/// Sum over this batch of the pairs' losses / total_pairs; overwrites the slopes with its derivatives with respect to
/// the policy's log-probabilities (the reference gets none). total_pairs is that of the whole optimiser step, over all
/// of its micro-batches and ranks; 0 means that this batch is all of it.
///
/// Expects a pair or more, equal sizes, finite log-probabilities, total_pairs not smaller than this batch. Slopes may
/// be the memory of the log-probabilities they belong to. The arithmetic is in double, left to right. Allocates
/// nothing; writes nothing if it throws.
template <class T>
T dpo_loss(pair_logps<T> logps, pair_slopes<T> slopes, dpo_options options = {}, std::size_t total_pairs = 0) {
  validate(options);
  std::size_t const pairs = logps.chosen.size();
  expects(pairs > 0, "dpo_loss: at least one pair");
  expects(logps.rejected.size() == pairs, "dpo_loss: rejected.size() == chosen.size()", logps.rejected.size());
  expects(logps.ref_chosen.size() == pairs, "dpo_loss: ref_chosen.size() == chosen.size()", logps.ref_chosen.size());
  expects(logps.ref_rejected.size() == pairs, "dpo_loss: ref_rejected.size() == chosen.size()",
          logps.ref_rejected.size());
  expects(slopes.chosen.size() == pairs, "dpo_loss: slopes.chosen.size() == chosen.size()", slopes.chosen.size());
  expects(slopes.rejected.size() == pairs, "dpo_loss: slopes.rejected.size() == chosen.size()", slopes.rejected.size());
  expects(total_pairs == 0 || total_pairs >= pairs, "dpo_loss: total_pairs >= chosen.size()", total_pairs);
  if (options.rpo_alpha > 0.0) {
    expects(logps.chosen_tokens.size() == pairs, "dpo_loss: with rpo_alpha > 0, chosen_tokens.size() == chosen.size()",
            logps.chosen_tokens.size());
    for (std::size_t i = 0; i < pairs; ++i)
      expects(logps.chosen_tokens[i] > 0, "dpo_loss: a token or more in every chosen completion; none in pair", i);
  }
  expects_finite(logps.chosen, "dpo_loss: chosen");
  expects_finite(logps.rejected, "dpo_loss: rejected");
  expects_finite(logps.ref_chosen, "dpo_loss: ref_chosen");
  expects_finite(logps.ref_rejected, "dpo_loss: ref_rejected");

  double const total = static_cast<double>(total_pairs == 0 ? pairs : total_pairs);
  auto const log_ratio = [](T policy, T reference) {
    return saturate_cast<double>(static_cast<double>(policy) - static_cast<double>(reference));
  };
  double loss = 0.0;
  for (std::size_t i = 0; i < pairs; ++i) {
    auto const one = dpo_objective(log_ratio(logps.chosen[i], logps.ref_chosen[i]),
                                   log_ratio(logps.rejected[i], logps.ref_rejected[i]), options);
    double const nll_slope =
        options.rpo_alpha > 0.0 ? -options.rpo_alpha / static_cast<double>(logps.chosen_tokens[i]) : 0.0;
    double const nll = options.rpo_alpha > 0.0 ? nll_slope * static_cast<double>(logps.chosen[i]) : 0.0;
    loss += (one.value + nll) / total;
    slopes.chosen[i] = saturate_cast<T>((one.chosen + nll_slope) / total);
    slopes.rejected[i] = saturate_cast<T>(one.rejected / total);
  }
  return saturate_cast<T>(loss);
}

}  // namespace attune
