// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <ranges>
#include <span>

#include <attune/concepts/policy.hpp>

namespace attune {

/// Anything that scores whole sequences: a network, a regular expression, a unit test.
///
///   m(s, scores)   overwrites scores[b] for every sequence b of s; higher is better, any finite unit.
///
/// Laws (checked by testing::check_reward_model_laws): pure, and local as for ReferencePolicy.
template <class M>
concept RewardModel = std::invocable<M&, sequences_view, std::span<double>>;

/// The question a reward model asks of an objective: here are the scores of this batch, what is dL/dscores?
template <class T>
using score_slopes_of = function_ref<void(std::span<T const> scores, std::span<T> slopes)>;

/// A RewardModel with parameters and a vector-Jacobian product.
///
///   m.scores(s, out)                      overwrites out[b], one scalar per sequence
///   m.accumulate_score_gradient(s, ask)   computes scores, calls ask(scores, slopes) exactly once, and adds
///                                         sum_b slopes[b] * d scores[b] / d theta  to the gradients
///   m.parameters()                        as for Policy
///
/// Laws (checked by testing::check_trainable_reward_model_laws): those of Policy, with scores for logps.
/// Modelled by: scalar_head.
template <class M>
concept TrainableRewardModel =
    std::floating_point<typename M::scalar> && RewardModel<M> &&
    requires(M& m, M const& c, sequences_view s, std::span<typename M::scalar> out,
             score_slopes_of<typename M::scalar> ask) {
      { c.scores(s, out) } -> std::same_as<void>;
      { m.accumulate_score_gradient(s, ask) } -> std::same_as<void>;
      requires std::ranges::input_range<decltype(m.parameters())>;
      requires std::convertible_to<std::ranges::range_reference_t<decltype(m.parameters())>,
                                   parameter<typename M::scalar>>;
    };

}  // namespace attune
