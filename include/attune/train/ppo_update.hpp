// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <attune/concepts/optimizer.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/concepts/value_model.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/policy_gradient_surrogate.hpp>
#include <attune/objective/value_loss.hpp>
#include <attune/train/critic.hpp>
#include <attune/train/ppo_advantages.hpp>
#include <attune/train/ppo_options.hpp>
#include <attune/train/response_batch.hpp>
#include <attune/train/rollout.hpp>

namespace attune {

/// What the optimiser steps of one update came to.
struct ppo_update_outcome {
  policy_gradient_statistics policy;
  value_statistics value;
  metric_sum policy_loss, value_loss;   ///< one entry per mini-batch
  metric_sum grad_norm, critic_grad_norm;
  metric_sum entropy;                   ///< mean over tokens, where it is computed
  std::size_t optimizer_steps = 0;
  bool stopped_early = false;           ///< target_kl
  bool finite = true;                   ///< false: a loss or gradient was not, and the update ended there
};

/// Num_ppo_epochs passes over a rollout in mini-batches: the part of PPO in which parameters move. Permutations are
/// drawn from (seed, update, epoch). Every mini-batch is cut into micro-batches by the token budget under denominators
/// of the whole mini-batch, so the cut changes rounding alone. Everything is borrowed.
template <Policy P, CriticOf<P> Critic, Optimizer<P> O>
class ppo_update {
 public:
  ppo_update(P& policy, Critic critic, O& optimizer, ppo_trainer_options const& options)
      : policy_(policy), critic_(critic), optimizer_(optimizer), options_(options) {
    if constexpr (!TermedPolicy<P>)
      expects(options.entropy_coef == 0.0, "ppo_trainer_options.entropy_coef == 0: the policy is no TermedPolicy",
              options.entropy_coef);
    if constexpr (is_shared_critic<Critic>)
      expects(options.entropy_coef == 0.0 && options.score == score_position::end_token,
              "ppo_trainer_options.entropy_coef == 0 and score end_token with a shared critic");
  }

  /// `kl_loss_coef`: weight of the KL inside the loss in this update. `critic_rate`: of the separate critic.
  ppo_update_outcome operator()(rollout const& of, ppo_targets const& targets, std::uint64_t update,
                                double kl_loss_coef, double learning_rate, double critic_rate) {
    ppo_update_outcome outcome;
    kl_loss_ = {.kl_loss_coef = kl_loss_coef};
    if (kl_loss_coef > 0.0) {
      kl_loss_.kl_loss_estimator = options_.kl.estimator;
      kl_loss_.bias_correction = options_.kl.bias_correction;
    }
    std::size_t const responses = of.responses.size();
    std::size_t const mini_batches = (std::min)(options_.num_mini_batches, responses);
    order_.resize(responses);
    for (std::size_t epoch = 0; epoch < options_.num_ppo_epochs; ++epoch) {
      std::iota(order_.begin(), order_.end(), std::size_t{0});
      // These random streams count down from the last; rollout_collector says who has the others.
      shuffle(order_, random_stream(options_.loop.seed, ~(update * options_.num_ppo_epochs + epoch)));
      for (std::size_t i = 0; i < mini_batches; ++i) {
        std::size_t const first = responses * i / mini_batches, last = responses * (i + 1) / mini_batches;
        bool const very_first = update == 0 && epoch == 0 && i == 0;
        if (!mini_batch(of, targets, std::span(order_).subspan(first, last - first), outcome, very_first)) continue;
        if (!outcome.finite || outcome.stopped_early) {
          zero_gradients();
          return outcome;
        }
        step(learning_rate, critic_rate, outcome);
        if (!outcome.finite) return outcome;
        ++outcome.optimizer_steps;
      }
    }
    return outcome;
  }

  void zero_gradients() {
    optimizer_.zero_gradient(policy_);
    if constexpr (is_separate_critic<Critic>) critic_.optimizer.zero_gradient(critic_.model);
  }

 private:
  using scalar = typename P::scalar;

  template <class T>
  static void widen(std::span<T const> from, std::vector<double>& to) {
    to.assign(from.begin(), from.end());
  }

  static bool finite_where_masked(std::span<double const> values, std::span<std::uint8_t const> mask) noexcept {
    for (std::size_t t = 0; t < values.size(); ++t)
      if (mask[t] != 0 && !std::isfinite(values[t])) return false;
    return true;
  }

