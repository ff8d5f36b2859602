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

/// Judged completions in memory: a FeedbackDataset. A row costs 4 bytes per token id and 17 bytes beside (a place, two
/// lengths and the judgement), 25 where weights are given. Spans stay valid until the object dies.
class feedback_data {
 public:
  /// Appends a copy. Expects prompt and completion not empty, and a weight that is finite and >= 0.
  void push_back(judged_completion const& row) {
    expects(!row.prompt.empty() && !row.completion.empty(),
            "feedback_data::push_back: a prompt and a completion of at least one token");
    expects((std::max)(row.prompt.size(), row.completion.size()) <= (std::numeric_limits<std::uint32_t>::max)() / 4,
            "feedback_data::push_back: fewer than 2^30 tokens");
    expects(row.weight >= 0.0 && row.weight <= (std::numeric_limits<double>::max)(),
            "feedback_data::push_back: a weight >= 0 and finite", row.weight);
    token_store::location where = 0;
    std::span<token_id> const out = tokens_.allocate(row.prompt.size() + row.completion.size(), where);
    std::copy(row.completion.begin(), row.completion.end(),
              std::copy(row.prompt.begin(), row.prompt.end(), out.begin()));
    if (row.weight != 1.0 && weights_.empty()) weights_.resize(places_.size(), 1.0);
    places_.push_back(where);
    lengths_.push_back(static_cast<std::uint32_t>(row.prompt.size()));
    lengths_.push_back(static_cast<std::uint32_t>(row.completion.size()));
    desirable_.push_back(row.desirable ? 1 : 0);
    if (row.weight != 1.0 || !weights_.empty()) weights_.push_back(row.weight);
  }

  std::size_t size() const noexcept { return places_.size(); }

  judged_completion operator[](std::size_t i) const {
    std::size_t const prompt = lengths_[2 * i];
    return {tokens_.at(places_[i], 0, prompt), tokens_.at(places_[i], prompt, lengths_[2 * i + 1]), desirable_[i] != 0,
            weights_.empty() ? 1.0 : weights_[i]};
  }

  std::size_t total_tokens() const noexcept { return tokens_.total_tokens(); }

 private:
  token_store tokens_;
  std::deque<token_store::location> places_;  // a deque grows without copying
  std::deque<std::uint32_t> lengths_;         // prompt, completion of every row
  std::deque<std::uint8_t> desirable_;
  std::deque<double> weights_;                // empty while all are 1
};

/// The responses of a preference dataset one by one: row 2i is pair i's chosen one, desirable, row 2i + 1 its rejected
/// one, undesirable. Borrows the dataset. Margins have no place in it.
template <PreferenceDataset Pairs>
class unpaired_feedback {
 public:
  explicit unpaired_feedback(Pairs const& pairs) noexcept : pairs_(&pairs) {}

  std::size_t size() const { return 2 * static_cast<std::size_t>(pairs_->size()); }
  judged_completion operator[](std::size_t i) const {
    preference_pair const pair = (*pairs_)[i / 2];
    return {pair.prompt, i % 2 == 0 ? pair.chosen : pair.rejected, i % 2 == 0};
  }

 private:
  Pairs const* pairs_;
};

template <PreferenceDataset Pairs>
[[nodiscard]] unpaired_feedback<Pairs> unpaired(Pairs const& pairs) noexcept {
  return unpaired_feedback<Pairs>(pairs);
}

template <PreferenceDataset Pairs>
void unpaired(Pairs const&& pairs) = delete;  // the dataset must outlive the view

static_assert(FeedbackDataset<feedback_data>);

}  // namespace attune
