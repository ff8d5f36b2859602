// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include <attune/data/demonstration_rows.hpp>
#include <attune/data/jsonl_rows.hpp>

namespace attune {

/// A judged completion as text.
struct feedback_text {
  std::size_t line = 0;  ///< of the file
  std::string prompt;
  std::string completion;
  bool desirable = false;
};

/// How a file spells its judged completions: a demonstration in any layout of demonstration_format, and beside it
///
///   "label": true or false     whether it is desirable (TRL's unpaired preference format)
///
/// Refused, with line and field: what demonstration_format refuses, a label that is missing or not a boolean.
struct feedback_format {
  demonstration_format response = {};

  static feedback_format of(jsonl_row const& first) { return {demonstration_format::of(first)}; }

  feedback_text operator()(jsonl_row const& row) const {
    bool const desirable = row.at("label", json_kind::boolean).as_boolean();
    demonstration_text text = response(row);
    return {text.line, std::move(text.prompt), std::move(text.completion), desirable};
  }
};

}  // namespace attune
