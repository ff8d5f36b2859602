// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/io/utf8.hpp>

namespace attune {

enum class json_kind { null, boolean, number, string, array, object };

/// "a string", "an array": for messages.
[[nodiscard]] constexpr char const* name_of(json_kind kind) noexcept {
  switch (kind) {
    case json_kind::null:
      return "null";
    case json_kind::boolean:
      return "a boolean";
    case json_kind::number:
      return "a number";
    case json_kind::string:
      return "a string";
    case json_kind::array:
      return "an array";
    case json_kind::object:
      return "an object";
  }
  return "nothing";
}

/// A strict pull reader of one JSON text (RFC 8259), without a tree: the caller asks for what it expects, in order.
///
///   reader.enter_object();
///   while (reader.next_member(key)) ...        // read or skip exactly one value per member
///
/// Stricter than most: a key given twice in an object, a raw control character, UTF-8 that is not well-formed (also
/// outside of strings), half of a surrogate pair, a byte order mark, nesting beyond max_depth and anything after the
/// value are refused. Numbers are handed out as spelled, so no digit is lost. Every refusal is a data_error
/// "<place>: byte N: reason", N counted from 0. The text must outlive the reader. Recursion-free but for skip_value.
class json_reader {
 public:
  static constexpr std::size_t default_depth = 64;

  /// `place` begins every message: a path, or "path:line".
  explicit json_reader(std::string_view text, std::string_view place = "json", std::size_t max_depth = default_depth)
      : text_(text), place_(place), max_depth_(max_depth) {
    if (text.starts_with("\xEF\xBB\xBF")) refuse("a byte order mark, which JSON does not allow");
    skip_space();
  }

  /// Kind of the value that comes next.
  json_kind peek() const {
    switch (current()) {
      case '{':
        return json_kind::object;
      case '[':
        return json_kind::array;
      case '"':
        return json_kind::string;
      case 't':
      case 'f':
        return json_kind::boolean;
      case 'n':
        return json_kind::null;
      case '-':
        return json_kind::number;
      default:
        break;
    }
    if (current() >= '0' && current() <= '9') return json_kind::number;
    refuse(at_ == text_.size() ? "expected a value, the text ends" : "expected a value");
  }

  bool peek_is(json_kind kind) const { return peek() == kind; }

  void enter_object() { enter(json_kind::object); }
  void enter_array() { enter(json_kind::array); }

  /// Moves to the next member of the object entered last and reads its key; false, and the object is left, at its end.
  bool next_member(std::string& key) {
    if (!next('}')) return false;
    std::size_t const begin = at_;
    if (current() != '"') refuse("expected a key in double quotes");
    key = read_string();
    if (!levels_.back().add(key)) refuse_at(begin, "the key \"" + key + "\" is given twice");
    if (current() != ':') refuse("expected ':'");
    ++at_;
    skip_space();
    return true;
  }

  /// Moves to the next element of the array entered last; false, and the array is left, at its end.
  bool next_element() { return next(']'); }

  std::string read_string() {
    expect(json_kind::string);
    std::string out;
    ++at_;
    for (;;) {
      std::size_t run = at_;
      while (run < text_.size() && plain(text_[run])) ++run;
      out.append(text_.substr(at_, run - at_));
      at_ = run;
      if (at_ == text_.size()) refuse("a string without its closing quote");
      char const c = text_[at_];
      if (c == '"') break;
      if (c == '\\') {
        read_escape(out);
      } else if (static_cast<unsigned char>(c) < 0x20) {
        refuse("a control character in a string; JSON spells it as an escape");
      } else {
        std::size_t const length = utf8_length(text_, at_);
        if (length == 0) refuse("invalid UTF-8");
        out.append(text_.substr(at_, length));
        at_ += length;
      }
    }
    ++at_;
    skip_space();
    return out;
  }

  /// The number as spelled: -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?
  std::string_view read_number() {
    expect(json_kind::number);
    std::size_t const begin = at_;
    if (current() == '-') ++at_;
    if (current() == '0')
      ++at_;
    else
      digits();
    if (current() == '.') {
      ++at_;
      digits();
    }
    if (current() == 'e' || current() == 'E') {
      ++at_;
      if (current() == '+' || current() == '-') ++at_;
      digits();
    }
    std::string_view const number = text_.substr(begin, at_ - begin);
    if (current() >= '0' && current() <= '9') refuse_at(begin, "a number with a leading zero");
    skip_space();
    return number;
  }

  bool read_boolean() {
    expect(json_kind::boolean);
    bool const value = current() == 't';
    word(value ? "true" : "false");
    return value;
  }

  void read_null() {
    expect(json_kind::null);
    word("null");
  }

  /// Reads a value of any kind, as strictly, and forgets it.
  void skip_value() {
    std::string key;
    switch (peek()) {
      case json_kind::null:
        return read_null();
      case json_kind::boolean:
        return static_cast<void>(read_boolean());
      case json_kind::number:
        return static_cast<void>(read_number());
      case json_kind::string:
        return static_cast<void>(read_string());
      case json_kind::array:
        enter_array();
        while (next_element()) skip_value();
        return;
      case json_kind::object:
        enter_object();
        while (next_member(key)) skip_value();
        return;
    }
  }

