// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>

#include <attune/concepts/dataset.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/train/batches.hpp>

namespace attune {

/// Every prompt of a step with the completion of the example after it, (x_i, y_(i+1)), the last prompt with the first
/// completion: what KTO's z0 is estimated from (Ethayarajh et al. 2024, section 4.1). Cyclic over the whole step and
/// not over its micro-batches, so that the pairs, and their order, do not depend on how the step was cut.
///
/// Overwrites `out` with them, in micro-batches by out's own budget; the index of each is its prompt's. `max_length`,
/// where it is not 0, is the most tokens that a pair may have: the completion loses its end, since a long prompt may
/// have met a long completion. Expects a step of one sequence per example, each a prompt and a completion; two examples
/// or more, as a single one would meet its own completion; prompts shorter than max_length.
inline void mismatched_pairs(step_batches const& step, step_batches& out, std::size_t max_length = 0) {
  struct place {
    std::size_t batch = 0, sequence = 0;
  };
  expects(step.examples() >= 2,
          "mismatched_pairs: a step of two examples or more; a single one has no other completion", step.examples());
  expects(step.sequences() == step.examples(), "mismatched_pairs: one sequence per example", step.sequences());
  auto const prompt_length = [](sequences_view s, std::size_t b) {
    auto const mask = s.sequence_mask(b);
    return static_cast<std::size_t>(std::find(mask.begin(), mask.end(), 1) - mask.begin());
  };
  auto const next = [&](place p) {
    if (++p.sequence < step[p.batch].sequences.size()) return p;
    return place{p.batch + 1 < step.size() ? p.batch + 1 : 0, 0};
  };
  out.clear();
  place here{};
  for (std::size_t i = 0; i < step.examples(); ++i) {
    place const after = next(here);
    sequences_view const s = step[here.batch].sequences, other = step[after.batch].sequences;
    std::size_t const index = step[here.batch].examples[here.sequence];
    auto const prompt = s.sequence(here.sequence).first(prompt_length(s, here.sequence));
    auto completion = other.sequence(after.sequence).subspan(prompt_length(other, after.sequence));
    if (max_length > 0) {
      if (prompt.size() >= max_length)
        throw contract_violation("example " + std::to_string(index) + ": its prompt has " +
                                 std::to_string(prompt.size()) + " tokens, which leaves none of max_length " +
                                 std::to_string(max_length) + " for a mismatched completion");
      completion = completion.first((std::min)(completion.size(), max_length - prompt.size()));
    }
    out.push_back(demonstration{prompt, completion}, index);
    here = after;
  }
}

}  // namespace attune
