// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <attune/data/jsonl_rows.hpp>

/// Dialogues as text, the way of HH-RLHF (Bai et al. 2022, arXiv:2204.05862): every turn begins with its speaker,
///   "\n\nHuman: How are you?\n\nAssistant: Fine, thanks."
/// A prompt ends with "\n\nAssistant:", the completion begins with the space after it.
namespace attune {

inline constexpr std::string_view human_turn = "\n\nHuman:";
inline constexpr std::string_view assistant_turn = "\n\nAssistant:";
inline constexpr std::string_view system_turn = "\n\nSystem:";

/// Length of the prompt that two transcripts share: their common beginning, up to and including the last
/// "\n\nAssistant:" in it. Nothing if they part before the first reply.
[[nodiscard]] inline std::optional<std::size_t> shared_prompt_length(std::string_view a, std::string_view b) noexcept {
  std::size_t const shorter = (std::min)(a.size(), b.size());
  std::size_t common = 0;
  while (common < shorter && a[common] == b[common]) ++common;
  std::size_t const turn = a.substr(0, common).rfind(assistant_turn);
  if (turn == std::string_view::npos) return std::nullopt;
  return turn + assistant_turn.size();
}

/// One turn of a conversation given as messages.
struct message {
  std::string_view turn;  ///< human_turn, assistant_turn or system_turn
  std::string_view content;

  friend bool operator==(message const&, message const&) = default;
};

/// The messages [{"role": ..., "content": ...}, ...] of a field; the views point into the row. Roles: "user" and
/// "human"; "assistant" and "gpt"; "system". Anything else, and an empty list, is refused by name.
[[nodiscard]] inline std::vector<message> messages_of(jsonl_row const& row, std::string_view field) {
  std::vector<message> out;
  for (json_value const& item : row.at(field, json_kind::array).items()) {
    std::string const place = std::string(field) + "[" + std::to_string(out.size()) + "]";
    auto const text = [&](std::string_view key) -> std::string const& {
      json_value const* const value = item.find(key);
      std::string const name = place + "." + std::string(key);
      if (value == nullptr) row.refuse(name, "missing");
      if (!value->is(json_kind::string))
        row.refuse(name, std::string("expected a string, got ") + name_of(value->kind()));
      return value->as_string();
    };
    std::string const& role = text("role");
    std::string_view turn;
    if (role == "user" || role == "human") turn = human_turn;
    if (role == "assistant" || role == "gpt") turn = assistant_turn;
    if (role == "system") turn = system_turn;
    if (turn.empty()) row.refuse(place + ".role", "unknown role \"" + role + "\"");
    out.push_back({turn, text("content")});
  }
  if (out.empty()) row.refuse(field, "no messages");
  return out;
}

/// "\n\nHuman: a\n\nAssistant: b"
[[nodiscard]] inline std::string transcript(std::vector<message> const& messages) {
  std::string out;
  for (message const& m : messages) out.append(m.turn).append(" ").append(m.content);
  return out;
}

/// Messages split before number `at`, which must be the assistant's: the transcript so far with "\n\nAssistant:" at its
/// end, and what follows.
struct split_dialogue {
  std::string prompt;
  std::string completion;
};

[[nodiscard]] inline split_dialogue split_before(std::vector<message> const& messages, std::size_t at) {
  auto const middle = messages.begin() + static_cast<std::ptrdiff_t>(at);
  split_dialogue out;
  out.prompt = transcript({messages.begin(), middle}).append(assistant_turn);
  out.completion = transcript({middle, messages.end()}).substr(assistant_turn.size());
  return out;
}

}  // namespace attune
