// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>

/// Between tokens and sequences: log pi(completion) = sum of its tokens' log-probabilities, and the way back, by which
/// a sequence's slope becomes each of its tokens' slope.
namespace attune {

/// sums[b] = sum of logps[t] over the masked-in tokens t of sequence b, in double, left to right; 0 where there is
/// none. Masked-out entries are not read, whatever they hold. Expects logps.size() == s.total_tokens() and
/// sums.size() == s.size(). Allocates nothing.
template <class T>
void sequence_sums(std::span<T const> logps, sequences_view s, std::span<double> sums) {
  validate(s, (std::numeric_limits<std::size_t>::max)());
  expects(logps.size() == s.total_tokens(), "sequence_sums: logps.size() == s.total_tokens()", logps.size());
  expects(sums.size() == s.size(), "sequence_sums: sums.size() == s.size()", sums.size());
  for (std::size_t b = 0; b < s.size(); ++b) {
    double sum = 0.0;
    for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
      if (s.mask[t] != 0) sum += static_cast<double>(logps[t]);
    sums[b] = sum;
  }
}

/// The adjoint: slopes[t] = per_sequence[b] on the masked-in tokens of sequence b, 0 elsewhere. Overwrites all of
/// slopes. Expects per_sequence.size() == s.size() and slopes.size() == s.total_tokens(). Allocates nothing.
template <class T>
void broadcast_slopes(std::span<double const> per_sequence, sequences_view s, std::span<T> slopes) {
  validate(s, (std::numeric_limits<std::size_t>::max)());
  expects(per_sequence.size() == s.size(), "broadcast_slopes: per_sequence.size() == s.size()", per_sequence.size());
  expects(slopes.size() == s.total_tokens(), "broadcast_slopes: slopes.size() == s.total_tokens()", slopes.size());
  for (std::size_t b = 0; b < s.size(); ++b)
    for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
      slopes[t] = s.mask[t] != 0 ? static_cast<T>(per_sequence[b]) : T(0);
}

}  // namespace attune
