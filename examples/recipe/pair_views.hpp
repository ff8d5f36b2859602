// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <attune/data/byte_tokenizer.hpp>
#include <attune/data/demonstration_data.hpp>
#include <attune/data/preference_data.hpp>

/// What each stage sees of a file of transcripts. The file is read whole; every stage cuts it in its own way, because
/// they look at different things: a language model at everything, a judge at the reply.
namespace recipe {

/// How much of a pair a stage takes: the end of the prompt, and one end of the replies. The first token, the beginning
/// of the text, is never cut.
struct excerpt {
  std::size_t prompt;            ///< most tokens of the prompt, which keeps its end
  std::size_t reply;             ///< most tokens of a reply
  bool end_of_reply = false;     ///< a longer reply keeps its end rather than its beginning
};

inline attune::preference_data excerpts(attune::preference_data const& pairs, excerpt const& e) {
  attune::preference_data out;
  std::vector<attune::token_id> prompt;
  auto const cut = [&](std::span<attune::token_id const> reply) {
    if (reply.size() <= e.reply) return reply;
    return e.end_of_reply ? reply.last(e.reply) : reply.first(e.reply);
  };
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    attune::preference_pair const pair = pairs[i];
    std::size_t const kept = std::min(pair.prompt.size() - 1, e.prompt - 1);
    prompt.assign(1, pair.prompt.front());
    prompt.insert(prompt.end(), pair.prompt.end() - static_cast<std::ptrdiff_t>(kept), pair.prompt.end());
    out.push_back({.prompt = prompt, .chosen = cut(pair.chosen), .rejected = cut(pair.rejected), .margin = pair.margin});
  }
  return out;
}

/// Text to learn the language from, labels left aside: every chosen transcript in pieces of `window` tokens, and of the
/// rejected one its reply with what stands just before it.
inline attune::demonstration_data transcripts(attune::preference_data const& pairs, std::size_t window) {
  constexpr std::size_t context = 192;
  attune::demonstration_data out;
  attune::token_id const begin = attune::byte_tokenizer::bos();
  std::vector<attune::token_id> text;
  auto const push_pieces = [&] {
    for (std::size_t first = 0; first < text.size(); first += window - 1)
      out.push_back({.prompt = std::span(&begin, 1), .completion = std::span(text).subspan(first, std::min(window - 1, text.size() - first))});
  };
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    attune::preference_pair const pair = pairs[i];
    auto const prompt = pair.prompt.subspan(1);
    text.assign(prompt.begin(), prompt.end());
    text.insert(text.end(), pair.chosen.begin(), pair.chosen.end());
    push_pieces();
    auto const before = prompt.last(std::min(context, prompt.size()));
    text.assign(before.begin(), before.end());
    text.insert(text.end(), pair.rejected.begin(), pair.rejected.end());
    push_pieces();
  }
  return out;
}

/// Some rows of a dataset of pairs.
struct pairs_among {
  attune::preference_data const& pairs;
  std::vector<std::size_t> rows;

  std::size_t size() const { return rows.size(); }
  attune::preference_pair operator[](std::size_t i) const { return pairs[rows[i]]; }
};

}  // namespace recipe
