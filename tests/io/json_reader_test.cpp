// SPDX-License-Identifier: MIT
#include <attune/io/json_reader.hpp>

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <vector>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;
using namespace std::string_literals;

namespace {

void read_all(std::string_view text, std::size_t depth = json_reader::default_depth) {
  json_reader reader(text, "f", depth);
  reader.skip_value();
  reader.finish();
}

std::string refusal(std::string_view text) {
  return message_of<data_error>([&] { read_all(text); });
}

}  // namespace

TEST_CASE("json_reader: reads what is asked for, in order") {
  json_reader reader(R"( { "a" : [1, -2.5e+3, true, null, "x"], "b": {} } )");
  std::string key;
  reader.enter_object();
  REQUIRE(reader.next_member(key));
  CHECK(key == "a");
  reader.enter_array();
  REQUIRE(reader.next_element());
  CHECK(reader.read_number() == "1");
  REQUIRE(reader.next_element());
  CHECK(reader.read_number() == "-2.5e+3");
  REQUIRE(reader.next_element());
  CHECK(reader.read_boolean());
  REQUIRE(reader.next_element());
  reader.read_null();
  REQUIRE(reader.next_element());
  CHECK(reader.read_string() == "x");
  CHECK_FALSE(reader.next_element());
  REQUIRE(reader.next_member(key));
  CHECK(key == "b");
  reader.enter_object();
  CHECK_FALSE(reader.next_member(key));
  CHECK_FALSE(reader.next_member(key));
  reader.finish();
}

TEST_CASE("json_reader: escapes, surrogate pairs, NUL and raw UTF-8 become bytes") {
  json_reader reader("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u00e9\\u2028\\ud83d\\ude00\xE2\x82\xAC\"");
  CHECK(reader.read_string() == "\"\\/\b\f\n\r\t\0\xC3\xA9\xE2\x80\xA8\xF0\x9F\x98\x80\xE2\x82\xAC"s);
}

TEST_CASE("json_reader: the extremes of surrogate pairs") {
  CHECK(json_reader("\"\\ud800\\udc00\"").read_string() == "\xF0\x90\x80\x80");
  CHECK(json_reader("\"\\uDBFF\\uDFFF\"").read_string() == "\xF4\x8F\xBF\xBF");
}

TEST_CASE("json_reader: half a surrogate pair is refused by name and place") {
  CHECK(refusal(R"("ab\ud800")") == "f: byte 3: a lone high surrogate");
  CHECK(refusal(R"("\ud800x")") == "f: byte 1: a lone high surrogate");
  CHECK(refusal(R"("\ud800\n")") == "f: byte 1: a lone high surrogate");
  CHECK(refusal(R"("\ud800\u0041")") == "f: byte 1: a lone high surrogate");
  CHECK(refusal(R"("\udc00")") == "f: byte 1: a lone low surrogate");
}

TEST_CASE("json_reader: a key given twice is refused at any level and for any number of keys") {
  CHECK(refusal(R"({"a":1,"b":2,"a":3})") == "f: byte 13: the key \"a\" is given twice");
  CHECK(refusal(R"([{"x":{"k":1,"\u006b":2}}])") == "f: byte 13: the key \"k\" is given twice");
  CHECK_NOTHROW(read_all(R"({"a":{"a":1},"b":{"a":1}})"));
  for (std::size_t const keys : {15U, 16U, 17U, 1000U}) {
    std::string text = "{";
    for (std::size_t i = 0; i < keys; ++i) text += "\"k" + std::to_string(i) + "\":0,";
    CHECK_NOTHROW(read_all(text + "\"other\":0}"));
    for (std::size_t const twice : {std::size_t{0}, keys / 2, keys - 1})
      CHECK(refusal(text + "\"k" + std::to_string(twice) + "\":0}").find("is given twice") != std::string::npos);
  }
}

