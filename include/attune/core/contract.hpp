// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>

/// The two ways in which a call can be refused.
///
///   contract_violation   the caller's mistake: sizes that disagree, an option out of range. Names condition and value.
///   data_error           the world's: a file, a row, a field. Begins with "path:line: " or "path: byte N: ".
///
/// Numerical trouble (a loss that is not finite) is neither: it is reported in the step's report and acted on by an
/// option. Both are thrown at the boundary of a batch, never inside a loop over elements, never in device code.
namespace attune {

struct contract_violation : std::logic_error {
  using std::logic_error::logic_error;
};

struct data_error : std::runtime_error {
  using std::runtime_error::runtime_error;

  /// "path:line: message"; lines count from 1.
  data_error(std::string const& path, std::size_t line, std::string const& message)
      : std::runtime_error(path + ":" + std::to_string(line) + ": " + message) {}
};

/// Throws contract_violation unless the condition holds. `condition` is a full phrase with the place in it:
/// "dpo_loss: rejected.size() == chosen.size()". Allocates only when it throws.
inline void expects(bool holds, char const* condition) {
  if (!holds) [[unlikely]]
    throw contract_violation(std::string("expected ") + condition);
}

/// The same with the offending value: expects(beta > 0, "dpo_options.beta > 0", beta) says
/// "expected dpo_options.beta > 0, got -1". Floating-point values are given with nine digits.
template <class Number>
  requires std::is_arithmetic_v<Number>
void expects(bool holds, char const* condition, Number value) {
  if (holds) [[likely]]
    return;
  std::string text;
  if constexpr (std::is_floating_point_v<Number>) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));
    text = digits;
  } else {
    text = std::to_string(value);
  }
  throw contract_violation(std::string("expected ") + condition + ", got " + text);
}

}  // namespace attune
