// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <range/v3/range/access.hpp>
#include <range/v3/view/facade.hpp>
#include <range/v3/view/filter.hpp>
#include <range/v3/view/transform.hpp>

#include <attune/core/contract.hpp>
#include <attune/io/json.hpp>
#include <attune/io/lines.hpp>

namespace attune {

/// A line of a file with its place. The text holds until the view moves on.
struct text_line {
  std::string const* path = nullptr;
  std::size_t number = 0;  ///< from 1
  std::string_view text;
};

/// The lines of a plain or gzip text file as a single-pass range: one line in memory at a time.
class text_lines : public ranges::view_facade<text_lines> {
 public:
  text_lines() = default;
  explicit text_lines(std::string path, line_options options = {})
      : reader_(std::make_shared<line_reader>(std::move(path), options)) {}

 private:
  friend ranges::range_access;

  class cursor {
   public:
    using single_pass = std::true_type;
    using value_type = text_line;

    cursor() = default;
    explicit cursor(line_reader* reader) : reader_(reader) { next(); }
    text_line read() const { return {&reader_->path(), reader_->line_number(), text_}; }
    void next() { ended_ = !reader_->next(text_); }
    bool equal(ranges::default_sentinel_t) const { return ended_; }

   private:
    line_reader* reader_ = nullptr;
    std::string_view text_;
    bool ended_ = false;
  };

  cursor begin_cursor() const { return cursor(reader_.get()); }

  std::shared_ptr<line_reader> reader_;
};

/// A row of a JSONL file: an object, and where it stands. Refusals name the place and the field.
struct jsonl_row {
  std::string path;
  std::size_t line = 0;
  json_value value;

  [[noreturn]] void refuse(std::string const& reason) const { throw data_error(path, line, reason); }
  [[noreturn]] void refuse(std::string_view field, std::string const& reason) const {
    refuse("field \"" + std::string(field) + "\": " + reason);
  }

  bool has(std::string_view field) const noexcept { return value.find(field) != nullptr; }

  /// The field, if it is of that kind.
  json_value const& at(std::string_view field, json_kind kind) const {
    json_value const* const found = value.find(field);
    if (found == nullptr) refuse(field, "missing");
    if (!found->is(kind)) refuse(field, std::string("expected ") + name_of(kind) + ", got " + name_of(found->kind()));
    return *found;
  }

  std::string const& text(std::string_view field) const { return at(field, json_kind::string).as_string(); }
};

[[nodiscard]] inline jsonl_row parse_row(text_line const& line) {
  jsonl_row row{*line.path, line.number, parse_json(line.text, *line.path + ':' + std::to_string(line.number))};
  if (!row.value.is(json_kind::object)) row.refuse(std::string("expected an object, got ") + name_of(row.value.kind()));
  return row;
}

/// The rows of a .jsonl or .jsonl.gz file as a single-pass range; blank lines are passed over.
[[nodiscard]] inline auto jsonl_rows(std::string path, line_options options = {}) {
  auto const has_text = [](text_line const& line) { return line.text.find_first_not_of(" \t") != line.text.npos; };
  return text_lines(std::move(path), options) | ranges::views::filter(has_text) | ranges::views::transform(parse_row);
}

}  // namespace attune
