// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include <attune/core/contract.hpp>

/// The soft overlong punishment (Yu et al. 2025, DAPO, eq. 13; TRL: get_soft_overlong_punishment): a part of a reward
/// that tells a policy in time that the length limit is near. rollout_options.overlong_buffer puts it on the score; as
/// a reward of its own it is
///
///   per_response{[o](auto, auto response) { return overlong_penalty(response.size(), o); }}
namespace attune {

struct overlong_penalty_options {
  std::size_t max_length = 0;  ///< tokens, the length limit L_max; >= 1
  std::size_t buffer =
      0;                ///< tokens before it in which the penalty grows, L_cache (DAPO: 4096 of 20480); [1, max_length]
  double factor = 1.0;  ///< the whole penalty, unit of the rewards; > 0
};

/// Throws contract_violation naming the field and its value.
inline void validate(overlong_penalty_options const& o) {
  expects(o.max_length >= 1, "overlong_penalty_options.max_length >= 1", o.max_length);
  expects(o.buffer >= 1 && o.buffer <= o.max_length, "overlong_penalty_options.buffer in [1, max_length]", o.buffer);
  expects(o.factor > 0.0 && o.factor <= (std::numeric_limits<double>::max)(),
          "overlong_penalty_options.factor > 0 and finite", o.factor);
}

/// -factor min(exceed, buffer) / buffer, where exceed = max(length - (max_length - buffer), 0): 0 up to the buffer,
/// -factor at the limit and beyond. Expects valid options.
[[nodiscard]] inline double overlong_penalty(std::size_t length, overlong_penalty_options o) noexcept {
  std::size_t const free = o.max_length - o.buffer;
  if (length <= free) return 0.0;
  std::size_t const exceed = (std::min)(length - free, o.buffer);
  return -o.factor * (static_cast<double>(exceed) / static_cast<double>(o.buffer));
}

}  // namespace attune
