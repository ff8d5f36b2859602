// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <attune/data/demonstration_rows.hpp>
#include <attune/data/dialogue.hpp>
#include <attune/data/jsonl_rows.hpp>
#include <attune/data/preference_rows.hpp>

namespace attune {

/// A prompt as text.
struct prompt_text {
  std::size_t line = 0;  ///< of the file
  std::string prompt;
};

/// How a file spells its prompts; the first row decides for all, and a row that differs is a data_error. Files of
/// demonstrations and of preference pairs will do as well: what they hold beside the prompt is not read. In this order:
///
///   {"messages": messages}           a last message of the assistant's, which would be the answer, is left out
///   {"instruction": text}            as in demonstration_format, "input" included
///   {"prompt": text}                 taken as it is
///   {"prompt": messages}
///   {"chosen": ..., "rejected": ...} what they share, as in preference_format, which reads and checks the whole row
///
/// Messages become text as dialogue.hpp says, with "\n\nAssistant:" at the end. Refused, with line and field: a field
/// that is missing or of another type, an empty prompt.
struct prompt_format {
  enum class layout { messages, instruction, text, prompt_messages, pair };

  layout fields = layout::text;
  preference_format pairs;  ///< layout::pair alone

  static prompt_format of(jsonl_row const& first) {
    if (first.has("messages")) return {layout::messages, {}};
    if (first.has("instruction")) return {layout::instruction, {}};
    if (json_value const* const prompt = first.value.find("prompt"); prompt != nullptr)
      return {prompt->is(json_kind::array) ? layout::prompt_messages : layout::text, {}};
    if (!first.has("chosen") && !first.has("rejected"))
      first.refuse("expected a field prompt, messages or instruction, or the fields chosen and rejected");
    return {layout::pair, preference_format::of(first)};
  }

  prompt_text operator()(jsonl_row const& row) const {
    prompt_text out{row.line, text_of(row)};
    if (out.prompt.empty()) row.refuse("prompt", "empty");
    return out;
  }

 private:
  std::string text_of(jsonl_row const& row) const {
    switch (fields) {
      case layout::messages: {
        std::vector<message> all = messages_of(row, "messages");
        if (all.back().turn == assistant_turn) all.pop_back();
        if (all.empty()) row.refuse("messages", "expected a message before the assistant's");
        return transcript(all).append(assistant_turn);
      }
      case layout::prompt_messages:
        return transcript(messages_of(row, "prompt")).append(assistant_turn);
      case layout::instruction:
        return instruction_prompt(row);
      case layout::pair:
        return pairs(row).prompt;
      case layout::text:
        break;
    }
    return row.text("prompt");
  }
};

}  // namespace attune