  /// Refuses anything but white space after the value.
  void finish() const {
    if (at_ != text_.size()) refuse("something follows the value");
  }

  /// Bytes read so far, white space after the last token included.
  std::size_t offset() const noexcept { return at_; }

  [[noreturn]] void refuse(std::string const& reason) const { refuse_at(at_, reason); }

  [[noreturn]] void refuse_at(std::size_t offset, std::string const& reason) const {
    throw data_error(std::string(place_) + ": byte " + std::to_string(offset) + ": " + reason);
  }

  /// Refuses the next value unless it is of this kind.
  void expect(json_kind kind) const {
    if (json_kind const found = peek(); found != kind)
      refuse(std::string("expected ") + name_of(kind) + ", got " + name_of(found));
  }

 private:
  /// The keys of an open object. Few keys are compared one by one, many are hashed: n keys cost O(n).
  struct level {
    std::vector<std::string> few;
    std::unordered_set<std::string> many;
    bool empty = true;

    bool add(std::string const& key) {
      if (many.empty()) {
        for (std::string const& seen : few)
          if (seen == key) return false;
        few.push_back(key);
        if (few.size() == 16) {
          many.insert(few.begin(), few.end());
          few.clear();
        }
        return true;
      }
      return many.insert(key).second;
    }
  };

  static constexpr bool plain(char c) noexcept {
    unsigned char const u = static_cast<unsigned char>(c);
    return u >= 0x20 && u < 0x80 && c != '"' && c != '\\';
  }

  /// 0 at the end; a NUL in the text is no JSON either, so the two need no telling apart.
  char current() const noexcept { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() noexcept {
    while (current() == ' ' || current() == '\t' || current() == '\n' || current() == '\r') ++at_;
  }

  void digits() {
    if (current() < '0' || current() > '9') refuse("expected a digit");
    while (current() >= '0' && current() <= '9') ++at_;
  }

  void word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) refuse("expected " + std::string(expected));
    at_ += expected.size();
    skip_space();
  }

  void enter(json_kind kind) {
    expect(kind);
    if (levels_.size() == max_depth_) refuse("nested deeper than " + std::to_string(max_depth_) + " levels");
    levels_.emplace_back();
    ++at_;
    skip_space();
  }

  bool next(char closing) {
    if (current() == closing) {
      ++at_;
      levels_.pop_back();
      skip_space();
      return false;
    }
    if (!levels_.back().empty) {
      if (current() != ',') refuse(std::string("expected ',' or '") + closing + "'");
      ++at_;
      skip_space();
      if (current() == closing) refuse("a comma without a value after it");
    }
    levels_.back().empty = false;
    return true;
  }

  void read_escape(std::string& out) {
    std::size_t const begin = at_++;
    char const c = current();
    ++at_;
    switch (c) {
      case '"':
        out += '"';
        return;
      case '\\':
        out += '\\';
        return;
      case '/':
        out += '/';
        return;
      case 'b':
        out += '\b';
        return;
      case 'f':
        out += '\f';
        return;
      case 'n':
        out += '\n';
        return;
      case 'r':
        out += '\r';
        return;
      case 't':
        out += '\t';
        return;
      case 'u':
        break;
      default:
        refuse_at(begin, "an unknown escape");
    }
    std::uint32_t code = hex4(begin);
    if (code >= 0xDC00 && code < 0xE000) refuse_at(begin, "a lone low surrogate");
    if (code >= 0xD800 && code < 0xDC00) {
      if (text_.substr(at_, 2) != "\\u") refuse_at(begin, "a lone high surrogate");
      at_ += 2;
      std::uint32_t const low = hex4(begin);
      if (low < 0xDC00 || low >= 0xE000) refuse_at(begin, "a lone high surrogate");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, code);
  }

  std::uint32_t hex4(std::size_t begin) {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      char const c = current();
      std::uint32_t digit = 0;
      if (c >= '0' && c <= '9')
        digit = static_cast<std::uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f')
        digit = static_cast<std::uint32_t>(c - 'a') + 10;
      else if (c >= 'A' && c <= 'F')
        digit = static_cast<std::uint32_t>(c - 'A') + 10;
      else
        refuse_at(begin, "\\u without four hexadecimal digits");
      code = code * 16 + digit;
    }
    return code;
  }

  static void append_utf8(std::string& out, std::uint32_t code) {
    auto const put = [&](std::uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | (code >> 6));
      put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      put(0xE0 | (code >> 12));
      put(0x80 | ((code >> 6) & 0x3F));
      put(0x80 | (code & 0x3F));
    } else {
      put(0xF0 | (code >> 18));
      put(0x80 | ((code >> 12) & 0x3F));
      put(0x80 | ((code >> 6) & 0x3F));
      put(0x80 | (code & 0x3F));
    }
  }

  std::string_view text_;
  std::string_view place_;
  std::size_t max_depth_;
  std::size_t at_ = 0;
  std::vector<level> levels_;
};

}  // namespace attune
