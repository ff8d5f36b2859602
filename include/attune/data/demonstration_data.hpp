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

/// Demonstrations in memory: a DemonstrationDataset. A row costs 4 bytes per token id and 16 bytes beside (a place and
/// two lengths). Spans stay valid until the object dies.
class demonstration_data {
 public:
  /// Appends a copy. Expects prompt and completion not empty.
  void push_back(demonstration const& row) {
    expects(!row.prompt.empty() && !row.completion.empty(),
            "demonstration_data::push_back: a prompt and a completion of at least one token");
    expects((std::max)(row.prompt.size(), row.completion.size()) <= (std::numeric_limits<std::uint32_t>::max)() / 4,
            "demonstration_data::push_back: fewer than 2^30 tokens");
    token_store::location where = 0;
    std::span<token_id> const out = tokens_.allocate(row.prompt.size() + row.completion.size(), where);
    std::copy(row.completion.begin(), row.completion.end(),
              std::copy(row.prompt.begin(), row.prompt.end(), out.begin()));
    places_.push_back(where);
    lengths_.push_back(static_cast<std::uint32_t>(row.prompt.size()));
    lengths_.push_back(static_cast<std::uint32_t>(row.completion.size()));
  }

  std::size_t size() const noexcept { return places_.size(); }

  demonstration operator[](std::size_t i) const {
    std::size_t const prompt = lengths_[2 * i];
    return {tokens_.at(places_[i], 0, prompt), tokens_.at(places_[i], prompt, lengths_[2 * i + 1])};
  }

  std::size_t total_tokens() const noexcept { return tokens_.total_tokens(); }

 private:
  token_store tokens_;
  std::deque<token_store::location> places_;  // a deque grows without copying
  std::deque<std::uint32_t> lengths_;         // prompt, completion of every row
};

/// The preferred replies of a preference dataset as demonstrations, for SFT before DPO. Borrows the dataset.
template <PreferenceDataset Pairs>
class chosen_demonstrations {
 public:
  explicit chosen_demonstrations(Pairs const& pairs) noexcept : pairs_(&pairs) {}

  std::size_t size() const { return static_cast<std::size_t>(pairs_->size()); }
  demonstration operator[](std::size_t i) const {
    preference_pair const pair = (*pairs_)[i];
    return {pair.prompt, pair.chosen};
  }

 private:
  Pairs const* pairs_;
};

template <PreferenceDataset Pairs>
[[nodiscard]] chosen_demonstrations<Pairs> demonstrations_of(Pairs const& pairs) noexcept {
  return chosen_demonstrations<Pairs>(pairs);
}

template <PreferenceDataset Pairs>
void demonstrations_of(Pairs const&& pairs) = delete;  // the dataset must outlive the view

static_assert(DemonstrationDataset<demonstration_data>);

}  // namespace attune
