// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ranges>
#include <span>

#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/model_fingerprint.hpp>
#include <attune/core/sequences.hpp>

namespace attune {

/// A reference that follows its policy: the copy that frozen keeps, and a way to move it. For TR-DPO, whose trainer
/// moves it every so many steps and keeps it in its checkpoints.
///
///   synchronized_reference reference{policy};
///   dpo_trainer trainer{policy, reference, optimizer, {.sync_ref_model = reference_sync_options{}}};
///
/// P's copy constructor must copy its parameters.
template <Policy P>
  requires std::copy_constructible<P>
class synchronized_reference {
 public:
  using scalar = typename P::scalar;

  explicit synchronized_reference(P const& policy) : policy_(policy) {}

  void log_probs(sequences_view s, std::span<scalar> logps) const { policy_.log_probs(s, logps); }

  /// theta_ref = alpha theta + (1 - alpha) theta_ref, element by element in double; alpha 1 copies the bits. Expects a
  /// policy of the same parameters.
  void mix(P& policy, double alpha) {
    auto&& own = policy_.parameters();
    auto&& theirs = policy.parameters();
    auto from = std::ranges::begin(theirs);
    for (auto&& p : own) {
      expects(from != std::ranges::end(theirs), "synchronized_reference::mix: a policy of the same parameters");
      auto&& q = *from;
      ++from;
      expects(p.value.size() == q.value.size(), "synchronized_reference::mix: parameters of one size", q.value.size());
      for (std::size_t i = 0; i < p.value.size(); ++i)
        p.value[i] = alpha == 1.0 ? q.value[i]
                                  : static_cast<scalar>(alpha * static_cast<double>(q.value[i]) +
                                                        (1.0 - alpha) * static_cast<double>(p.value[i]));
    }
  }

  auto parameters() { return policy_.parameters(); }

  /// Identity of the parameters as they are now (core/model_fingerprint.hpp). O(parameters).
  [[nodiscard]] std::uint64_t fingerprint() const { return model_fingerprint(policy_); }

 private:
  mutable P policy_;  // mutable for parameters(), which is not const in a Policy; log_probs changes nothing
};

template <class P>
synchronized_reference(P const&) -> synchronized_reference<P>;

}  // namespace attune
