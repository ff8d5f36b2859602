// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <attune/core/contract.hpp>

/// Token sequences, the only shape of text that the library knows.
///
/// B sequences lie end to end, never padded. The mask is 1 on the tokens that a loss may see (a completion) and 0 on
/// the rest (a prompt); it is made from lengths, never from a token's value, so a padding id that equals the
/// end-of-sequence id cannot hide anything. Per-token arrays elsewhere (logps, slopes) are aligned with `tokens`:
/// logps[t] scores tokens[t] given all tokens before it in its sequence; no shift by one is ever visible.
/// The first token of a sequence has nothing before it and is never masked in.
namespace attune {

using token_id = std::int32_t;

struct sequences_view {
  std::span<token_id const> tokens;       // (T)
  std::span<std::size_t const> offsets;   // (B + 1), offsets[0] = 0, offsets[B] = T, non-decreasing
  std::span<std::uint8_t const> mask;     // (T), 0 or 1

  std::size_t size() const noexcept { return offsets.empty() ? 0 : offsets.size() - 1; }
  std::size_t total_tokens() const noexcept { return tokens.size(); }
  std::size_t length(std::size_t b) const noexcept { return offsets[b + 1] - offsets[b]; }
  std::span<token_id const> sequence(std::size_t b) const noexcept { return tokens.subspan(offsets[b], length(b)); }
  std::span<std::uint8_t const> sequence_mask(std::size_t b) const noexcept {
    return mask.subspan(offsets[b], length(b));
  }
};

/// Number of masked-in tokens.
[[nodiscard]] inline std::size_t completion_tokens(std::span<std::uint8_t const> mask) noexcept {
  std::size_t count = 0;
  for (std::size_t first = 0; first < mask.size(); first += 128) {  // what a byte can count, since bytes add up fastest
    std::uint8_t part = 0;
    for (std::uint8_t const m : mask.subspan(first, (std::min)(std::size_t{128}, mask.size() - first)))
      part = static_cast<std::uint8_t>(part + m);
    count += part;
  }
  return count;
}

/// Throws contract_violation, naming the sequence, unless the view keeps the promises above and every id lies in
/// [0, vocabulary). O(T). Policies call it at their boundary.
inline void validate(sequences_view const& s, std::size_t vocabulary) {
  expects(s.mask.size() == s.tokens.size(), "sequences_view: mask.size() == tokens.size()", s.mask.size());
  expects(s.offsets.empty() ? s.tokens.empty() : s.offsets.front() == 0 && s.offsets.back() == s.tokens.size(),
          "sequences_view: offsets run from 0 to tokens.size()");
  auto const refuse = [](std::size_t b, std::size_t t, char const* what, long long value) {
    throw contract_violation("sequence " + std::to_string(b) + ", token " + std::to_string(t) + ": " + what + ", got " +
                             std::to_string(value));
  };
  // The usual batch is in order: a first pass over the tokens does without branches.
  int broken = 0;
  // As unsigned numbers negative ids lie above every vocabulary.
  std::uint32_t const ids = static_cast<std::uint32_t>((std::min)(vocabulary, std::size_t{1} << 31));
  for (token_id const id : s.tokens) broken |= static_cast<int>(static_cast<std::uint32_t>(id) >= ids);
  std::uint8_t bits = 0;
  for (std::uint8_t const m : s.mask) bits |= m;
  broken |= static_cast<int>(bits > 1);
  for (std::size_t b = 0; b < s.size() && broken == 0; ++b)
    broken |= static_cast<int>(s.offsets[b + 1] < s.offsets[b] || s.offsets[b + 1] > s.tokens.size() ||
                               (s.offsets[b + 1] > s.offsets[b] && s.mask[s.offsets[b]] != 0));
  if (broken == 0) [[likely]]
    return;
  for (std::size_t b = 0; b < s.size(); ++b) {
    if (s.offsets[b + 1] < s.offsets[b] || s.offsets[b + 1] > s.tokens.size())
      refuse(b, 0, "expected offsets in order", static_cast<long long>(s.offsets[b + 1]));
    for (std::size_t i = 0; i < s.length(b); ++i) {
      std::size_t const t = s.offsets[b] + i;
      if (s.tokens[t] < 0 || static_cast<std::size_t>(s.tokens[t]) >= vocabulary)
        refuse(b, i, "expected a token id inside the vocabulary", s.tokens[t]);
      if (s.mask[t] > 1) refuse(b, i, "expected a mask of 0 or 1", s.mask[t]);
      if (i == 0 && s.mask[t] != 0) refuse(b, i, "expected mask 0 on the first token, which nothing precedes", 1);
    }
  }
}

/// Sequences that own their memory. clear() keeps the capacity, so a buffer reused step after step stops allocating.
class sequences {
 public:
  /// Appends prompt + completion, the completion masked in. Expects a non-empty prompt if the completion is not empty.
  void push_back(std::span<token_id const> prompt, std::span<token_id const> completion) {
    expects(!prompt.empty() || completion.empty(), "sequences::push_back: a prompt of at least one token");
    tokens_.insert(tokens_.end(), prompt.begin(), prompt.end());
    tokens_.insert(tokens_.end(), completion.begin(), completion.end());
    mask_.resize(mask_.size() + prompt.size(), 0);
    mask_.resize(mask_.size() + completion.size(), 1);
    offsets_.push_back(tokens_.size());
  }

  /// Appends a sequence with a mask of the caller's making (several assistant turns, say).
  void push_back_masked(std::span<token_id const> tokens, std::span<std::uint8_t const> mask) {
    expects(tokens.size() == mask.size(), "sequences::push_back_masked: mask.size() == tokens.size()", mask.size());
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    mask_.insert(mask_.end(), mask.begin(), mask.end());
    offsets_.push_back(tokens_.size());
  }

  void clear() noexcept {
    tokens_.clear();
    mask_.clear();
    offsets_.resize(1);
  }

  std::size_t size() const noexcept { return offsets_.size() - 1; }
  std::size_t total_tokens() const noexcept { return tokens_.size(); }
  sequences_view view() const noexcept { return {tokens_, offsets_, mask_}; }
  operator sequences_view() const noexcept { return view(); }

 private:
  std::vector<token_id> tokens_;
  std::vector<std::size_t> offsets_ = std::vector<std::size_t>(1, 0);
  std::vector<std::uint8_t> mask_;
};

}  // namespace attune
