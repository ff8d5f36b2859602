// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <span>

#include <attune/concepts/dataset.hpp>
#include <attune/core/contract.hpp>
#include <attune/data/token_store.hpp>

namespace attune {

/// Preference pairs in memory: a PreferenceDataset. A row costs 4 bytes per token id (the prompt is held once) and 20
/// bytes beside (a place and three lengths), 28 where margins are given. Spans stay valid until the object dies.
class preference_data {
 public:
  /// Appends a copy. Expects prompt, chosen and rejected not empty, and margin finite.
  void push_back(preference_pair const& pair) {
    expects(!pair.prompt.empty() && !pair.chosen.empty() && !pair.rejected.empty(),
            "preference_data::push_back: a prompt and two completions of at least one token");
    expects(pair.margin - pair.margin == 0.0, "preference_data::push_back: a finite margin", pair.margin);
    std::array<std::span<token_id const>, 3> const parts{pair.prompt, pair.chosen, pair.rejected};
    std::size_t total = 0;
    for (auto const& part : parts) {
      expects(part.size() <= (std::numeric_limits<std::uint32_t>::max)() / 4,
              "preference_data::push_back: fewer than 2^30 tokens", part.size());
      total += part.size();
    }
    token_store::location where = 0;
    std::span<token_id> out = tokens_.allocate(total, where);
    for (auto const& part : parts) {
      for (std::size_t i = 0; i < part.size(); ++i) out[i] = part[i];
      out = out.subspan(part.size());
      lengths_.push_back(static_cast<std::uint32_t>(part.size()));
    }
    if (pair.margin != 0.0 && margins_.empty()) margins_.resize(places_.size(), 0.0);
    places_.push_back(where);
    if (pair.margin != 0.0 || !margins_.empty()) margins_.push_back(pair.margin);
  }

  std::size_t size() const noexcept { return places_.size(); }

  preference_pair operator[](std::size_t i) const {
    std::size_t const prompt = lengths_[3 * i];
    std::size_t const chosen = lengths_[3 * i + 1];
    std::size_t const rejected = lengths_[3 * i + 2];
    return {tokens_.at(places_[i], 0, prompt), tokens_.at(places_[i], prompt, chosen),
            tokens_.at(places_[i], prompt + chosen, rejected), margins_.empty() ? 0.0 : margins_[i]};
  }

  std::size_t total_tokens() const noexcept { return tokens_.total_tokens(); }

 private:
  token_store tokens_;
  std::deque<token_store::location> places_;  // a deque grows without copying
  std::deque<std::uint32_t> lengths_;         // prompt, chosen, rejected of every row
  std::deque<double> margins_;                // empty while all are 0
};

static_assert(PreferenceDataset<preference_data>);

}  // namespace attune
