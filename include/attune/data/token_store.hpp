// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <attune/core/sequences.hpp>

namespace attune {

/// Token ids, appended run by run, in blocks that never move: growing copies nothing, so the peak while loading is the
/// ids themselves and one block (1 MiB), where one growing array would need up to three times as much. 4 bytes per id.
class token_store {
 public:
  /// Where a run begins.
  using location = std::uint64_t;

  /// Starts a run of `length` tokens that will lie end to end, to be written through the span.
  std::span<token_id> allocate(std::size_t length, location& where) {
    if (blocks_.empty() || blocks_.back().capacity() - blocks_.back().size() < length) {
      blocks_.emplace_back().reserve(length > block_tokens ? length : block_tokens);
    }
    std::vector<token_id>& block = blocks_.back();
    where = (static_cast<location>(blocks_.size() - 1) << 32) | block.size();
    block.resize(block.size() + length);
    total_ += length;
    return std::span(block).last(length);
  }

  /// Tokens [from, from + length) of the run at `where`.
  std::span<token_id const> at(location where, std::size_t from, std::size_t length) const noexcept {
    return {blocks_[static_cast<std::size_t>(where >> 32)].data() + (where & 0xFFFFFFFFU) + from, length};
  }

  std::size_t total_tokens() const noexcept { return total_; }

 private:
  static constexpr std::size_t block_tokens = std::size_t{1} << 18;

  std::vector<std::vector<token_id>> blocks_;
  std::size_t total_ = 0;
};

}  // namespace attune
