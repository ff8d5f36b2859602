// SPDX-License-Identifier: MIT
#include <attune/io/utf8.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>

using namespace attune;

namespace {

/// The definition, the other way round: encode the code point and compare.
std::string encoded(std::uint32_t code) {
  auto const c = [](std::uint32_t byte) { return static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) return {c(code)};
  if (code < 0x800) return {c(0xC0 | code >> 6), c(0x80 | (code & 63))};
  if (code < 0x10000) return {c(0xE0 | code >> 12), c(0x80 | (code >> 6 & 63)), c(0x80 | (code & 63))};
  return {c(0xF0 | code >> 18), c(0x80 | (code >> 12 & 63)), c(0x80 | (code >> 6 & 63)), c(0x80 | (code & 63))};
}

}  // namespace

TEST_CASE("utf8_length: accepts exactly the code points, surrogates excepted") {
  std::size_t wrong = 0;
  for (std::uint32_t code = 0; code < 0x200000; ++code) {
    std::string const bytes = encoded(code);
    bool const valid = code <= 0x10FFFF && !(code >= 0xD800 && code < 0xE000);
    wrong += utf8_length(bytes, 0) != (valid ? bytes.size() : 0);
  }
  CHECK(wrong == 0);
}

TEST_CASE("utf8_length: overlong forms, lone continuations and forbidden leads are no text") {
  for (char const* bad :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF", "\x80", "\xBF",
        "\xF5\x80\x80\x80", "\xFE", "\xFF", "\xF8\x88\x80\x80\x80"})
    CHECK(utf8_length(bad, 0) == 0);
}

TEST_CASE("utf8_error: names the first bad byte, and sequences cut short are bad") {
  CHECK(utf8_error("") == 0);
  CHECK(utf8_error("a\xE2\x82\xAC z") == 6);
  CHECK(utf8_error("ab\xE2\x82") == 2);
  CHECK(utf8_error("ab\xE2\x82x") == 2);
  CHECK(utf8_error("\xF0\x9F\x98") == 0);
  CHECK(utf8_error("\xC3") == 0);
}
