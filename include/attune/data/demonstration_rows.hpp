// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <attune/data/dialogue.hpp>
#include <attune/data/jsonl_rows.hpp>

namespace attune {

/// A demonstration as text.
struct demonstration_text {
  std::size_t line = 0;  ///< of the file
  std::string prompt;
  std::string completion;
};

/// The dialogue that a row with "instruction" (and, not empty, "input") asks in; the answer is not read.
[[nodiscard]] inline std::string instruction_prompt(jsonl_row const& row) {
  std::string prompt(human_turn);
  prompt.append(" ").append(row.text("instruction"));
  if (row.has("input") && !row.text("input").empty()) prompt.append("\n\n").append(row.text("input"));
  return prompt.append(assistant_turn);
}

/// How a file spells its demonstrations; the first row decides for all, and a row that differs is a data_error.
///
///   {"prompt": text, "completion": text}                      taken as they are
///   {"prompt": messages, "completion": messages}
///   {"instruction": text, "response" or "output": text}       "\n\nHuman: instruction\n\nAssistant:" + " response";
///                                                             an optional "input": text follows the instruction after
///                                                             an empty line, where it is given and not empty
///   {"messages": messages}                                    the last message, the assistant's, is the completion
///
/// Messages become text as dialogue.hpp says. Other fields are not read. Refused, with line and field: a field that is
/// missing or of another type, an empty prompt or completion.
struct demonstration_format {
  enum class layout { prompt_completion, instruction, messages };

  layout fields = layout::prompt_completion;
  bool conversational = false;             ///< prompt and completion are messages
  std::string_view answer = "completion";  ///< the field with the completion

  static demonstration_format of(jsonl_row const& first) {
    if (first.has("messages")) return {layout::messages, true, "messages"};
    if (first.has("instruction")) return {layout::instruction, false, first.has("response") ? "response" : "output"};
    if (!first.has("prompt") && !first.has("completion"))
      first.refuse("expected the fields prompt and completion, or instruction and response, or messages");
    json_value const* const prompt = first.value.find("prompt");
    return {layout::prompt_completion, prompt != nullptr && prompt->is(json_kind::array), "completion"};
  }

  demonstration_text operator()(jsonl_row const& row) const {
    demonstration_text out;
    switch (fields) {
      case layout::prompt_completion:
        out = conversational ? from_two_lists(row) : from_text(row);
        break;
      case layout::instruction:
        out = from_instruction(row);
        break;
      case layout::messages:
        out = from_messages(row);
        break;
    }
    out.line = row.line;
    if (out.prompt.empty()) row.refuse("prompt", "empty");
    return out;
  }

 private:
  demonstration_text from_text(jsonl_row const& row) const {
    return {0, row.text("prompt"), not_empty(row, row.text("completion"))};
  }

  demonstration_text from_instruction(jsonl_row const& row) const {
    return {0, instruction_prompt(row), ' ' + not_empty(row, row.text(answer))};
  }

  demonstration_text from_messages(jsonl_row const& row) const {
    std::vector<message> const all = messages_of(row, answer);
    if (all.size() < 2) row.refuse(answer, "expected a message before the assistant's");
    return split(row, all, all.size() - 1);
  }

  demonstration_text from_two_lists(jsonl_row const& row) const {
    std::vector<message> all = messages_of(row, "prompt");
    std::size_t const at = all.size();
    std::vector<message> const completion = messages_of(row, answer);
    all.insert(all.end(), completion.begin(), completion.end());
    return split(row, all, at);
  }

  demonstration_text split(jsonl_row const& row, std::vector<message> const& all, std::size_t at) const {
    if (all[at].turn != assistant_turn)
      row.refuse(answer, "the completion does not begin with the assistant's message");
    if (all.back().turn != assistant_turn) row.refuse(answer, "the last message is not the assistant's");
    if (all.back().content.empty()) row.refuse(answer, "an empty completion");
    split_dialogue parts = split_before(all, at);
    return {0, std::move(parts.prompt), std::move(parts.completion)};
  }

  std::string const& not_empty(jsonl_row const& row, std::string const& completion) const {
    if (completion.empty()) row.refuse(answer, "an empty completion");
    return completion;
  }
};

}  // namespace attune
