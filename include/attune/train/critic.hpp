// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>

#include <attune/concepts/optimizer.hpp>
#include <attune/concepts/value_model.hpp>

/// Where PPO's values come from. A trainer takes one of these three; all of them borrow.
namespace attune {

/// A value model of its own, initialised from the reward model or from SFT, with an optimiser of its own.
template <ValueModel M, Optimizer<M> O>
struct separate_critic {
  M& model;
  O& optimizer;
  double learning_rate = 0.0;  ///< peak, on the policy's schedule; > 0, or 0: the policy's
};

template <class M, class O>
separate_critic(M&, O&) -> separate_critic<M, O>;
template <class M, class O>
separate_critic(M&, O&, double) -> separate_critic<M, O>;

/// The policy is an ActorCritic: one trunk, one pass, one optimiser for both.
struct shared_critic {};

/// None: several responses to one prompt are each other's baseline (objective/group_advantages.hpp).
struct no_critic {};

template <class C>
inline constexpr bool is_separate_critic = false;
template <class M, class O>
inline constexpr bool is_separate_critic<separate_critic<M, O>> = true;
template <class C>
inline constexpr bool is_shared_critic = std::same_as<C, shared_critic>;

/// One of the three, and one that can serve a policy P.
template <class C, class P>
concept CriticOf =
    is_separate_critic<C> || std::same_as<C, no_critic> || (is_shared_critic<C> && ActorCritic<P>);

}  // namespace attune
