// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <span>

#include <attune/concepts/dataset.hpp>
#include <attune/core/contract.hpp>
#include <attune/data/token_store.hpp>

namespace attune {

/// A prompt without a response.
struct prompt_view {
  std::span<token_id const> prompt;
};

/// Prompts in memory: a PromptDataset. A row costs 4 bytes per token id and 12 bytes beside (a place and a length).
/// Spans stay valid until the object dies.
class prompt_data {
 public:
  /// Appends a copy. Expects a prompt that is not empty.
  void push_back(std::span<token_id const> prompt) {
    expects(!prompt.empty(), "prompt_data::push_back: a prompt of at least one token");
    expects(prompt.size() <= (std::numeric_limits<std::uint32_t>::max)() / 4,
            "prompt_data::push_back: fewer than 2^30 tokens", prompt.size());
    token_store::location where = 0;
    std::ranges::copy(prompt, tokens_.allocate(prompt.size(), where).begin());
    places_.push_back(where);
    lengths_.push_back(static_cast<std::uint32_t>(prompt.size()));
  }

  std::size_t size() const noexcept { return places_.size(); }

  prompt_view operator[](std::size_t i) const { return {tokens_.at(places_[i], 0, lengths_[i])}; }

  std::size_t total_tokens() const noexcept { return tokens_.total_tokens(); }

 private:
  token_store tokens_;
  std::deque<token_store::location> places_;  // a deque grows without copying
  std::deque<std::uint32_t> lengths_;
};

static_assert(PromptDataset<prompt_data>);

}  // namespace attune
