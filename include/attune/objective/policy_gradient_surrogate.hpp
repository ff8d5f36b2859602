// SPDX-License-Identifier: MIT
#pragma once

#include <variant>

#include <attune/objective/cispo.hpp>
#include <attune/objective/gspo.hpp>
#include <attune/objective/policy_gradient.hpp>
#include <attune/objective/ppo.hpp>
#include <attune/objective/sapo.hpp>

namespace attune {

/// One of the family, chosen while the program runs: a trainer's choice of loss. What it holds are that loss's options,
/// so that there is no place for an option of another.
using policy_gradient_surrogate = std::variant<ppo_options, gspo_options, cispo_options, sapo_options>;

/// Throws contract_violation naming the field and its value.
inline void validate(policy_gradient_surrogate const& surrogate) {
  std::visit([](auto const& options) { validate(options); }, surrogate);
}

/// The aggregation that the surrogate's paper has.
[[nodiscard]] inline loss_aggregation paper_aggregation_of(policy_gradient_surrogate const& surrogate) noexcept {
  return std::visit([](auto const& options) { return options.paper_aggregation; }, surrogate);
}

}  // namespace attune
