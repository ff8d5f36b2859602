// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <utility>

#include <attune/concepts/policy.hpp>
#include <attune/core/model_fingerprint.hpp>
#include <attune/core/sequences.hpp>

namespace attune {

/// A policy as it was at one moment: a deep copy whose parameters nobody can reach. The usual reference of DPO and PPO.
///
///   frozen reference{policy};   // policy may train on, reference stays
///
/// Satisfies ReferencePolicy and nothing more; a temperature can be read and not changed. P's copy constructor must
/// copy its parameters (a P that shares them with its copies would move under the reference).
template <ReferencePolicy P>
  requires std::copy_constructible<P>
class frozen {
 public:
  using scalar = typename P::scalar;

  explicit frozen(P const& policy) : policy_(policy) {}
  explicit frozen(P&& policy) : policy_(std::move(policy)) {}

  void log_probs(sequences_view s, std::span<scalar> logps) const { policy_.log_probs(s, logps); }

  /// The policy's temperature when it was frozen.
  [[nodiscard]] double temperature() const
    requires TemperedPolicy<P>
  {
    return policy_.temperature();
  }

  /// Identity of the parameters and the temperature (core/model_fingerprint.hpp), for caches and checkpoints.
  /// O(parameters).
  [[nodiscard]] std::uint64_t fingerprint() const
    requires requires(P& p) { p.parameters(); }
  {
    return model_fingerprint(policy_);
  }

 private:
  mutable P policy_;  // mutable for parameters(), which is not const in a Policy; nothing here changes it
};

template <class P>
frozen(P const&) -> frozen<P>;

}  // namespace attune
