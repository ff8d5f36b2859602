// SPDX-License-Identifier: MIT
#include <attune/io/json_text.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>

#include <attune/core/random.hpp>
#include <attune/io/json.hpp>

#include "support/temporary_folder.hpp"

using namespace attune;

TEST_CASE("json_string: quotes, backslashes, controls and line separators are escaped, the rest is kept") {
  CHECK(json_string("a\"b\\c\n\x01\x1f\x7f") == "\"a\\\"b\\\\c\\n\\u0001\\u001f\x7f\"");
  CHECK(json_string(std::string("\0", 1)) == "\"\\u0000\"");
  CHECK(json_string("\xE2\x80\xA8\xE2\x80\xA9\xE2\x82\xAC") == "\"\\u2028\\u2029\xE2\x82\xAC\"");
}

TEST_CASE("json_string: parse_json gives back the same bytes, whatever the text") {
  random_stream random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (std::uint64_t i = random.below(20); i > 0; --i) {
      std::uint64_t code = random.below(4) == 0 ? random.below(0x110000) : random.below(0x80);
      if (code >= 0xD800 && code < 0xE000) code = 0x2028;
      if (code < 0x80)
        text += static_cast<char>(code);
      else if (code < 0x800)
        (text += static_cast<char>(0xC0 | code >> 6)) += static_cast<char>(0x80 | (code & 63));
      else if (code < 0x10000)
        ((text += static_cast<char>(0xE0 | code >> 12)) += static_cast<char>(0x80 | (code >> 6 & 63))) +=
            static_cast<char>(0x80 | (code & 63));
      else
        (((text += static_cast<char>(0xF0 | code >> 18)) += static_cast<char>(0x80 | (code >> 12 & 63))) +=
         static_cast<char>(0x80 | (code >> 6 & 63))) += static_cast<char>(0x80 | (code & 63));
    }
    CHECK(parse_json(json_string(text)).as_string() == text);
  }
}

TEST_CASE("json_string: text that is not UTF-8 is refused with its byte") {
  CHECK(attune::test::message_of<data_error>([] { (void)json_string("ab\xFF"); }) ==
        "a string for JSON: byte 2: invalid UTF-8");
}

TEST_CASE("append_json_number: reads back as the same number; what is not finite is null") {
  auto const text = [](auto number) {
    std::string out;
    append_json_number(out, number);
    return out;
  };
  for (double const x : {0.0, -0.0, 1.0, 0.1, 1.0 / 3.0, 1e300, 5e-324, -123.456}) {
    CHECK(parse_json(text(x)).as_double() == x);
  }
  CHECK(text(std::numeric_limits<std::uint64_t>::max()) == "18446744073709551615");
  CHECK(text(-7) == "-7");
  CHECK(text(std::numeric_limits<double>::quiet_NaN()) == "null");
  CHECK(text(-std::numeric_limits<double>::infinity()) == "null");
}
