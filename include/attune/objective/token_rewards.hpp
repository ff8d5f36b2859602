// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite.hpp>
#include <attune/objective/expects_finite_tokens.hpp>
#include <attune/objective/kl.hpp>

/// The reward of RLHF, token by token: the score of the whole response less the price of leaving the reference (Ziegler
/// et al. 2019, eq. 2; Stiennon et al. 2020, section 3.4).
namespace attune {

struct token_rewards_options {
  double kl_coef = 0.05;  ///< price of a nat, unit of the scores; >= 0
  /// TRL's kl_estimator. k1 alone adds up over a response to the papers' -kl_coef log(pi / ref), and has its gradient:
  /// see kl.hpp.
  kl_estimator estimator = kl_estimator::k1;
};

/// Throws contract_violation naming the field and its value.
inline void validate(token_rewards_options const& o) {
  expects(o.kl_coef >= 0.0 && o.kl_coef <= (std::numeric_limits<double>::max)(),
          "token_rewards_options.kl_coef >= 0 and finite", o.kl_coef);
}

template <class T>
struct scored_responses {
  std::span<T const> logps;        // (tokens) under the policy that drew the tokens
  std::span<T const> ref_logps;    // (tokens) under the reference
  std::span<double const> scores;  // (sequences) of whole responses
};

/// rewards[t] = -kl_coef k(logps[t] - ref_logps[t]), plus scores[b] on the last masked-in token of sequence b, the one
/// that ends the response, after which the value is 0 (see gae). 0 where the mask is 0. Overwrites all of rewards.
///
/// Expects a valid batch, logps, ref_logps and rewards of batch.total_tokens(), scores.size() == batch.size(), finite
/// numbers (log-probabilities where the mask is 1; where it is 0 they are not read), and a masked-in token in every
/// sequence: a score with nowhere to go is an error that names its sequence. Rewards may be the memory of the logps.
/// Arithmetic in double; a reward beyond T's range is T's largest. Allocates nothing; writes nothing if it throws.
template <class T>
void token_rewards(scored_responses<T> of, sequences_view batch, std::span<T> rewards,
                   token_rewards_options options = {}) {
  validate(options);
  validate(batch, (std::numeric_limits<std::size_t>::max)());
  expects_finite_tokens(of.logps, batch, "token_rewards: logps");
  expects_finite_tokens(of.ref_logps, batch, "token_rewards: ref_logps");
  expects(of.scores.size() == batch.size(), "token_rewards: scores.size() == batch.size()", of.scores.size());
  expects_finite(of.scores, "token_rewards: scores");
  expects_one_per_token(rewards, batch, "token_rewards: rewards");
  for (std::size_t b = 0; b < batch.size(); ++b)
    expects(completion_tokens(batch.sequence_mask(b)) > 0,
            "token_rewards: a masked-in token in every sequence, to bear its score; found none in sequence", b);

  for (std::size_t b = 0; b < batch.size(); ++b) {
    double score = of.scores[b];
    for (std::size_t t = batch.offsets[b + 1]; t-- > batch.offsets[b];) {
      if (batch.mask[t] == 0) {
        rewards[t] = T(0);
        continue;
      }
      double const log_ratio =
          saturate_cast<double>(static_cast<double>(of.logps[t]) - static_cast<double>(of.ref_logps[t]));
      double const price = saturate_cast<double>(options.kl_coef * kl_estimate(log_ratio, options.estimator).value);
      rewards[t] = saturate_cast<T>(score - price);
      score = 0.0;  // borne by the last token, which comes first here
    }
  }
}

}  // namespace attune
