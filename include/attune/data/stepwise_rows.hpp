// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <attune/data/jsonl_rows.hpp>

namespace attune {

/// A solution in steps as text.
struct stepwise_text {
  std::size_t line = 0;  ///< of the file
  std::string prompt;
  std::vector<std::string> steps;
  std::vector<bool> labels;  ///< (steps) correct or not
};

/// Reads a row {"prompt": text, "completions": [text, ...], "labels": [true or false, ...]}, one label per step (TRL's
/// stepwise supervision format). Other fields are not read. Refused, with line and field: a field or an item that is
/// missing or of another type, an empty prompt or step, no step, labels that are more or fewer than the steps.
[[nodiscard]] inline stepwise_text stepwise_row(jsonl_row const& row) {
  stepwise_text out{row.line, row.text("prompt"), {}, {}};
  if (out.prompt.empty()) row.refuse("prompt", "empty");
  auto const refuse = [&](std::string const& field, std::size_t i, char const* wanted, json_value const& got) {
    row.refuse(field + "[" + std::to_string(i) + "]",
               std::string("expected ") + wanted + ", got " + name_of(got.kind()));
  };
  for (json_value const& item : row.at("completions", json_kind::array).items()) {
    if (!item.is(json_kind::string)) refuse("completions", out.steps.size(), "a string", item);
    if (item.as_string().empty()) row.refuse("completions[" + std::to_string(out.steps.size()) + "]", "an empty step");
    out.steps.push_back(item.as_string());
  }
  if (out.steps.empty()) row.refuse("completions", "no steps");
  for (json_value const& item : row.at("labels", json_kind::array).items()) {
    if (!item.is(json_kind::boolean)) refuse("labels", out.labels.size(), "a boolean", item);
    out.labels.push_back(item.as_boolean());
  }
  if (out.labels.size() != out.steps.size())
    row.refuse("labels", std::to_string(out.labels.size()) + " for " + std::to_string(out.steps.size()) + " steps");
  return out;
}

}  // namespace attune
