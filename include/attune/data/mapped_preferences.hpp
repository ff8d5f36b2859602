// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include <attune/concepts/dataset.hpp>
#include <attune/core/atomic_file.hpp>
#include <attune/core/checksum.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/mapped_file.hpp>
#include <attune/data/load_preferences.hpp>

namespace attune {

/// A file of token ids, made once from JSONL by write_mapped_preferences, native byte order:
///   magic "attune pairs 1\n\0" | ids of all rows, int32 | (padding to 8) | one mapped_row per row | footer
struct mapped_row {
  std::uint64_t begin;  // index of the prompt's first id
  std::uint32_t prompt;
  std::uint32_t chosen;
  std::uint32_t rejected;
  std::uint32_t zero;
  double margin;
};

struct mapped_footer {
  std::uint64_t tokens;
  std::uint64_t rows;
  std::uint64_t table_checksum;  // of the rows
  std::uint64_t file_checksum;   // of everything before the footer
  std::array<char, 16> magic;
};

inline constexpr std::array<char, 16> mapped_magic{'a', 't', 't', 'u', 'n', 'e', ' ',  'p',
                                                   'a', 'i', 'r', 's', ' ', '1', '\n', '\0'};

/// Preference pairs that lie in a file and are paged in as they are touched: a PreferenceDataset whose own memory is a
/// few hundred bytes, whatever the number of rows. Pages that were read count as the process's until the system wants
/// them back; they are the file's, so that costs nothing but the count. Spans stay valid until the object dies.
class mapped_preferences {
 public:
  /// Opens and checks the file: data_error "path: ..." if it is no such file, was cut, its table is damaged or points
  /// outside. O(rows); the ids are checked by verify() alone.
  explicit mapped_preferences(std::string path) : path_(std::move(path)), file_(path_) {
    std::span<std::byte const> const bytes = file_.bytes();
    if (bytes.size() < mapped_magic.size() + sizeof(mapped_footer) ||
        std::memcmp(bytes.data(), mapped_magic.data(), mapped_magic.size()) != 0)
      refuse("no file of preference pairs, or of another version");
    std::memcpy(&footer_, bytes.data() + bytes.size() - sizeof footer_, sizeof footer_);
    if (footer_.magic != mapped_magic) refuse("the file was cut short");
    std::size_t const body = bytes.size() - mapped_magic.size() - sizeof footer_;
    if (footer_.tokens > body / sizeof(token_id) || footer_.rows > body / sizeof(mapped_row) ||
        padded(footer_.tokens * sizeof(token_id)) + footer_.rows * sizeof(mapped_row) != body)
      refuse("its size does not agree with its footer");
    std::byte const* const ids = bytes.data() + mapped_magic.size();
    std::byte const* const table = ids + padded(footer_.tokens * sizeof(token_id));
    // The mapping begins on a page and both arrays on a multiple of 8 in it.
    tokens_ = {reinterpret_cast<token_id const*>(ids), static_cast<std::size_t>(footer_.tokens)};
    rows_ = {reinterpret_cast<mapped_row const*>(table), static_cast<std::size_t>(footer_.rows)};
    if (checksum(std::as_bytes(rows_)) != footer_.table_checksum) refuse("its table of rows is damaged");
    std::uint64_t end = 0;
    for (mapped_row const& row : rows_) {
      if (row.begin != end || row.prompt == 0 || row.chosen == 0 || row.rejected == 0)
        refuse("its table of rows is wrong");
      end += std::uint64_t{row.prompt} + row.chosen + row.rejected;
    }
    if (end != footer_.tokens) refuse("its table of rows is wrong");
  }

  std::size_t size() const noexcept { return rows_.size(); }

  preference_pair operator[](std::size_t i) const noexcept {
    mapped_row const& row = rows_[i];
    std::span<token_id const> const ids = tokens_.subspan(static_cast<std::size_t>(row.begin));
    return {ids.first(row.prompt), ids.subspan(row.prompt, row.chosen),
            ids.subspan(std::size_t{row.prompt} + row.chosen, row.rejected), row.margin};
  }

  std::size_t total_tokens() const noexcept { return tokens_.size(); }

  /// Reads the whole file and compares it with the checksum that its writer left: data_error if a byte differs.
  void verify() const {
    std::span<std::byte const> const bytes = file_.bytes();
    if (checksum(bytes.first(bytes.size() - sizeof footer_)) != footer_.file_checksum) refuse("its checksum is wrong");
  }

  static constexpr std::uint64_t padded(std::uint64_t bytes) noexcept { return (bytes + 7) / 8 * 8; }

 private:
  [[noreturn]] void refuse(std::string const& reason) const { throw data_error(path_ + ": " + reason); }

  std::string path_;
  mapped_file file_;
  mapped_footer footer_{};
  std::span<token_id const> tokens_;
  std::span<mapped_row const> rows_;
};

static_assert(PreferenceDataset<mapped_preferences>);

/// Makes a file for mapped_preferences out of a JSONL file (see read_preferences), whole or not at all. Memory while
/// writing: one row of text and 32 bytes per row of the table.
template <Tokenizer Encoder>
void write_mapped_preferences(std::string const& jsonl_path, std::string const& mapped_path, Encoder const& tokenizer,
                              load_options const& options, load_report& report) {
  static_assert(sizeof(mapped_row) == 32 && sizeof(mapped_footer) == 48 && sizeof(mapped_magic) % 8 == 0);
  write_atomically(mapped_path, [&](file_writer& file) {
    std::deque<mapped_row> rows;  // a deque grows without copying
    std::uint64_t tokens = 0;
    file.write_value(mapped_magic);
    read_preferences(jsonl_path, tokenizer, options, report, [&](preference_pair const& pair) {
      mapped_row row{tokens, 0, 0, 0, 0, pair.margin};
      auto const put = [&](std::span<token_id const> ids, std::uint32_t& length) {
        expects(ids.size() <= (std::numeric_limits<std::uint32_t>::max)(),
                "write_mapped_preferences: fewer than 2^32 tokens");
        length = static_cast<std::uint32_t>(ids.size());
        tokens += ids.size();
        file.write(std::as_bytes(ids));
      };
      put(pair.prompt, row.prompt);
      put(pair.chosen, row.chosen);
      put(pair.rejected, row.rejected);
      rows.push_back(row);
    });
    if (mapped_preferences::padded(tokens * sizeof(token_id)) != tokens * sizeof(token_id))
      file.write_value(token_id{0});
    checksum64 table;
    for (mapped_row const& row : rows) {
      table.update(std::as_bytes(std::span(&row, 1)));
      file.write_value(row);
    }
    file.write_value(mapped_footer{tokens, rows.size(), table.value(), file.checksum(), mapped_magic});
  });
}

}  // namespace attune