  // False: all of its responses are masked as truncated, and there is no step to make.
  bool mini_batch(rollout const& of, ppo_targets const& targets, std::span<std::size_t const> drawn,
                  ppo_update_outcome& outcome, bool very_first) {
    sequences_view const all = of.responses, critic_all = targets.critic_sequences(of);
    which_.assign(drawn.begin(), drawn.end());
    if (options_.mask_truncated_completions) std::erase_if(which_, [&](std::size_t b) { return of.finished[b] == 0; });
    if (which_.empty()) return false;
    std::span<std::size_t const> const which = which_;
    // What is masked stays a sequence of the step, one of loss 0, and has no tokens.
    aggregation_totals totals{.tokens = 0, .sequences = drawn.size(),
                              .constant_length = static_cast<double>(options_.rollout.max_new_tokens)};
    aggregation_totals critic_totals{.tokens = 0, .sequences = which.size()};
    for (std::size_t const b : which) {
      totals.tokens += completion_tokens(all.sequence_mask(b));
      critic_totals.tokens += completion_tokens(critic_all.sequence_mask(b));
    }
    policy_gradient_statistics policy_statistics;
    double policy_loss = 0.0, value_loss_sum = 0.0;
    entropy_ = {};
    auto const policy_slopes = [&](response_batch const& batch, std::span<scalar const> logps, std::span<scalar> slopes,
                                   std::size_t& asked) {
      ++asked;
      widen(logps, logps_);
      if (!finite_where_masked(logps_, batch.tokens().mask)) {
        outcome.finite = false;
        return;
      }
      if (very_first) expects_same(batch, of);
      slopes_.resize(logps_.size());
      policy_loss += std::visit(
          [&](auto const& surrogate) {
            return policy_gradient_loss<double>(
                {.logps = logps_, .old_logps = old_logps_, .advantages = advantages_, .ref_logps = ref_logps_},
                batch.tokens(), slopes_, totals, options_.aggregation, surrogate, &policy_statistics, kl_loss_);
          },
          options_.surrogate);
      for (std::size_t t = 0; t < slopes.size(); ++t) slopes[t] = saturate_cast<scalar>(slopes_[t]);
    };
    auto const critic_slopes = [&]<class T>(response_batch const& batch, std::span<T const> values, std::span<T> slopes,
                                            std::size_t& asked) {
      ++asked;
      widen(values, values_);
      if (!finite_where_masked(values_, batch.tokens().mask)) {
        outcome.finite = false;
        return;
      }
      slopes_.resize(values_.size());
      value_loss_sum += value_loss<double>({.values = values_, .returns = returns_, .old_values = old_values_},
                                           batch.tokens(), slopes_, critic_totals, options_.value, &outcome.value);
      for (std::size_t t = 0; t < slopes.size(); ++t) slopes[t] = saturate_cast<T>(options_.vf_coef * slopes_[t]);
    };
    auto const gather_targets = [&](response_batch const& batch, sequences_view from) {
      batch.gather(std::span<double const>(targets.returns), from, returns_);
      batch.gather(std::span<double const>(targets.values), from, old_values_);
    };

    for_response_batches(all, which, options_.loop.micro_batch_tokens, batch_, [&](response_batch const& batch) {
      std::size_t asked = 0;
      batch.gather(std::span<double const>(of.logps), all, old_logps_);
      batch.gather(std::span<double const>(targets.advantages), all, advantages_);
      batch.gather(std::span<double const>(of.ref_logps), all, ref_logps_);
      if constexpr (is_shared_critic<Critic>) {
        gather_targets(batch, all);
        policy_.accumulate_gradient_with_values(
            batch.tokens(), [&](std::span<scalar const> logps, std::span<scalar const> values, std::span<scalar> slopes,
                                std::span<scalar> value_slopes) {
              std::size_t twice = 0;
              policy_slopes(batch, logps, slopes, asked);
              critic_slopes(batch, values, value_slopes, twice);
            });
      } else {
        accumulate_policy(batch, totals, policy_slopes, outcome, asked);
      }
      expects(asked == 1, "the policy to call ask exactly once per accumulate_gradient", asked);
    });
    if constexpr (is_separate_critic<Critic>) {
      using critic_scalar = typename std::remove_cvref_t<decltype(critic_.model)>::scalar;
      for_response_batches(
          critic_all, which, options_.loop.micro_batch_tokens, batch_, [&](response_batch const& batch) {
            std::size_t asked = 0;
            gather_targets(batch, critic_all);
            critic_.model.accumulate_value_gradient(
                batch.tokens(), [&](std::span<critic_scalar const> values, std::span<critic_scalar> slopes) {
                  critic_slopes(batch, values, slopes, asked);
                });
            expects(asked == 1, "the critic to call ask exactly once per accumulate_value_gradient", asked);
          });
    }
    outcome.finite = outcome.finite && std::isfinite(policy_loss) && std::isfinite(value_loss_sum);
    if (!outcome.finite) return true;
    outcome.policy.add(policy_statistics);
    outcome.policy_loss.add(policy_loss);
    if constexpr (!std::same_as<Critic, no_critic>) outcome.value_loss.add(value_loss_sum);
    outcome.entropy.add(entropy_);
    outcome.stopped_early = options_.target_kl > 0.0 && policy_statistics.approxkl.mean() > options_.target_kl;
    return true;
  }

