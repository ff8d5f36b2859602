// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/concepts/reward_model.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/statistics.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/train/batches.hpp>

namespace attune {

/// How often `model` scores the chosen response strictly above the rejected one, with Wilson's 95 % interval. A tie is
/// a miss: a model that answers the same to everything has accuracy 0, not 1/2.
///
/// `model` is anything that scores sequences: a reward model, log_prob_score, implicit_reward, a lambda. Pairs are
/// scored in the dataset's order, in batches of at most `micro_batch_tokens` tokens. contract_violation for an empty
/// dataset or a score that is not finite (it names the pair).
template <RewardModel M, PreferenceDataset D>
[[nodiscard]] proportion pairwise_accuracy(M& model, D const& pairs, std::size_t micro_batch_tokens = 4096) {
  expects(pairs.size() > 0, "pairwise_accuracy: at least one pair");
  step_batches batches(micro_batch_tokens);
  std::vector<double> scores;
  std::size_t hits = 0;
  auto const count = [&] {
    for (std::size_t i = 0; i < batches.size(); ++i) {
      micro_batch const batch = batches[i];
      scores.resize(batch.sequences.size());
      model(batch.sequences, std::span<double>(scores));
      for (std::size_t j = 0; j < batch.examples.size(); ++j) {
        if (!std::isfinite(scores[2 * j]) || !std::isfinite(scores[2 * j + 1]))
          throw contract_violation("pairwise_accuracy: the scores of pair " + std::to_string(batch.examples[j]) +
                                   " are not finite");
        if (scores[2 * j] > scores[2 * j + 1]) ++hits;
      }
    }
    batches.clear();
  };
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    preference_pair const one = pairs[i];
    batches.push_back(one, i);
    if (batches.size() >= 16 || batches.examples() >= 1024) count();
  }
  count();
  return wilson_interval(hits, pairs.size());
}

/// A policy as a judge: the score of a response is its log-probability, summed over its tokens, or their mean.
template <ReferencePolicy P>
class log_prob_score {
 public:
  /// The policy is borrowed. `per_token`: mean instead of sum, so that length alone does not decide.
  explicit log_prob_score(P const& policy, bool per_token = false) : policy_(policy), per_token_(per_token) {}

  void operator()(sequences_view s, std::span<double> scores) {
    logps_.resize(s.total_tokens());
    policy_.log_probs(s, std::span<typename P::scalar>(logps_));
    sequence_sums<typename P::scalar>(logps_, s, scores);
    if (!per_token_) return;
    for (std::size_t b = 0; b < s.size(); ++b) {
      std::size_t const tokens = completion_tokens(s.sequence_mask(b));
      if (tokens > 0) scores[b] /= static_cast<double>(tokens);
    }
  }

 private:
  P const& policy_;
  bool per_token_;
  std::vector<typename P::scalar> logps_;
};

/// The reward that DPO trains without saying so: log pi(y) - log pi_ref(y), times beta (Rafailov et al. 2023, eq. 5,
/// less a constant per prompt). Its accuracy does not depend on beta. Both models are borrowed.
template <ReferencePolicy P, ReferencePolicy R>
class implicit_reward {
 public:
  implicit_reward(P const& policy, R const& reference, double beta = 1.0)
      : policy_(policy), reference_(reference), beta_(beta) {
    expects(beta > 0.0, "implicit_reward: beta > 0", beta);
  }

  void operator()(sequences_view s, std::span<double> scores) {
    reference_scores_.resize(scores.size());
    policy_(s, scores);
    reference_(s, std::span<double>(reference_scores_));
    for (std::size_t b = 0; b < scores.size(); ++b) scores[b] = beta_ * (scores[b] - reference_scores_[b]);
  }

 private:
  log_prob_score<P> policy_;
  log_prob_score<R> reference_;
  double beta_;
  std::vector<double> reference_scores_;
};

}  // namespace attune