TEST_CASE("json_reader: invalid UTF-8 is refused with its byte") {
  CHECK(refusal("\"ab\xFF\"") == "f: byte 3: invalid UTF-8");
  CHECK(refusal("\"\xC0\x80\"") == "f: byte 1: invalid UTF-8");
  CHECK(refusal("\"\xED\xA0\x80\"") == "f: byte 1: invalid UTF-8");
  CHECK(refusal("\"\xE2\x82\"") == "f: byte 1: invalid UTF-8");
  CHECK(refusal("{\"\x80\":1}") == "f: byte 2: invalid UTF-8");
  CHECK(refusal("[1,\xA0]") == "f: byte 3: expected a value");
}

TEST_CASE("json_reader: nesting beyond the limit is refused, at the limit it is not") {
  CHECK_NOTHROW(read_all("[[{}]]", 3));
  CHECK(message_of<data_error>([] { read_all("[[{}]]", 2); }) == "f: byte 2: nested deeper than 2 levels");
  CHECK(refusal(std::string(200000, '[')).find("nested deeper than 64 levels") != std::string::npos);
}

TEST_CASE("json_reader: whatever RFC 8259 does not allow is refused") {
  std::vector<std::string_view> const bad{"",
                                          " ",
                                          "nul",
                                          "nulll",
                                          "True",
                                          "tru",
                                          "+1",
                                          "01",
                                          "-01",
                                          "-",
                                          "1.",
                                          ".5",
                                          "1e",
                                          "1e+",
                                          "0x1",
                                          "1_0",
                                          "NaN",
                                          "Infinity",
                                          "-Infinity",
                                          "'a'",
                                          "\"",
                                          "\"a",
                                          "\"\\",
                                          "\"\\x\"",
                                          "\"\\u12\"",
                                          "\"\\u12G4\"",
                                          "\"\t\"",
                                          "\"\n\"",
                                          "[",
                                          "[1",
                                          "[1,",
                                          "[1,]",
                                          "[,1]",
                                          "[1 2]",
                                          "]",
                                          "{",
                                          "{\"a\"",
                                          "{\"a\":",
                                          "{\"a\":1",
                                          "{\"a\":1,",
                                          "{\"a\":1,}",
                                          "{a:1}",
                                          "{1:1}",
                                          "{\"a\" 1}",
                                          "{,}",
                                          "1 2",
                                          "{} {}",
                                          "[1]]",
                                          "[1}",
                                          "{\"a\":1]",
                                          "// x\n1",
                                          "1 // x",
                                          "\xEF\xBB\xBF{}",
                                          "\f1",
                                          "\v1"};
  for (std::string_view const text : bad) {
    CAPTURE(text);
    CHECK(refusal(text).starts_with("f: byte "));
  }
  CHECK(refusal(std::string_view("1\0", 2)) == "f: byte 1: something follows the value");
  CHECK(refusal(std::string_view("\"\0\"", 3)) ==
        "f: byte 1: a control character in a string; JSON spells it as an escape");
}

TEST_CASE("json_reader: every value that RFC 8259 allows is read") {
  for (std::string_view const text : {"0", "-0", "10", "1.5", "1e5", "1E-5", "1.0e+10", "\"\"", "\"\x7F\"", "[]", "{}",
                                      "[[],{}]", " \t\r\n1 \t\r\n", "{\"\":0}", "18446744073709551616"})
    CHECK_NOTHROW(read_all(text));
}

TEST_CASE("json_reader: a prefix of a text is never a text") {
  std::string const text = R"({"a":[1,2.5,"x\u00e9\ud83d\ude00",true,null],"b":{"c":"d"}})";
  CHECK_NOTHROW(read_all(text));
  for (std::size_t size = 0; size < text.size(); ++size) CHECK_THROWS_AS(read_all(text.substr(0, size)), data_error);
}

TEST_CASE("json_reader: a value of another kind than asked for is refused by name") {
  CHECK(message_of<data_error>([] { json_reader("[1]", "f:3").enter_object(); }) ==
        "f:3: byte 0: expected an object, got an array");
  CHECK(message_of<data_error>([] { json_reader("null").read_string(); }) ==
        "json: byte 0: expected a string, got null");
}
