// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>

/// A closed vocabulary: every word is one token, so sequences are short and a small model can know all of them.
namespace recipe {

/// Words in a row. The views point into string literals and outlive everything.
using phrase = std::vector<std::string_view>;

/// The words of a literal, parted by spaces.
inline phrase words_of(std::string_view text) {
  phrase words;
  while (!text.empty()) {
    std::size_t const end = text.find(' ');
    if (end != 0) words.push_back(text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
  }
  return words;
}

inline void append(phrase& to, phrase const& more) { to.insert(to.end(), more.begin(), more.end()); }

/// "how many words : A B ?" as a person writes it: "how many words: A B?"
inline std::string readable(phrase const& words) {
  std::string text;
  for (std::string_view const word : words) {
    bool const closes = word == "." || word == "," || word == ":" || word == "?" || word == "!";
    if (!text.empty() && !closes) text += ' ';
    text += word;
  }
  return text;
}

class lexicon {
 public:
  explicit lexicon(phrase words) : words_(std::move(words)) {
    for (std::size_t i = 0; i < words_.size(); ++i)
      attune::expects(ids_.emplace(words_[i], static_cast<attune::token_id>(i)).second, "lexicon: every word once");
  }

  std::size_t size() const noexcept { return words_.size(); }

  attune::token_id id(std::string_view word) const {
    auto const found = ids_.find(word);
    if (found == ids_.end()) throw attune::contract_violation("lexicon: no word \"" + std::string(word) + "\"");
    return found->second;
  }

  std::string_view word(attune::token_id id) const {
    attune::expects(id >= 0 && static_cast<std::size_t>(id) < words_.size(), "lexicon: an id of the vocabulary", id);
    return words_[static_cast<std::size_t>(id)];
  }

  std::vector<attune::token_id> encode(phrase const& words) const {
    std::vector<attune::token_id> ids;
    ids.reserve(words.size() + 1);
    for (std::string_view const word : words) ids.push_back(id(word));
    return ids;
  }

  phrase decode(std::span<attune::token_id const> ids) const {
    phrase words;
    for (attune::token_id const id : ids) words.push_back(word(id));
    return words;
  }

 private:
  phrase words_;
  std::unordered_map<std::string_view, attune::token_id> ids_;
};

}  // namespace recipe
