// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include <attune/core/checksum.hpp>
#include <attune/core/sequences.hpp>

namespace attune {

/// Folds a token sequence into a checksum: its length, then its ids, so that a boundary between two sequences cannot
/// move unseen.
inline void absorb_tokens(checksum64& sum, std::span<token_id const> tokens) noexcept {
  sum.update_number(static_cast<std::uint64_t>(tokens.size()));
  if constexpr (std::endian::native == std::endian::little)
    sum.update(std::as_bytes(tokens));
  else
    for (token_id const id : tokens) sum.update_number(id);
}

/// A 64-bit identity of a dataset: equal for equal rows in equal order, wherever they lie (memory, a mapped file).
/// Covers every id, every length, every margin and every judgement. Takes anything with size() and operator[] whose
/// elements have {prompt, chosen, rejected, margin} (preference pairs), {prompt, completion} (demonstrations), with
/// {desirable, weight} (feedback) or {step_ends, labels} (solutions in steps) besides, or {prompt} alone.
/// O(tokens), no allocation; the same on every platform.
template <class Dataset>
[[nodiscard]] std::uint64_t fingerprint(Dataset const& data) {
  checksum64 sum;
  std::size_t const rows = static_cast<std::size_t>(data.size());
  sum.update_number(static_cast<std::uint64_t>(rows));
  for (std::size_t i = 0; i < rows; ++i) {
    auto const& row = data[i];
    absorb_tokens(sum, row.prompt);
    if constexpr (requires { row.chosen; }) {
      absorb_tokens(sum, row.chosen);
      absorb_tokens(sum, row.rejected);
      sum.update_number(static_cast<double>(row.margin));
    } else if constexpr (requires { row.completion; }) {
      absorb_tokens(sum, row.completion);
      if constexpr (requires { row.desirable; }) {
        sum.update_number(static_cast<std::uint64_t>(row.desirable ? 1 : 0));
        sum.update_number(static_cast<double>(row.weight));
      } else if constexpr (requires { row.step_ends; }) {
        sum.update_number(static_cast<std::uint64_t>(row.step_ends.size()));
        for (std::size_t const end : row.step_ends) sum.update_number(static_cast<std::uint64_t>(end));
        for (std::uint8_t const label : row.labels) sum.update_number(static_cast<std::uint64_t>(label));
      }
    }
  }
  return sum.value();
}

}  // namespace attune
