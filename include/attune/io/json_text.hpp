// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>

#include <attune/core/contract.hpp>
#include <attune/io/utf8.hpp>

/// Writing JSON: the few pieces that are easy to get wrong. Objects and arrays are for the caller to punctuate.
namespace attune {

/// Appends text as a JSON string, quotes included. Control characters, U+2028 and U+2029 are escaped, everything else
/// stays as it is; parse_json gives back the same bytes. data_error, naming the byte, if text is not UTF-8.
inline void append_json_string(std::string& out, std::string_view text) {
  constexpr char const* hex = "0123456789abcdef";
  out += '"';
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const length = utf8_length(text, at);
    if (length == 0) throw data_error("a string for JSON: byte " + std::to_string(at) + ": invalid UTF-8");
    char const c = text[at];
    std::string_view const piece = text.substr(at, length);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += hex[static_cast<unsigned char>(c) >> 4];
      out += hex[static_cast<unsigned char>(c) & 15];
    } else if (piece == "\xE2\x80\xA8") {
      out += "\\u2028";
    } else if (piece == "\xE2\x80\xA9") {
      out += "\\u2029";
    } else {
      out += piece;
    }
    at += length;
  }
  out += '"';
}

[[nodiscard]] inline std::string json_string(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

/// Appends the shortest decimal that reads back as the same number. JSON has no NaN and no infinity: those become null,
/// and the caller says elsewhere what they were.
template <class Number>
requires std::integral<Number> || std::floating_point<Number>
void append_json_number(std::string& out, Number number) {
  if constexpr (std::floating_point<Number>) {
    if (!std::isfinite(number)) {
      out += "null";
      return;
    }
  }
  char digits[64];
  auto const end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  out.append(digits, static_cast<std::size_t>(end - digits));
}

}  // namespace attune