  template <class Slopes>
  void accumulate_policy(response_batch const& batch, aggregation_totals const& totals, Slopes const& slopes_of_policy,
                         ppo_update_outcome& outcome, std::size_t& asked) {
    if constexpr (TermedPolicy<P>) {
      if (options_.entropy_coef > 0.0) {
        policy_.accumulate_gradient_with(
            batch.tokens(), {.entropies = true},
            [&](term_values<scalar const> const& of, term_slopes<scalar> const& slopes) {
              slopes_of_policy(batch, of.logps, slopes.logps, asked);
              if (!outcome.finite) return;
              sequences_view const s = batch.tokens();
              for (std::size_t b = 0; b < s.size(); ++b) {
                double const weight = token_weight(options_.aggregation, totals, completion_tokens(s.sequence_mask(b)));
                for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t) {
                  if (s.mask[t] == 0) continue;
                  entropy_.add(static_cast<double>(of.entropies[t]));
                  slopes.entropies[t] = static_cast<scalar>(-options_.entropy_coef * weight);
                }
              }
            });
        return;
      }
    }
    policy_.accumulate_gradient(batch.tokens(), [&](std::span<scalar const> logps, std::span<scalar> slopes) {
      slopes_of_policy(batch, logps, slopes, asked);
    });
  }

  void step(double learning_rate, double critic_rate, ppo_update_outcome& outcome) {
    optimizer_report const done = optimizer_.step(policy_, {learning_rate, options_.loop.max_grad_norm});
    outcome.finite = done.finite;
    if (done.finite) outcome.grad_norm.add(done.grad_norm);
    if constexpr (is_separate_critic<Critic>) {
      if (!done.finite) return critic_.optimizer.zero_gradient(critic_.model);
      optimizer_report const critic_done =
          critic_.optimizer.step(critic_.model, {critic_rate, options_.loop.max_grad_norm});
      outcome.finite = critic_done.finite;
      if (critic_done.finite) outcome.critic_grad_norm.add(critic_done.grad_norm);
    }
  }

  // Before anything has moved the ratio is 1 for every token, or sampler and trainer do not speak of one policy.
  void expects_same(response_batch const& batch, rollout const& of) const {
    double const rounding = 256.0 * static_cast<double>(std::numeric_limits<scalar>::epsilon());
    sequences_view const s = batch.tokens();
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
        if (s.mask[t] != 0 && !(std::abs(logps_[t] - old_logps_[t]) <= rounding * (1.0 + std::abs(old_logps_[t]))))
          throw contract_violation("ppo: before the first step the ratio is not 1: accumulate_gradient gives token " +
                                   std::to_string(t - s.offsets[b]) + " of response " +
                                   std::to_string(batch.source(b)) + " (prompt " +
                                   std::to_string(of.prompts[batch.source(b)]) + ") log-probability " +
                                   std::to_string(logps_[t]) + ", log_probs gave " + std::to_string(old_logps_[t]));
  }

  P& policy_;
  Critic critic_;
  O& optimizer_;
  ppo_trainer_options const& options_;
  response_batch batch_;
  std::vector<std::size_t> order_, which_;
  std::vector<double> logps_, values_, slopes_, old_logps_, ref_logps_, advantages_, returns_, old_values_;
  metric_sum entropy_;
  kl_loss_options kl_loss_;
};

}  // namespace attune
