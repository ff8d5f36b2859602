// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/expects_finite.hpp>

namespace attune {

/// Throws contract_violation unless there is one value per token of the batch: "expected ppo_loss:
/// advantages.size() == batch.total_tokens(), got 4". `name` is "function: field".
template <class T>
void expects_one_per_token(std::span<T> values, sequences_view batch, char const* name) {
  if (values.size() != batch.total_tokens()) [[unlikely]]
    throw contract_violation(std::string("expected ") + name + ".size() == batch.total_tokens(), got " +
                             std::to_string(values.size()));
}

/// Throws contract_violation unless there is one value per token of the batch and every one that the mask leaves in is
/// finite: "expected ppo_loss: advantages[7] finite (sequence 1, token 2), got nan". What the mask leaves out may hold
/// anything. `name` is "function: field". O(T); expects a valid batch.
///
/// The usual batch is finite throughout, so a first pass does without the mask and without branches.
template <class T>
void expects_finite_tokens(std::span<T const> values, sequences_view batch, char const* name) {
  expects_one_per_token(values, batch, name);
  int broken = 0;  // not a bool: a reduction over bool stays scalar
  for (T const x : values) broken |= !(std::abs(x) <= (std::numeric_limits<T>::max)());
  if (broken == 0) [[likely]]
    return;
  for (std::size_t b = 0; b < batch.size(); ++b)
    for (std::size_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t)
      if (batch.mask[t] != 0 && !std::isfinite(values[t]))
        throw contract_violation(std::string("expected ") + name + "[" + std::to_string(t) + "] finite (sequence " +
                                 std::to_string(b) + ", token " + std::to_string(t - batch.offsets[b]) + "), got " +
                                 nonfinite_text(values[t]));
}

}  // namespace attune
