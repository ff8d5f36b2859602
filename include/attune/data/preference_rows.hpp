// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <attune/data/dialogue.hpp>
#include <attune/data/jsonl_rows.hpp>

namespace attune {

/// A preference row as text.
struct preference_text {
  std::size_t line = 0;  ///< of the file
  std::string prompt;
  std::string chosen;
  std::string rejected;
  double margin = 0.0;
  bool early_prompt = false;  ///< the prompt ends before the last reply: the transcripts part earlier
};

/// How a file spells its preference pairs; the first row decides for all, and a row that differs is a data_error.
///
///   {"prompt": text, "chosen": text, "rejected": text}            taken as they are
///   {"chosen": text, "rejected": text}                            transcripts; the shared dialogue is the prompt
///   {"prompt": messages, "chosen": messages, "rejected": messages}
///   {"chosen": messages, "rejected": messages}                    conversations; the shared messages are the prompt
///
/// and in each of them, optionally, "margin": number. Messages become text as dialogue.hpp says. Other fields are not
/// read. Refused, with line and field: a field that is missing or of another type, an empty prompt or completion,
/// chosen equal to rejected, no shared dialogue.
struct preference_format {
  bool has_prompt = false;
  bool conversational = false;
  bool has_margin = false;

  static preference_format of(jsonl_row const& first) {
    json_value const* const chosen = first.value.find("chosen");
    return {first.has("prompt"), chosen != nullptr && chosen->is(json_kind::array), first.has("margin")};
  }

  preference_text operator()(jsonl_row const& row) const {
    if (row.has("prompt") != has_prompt)
      row.refuse("prompt", has_prompt ? "missing" : "unexpected: earlier rows have none");
    if (row.has("margin") != has_margin)
      row.refuse("margin", has_margin ? "missing" : "unexpected: earlier rows have none");
    preference_text out = conversational ? from_messages(row) : from_text(row);
    out.line = row.line;
    if (has_margin) {
      json_value const& margin = row.at("margin", json_kind::number);
      try {
        out.margin = margin.as_double();
      } catch (data_error const& error) {  // it knows no line
        row.refuse("margin", error.what());
      }
    }
    if (out.prompt.empty()) row.refuse("prompt", "empty");
    if (out.chosen.empty()) row.refuse("chosen", "an empty completion");
    if (out.rejected.empty()) row.refuse("rejected", "an empty completion");
    if (out.chosen == out.rejected) row.refuse("rejected", "equal to chosen: the pair prefers nothing");
    return out;
  }

 private:
  preference_text from_text(jsonl_row const& row) const {
    std::string const& chosen = row.text("chosen");
    std::string const& rejected = row.text("rejected");
    if (has_prompt) return {.line = 0, .prompt = row.text("prompt"), .chosen = chosen, .rejected = rejected};
    if (chosen == rejected) row.refuse("rejected", "equal to chosen: the pair prefers nothing");
    auto const shared = shared_prompt_length(chosen, rejected);
    if (!shared) row.refuse("rejected", "shares no dialogue with chosen that ends in \"\\n\\nAssistant:\"");
    preference_text out{.line = 0,
                        .prompt = chosen.substr(0, *shared),
                        .chosen = chosen.substr(*shared),
                        .rejected = rejected.substr(*shared)};
    out.early_prompt =
        out.chosen.find(assistant_turn) != std::string::npos || out.rejected.find(assistant_turn) != std::string::npos;
    return out;
  }

  preference_text from_messages(jsonl_row const& row) const {
    std::vector<message> prompt;
    if (has_prompt) prompt = messages_of(row, "prompt");
    std::vector<message> chosen = messages_of(row, "chosen");
    std::vector<message> rejected = messages_of(row, "rejected");
    if (chosen == rejected) row.refuse("rejected", "equal to chosen: the pair prefers nothing");
    std::size_t at = prompt.size();
    if (has_prompt) {
      chosen.insert(chosen.begin(), prompt.begin(), prompt.end());
      rejected.insert(rejected.begin(), prompt.begin(), prompt.end());
    } else {
      auto const parting = std::mismatch(chosen.begin(), chosen.end(), rejected.begin(), rejected.end());
      at = static_cast<std::size_t>(parting.first - chosen.begin());
      auto const is_reply = [&](std::size_t i) {
        return i < chosen.size() && i < rejected.size() && chosen[i].turn == assistant_turn &&
               rejected[i].turn == assistant_turn;
      };
      while (at > 0 && !is_reply(at)) --at;
      if (at == 0) row.refuse("rejected", "shares no messages with chosen before a reply of the assistant");
    }
    for (auto const& [field, messages] : {std::pair("chosen", &chosen), std::pair("rejected", &rejected)}) {
      if ((*messages)[at].turn != assistant_turn)
        row.refuse(field, "the first message of a completion is not the assistant's");
      if (messages->back().turn != assistant_turn) row.refuse(field, "the last message is not the assistant's");
      if (messages->back().content.empty()) row.refuse(field, "an empty completion");
    }
    split_dialogue better = split_before(chosen, at);
    preference_text out{.line = 0,
                        .prompt = std::move(better.prompt),
                        .chosen = std::move(better.completion),
                        .rejected = split_before(rejected, at).completion};
    out.early_prompt = !has_prompt && (std::max)(chosen.size(), rejected.size()) > at + 1;
    return out;
  }
};

}  // namespace attune
