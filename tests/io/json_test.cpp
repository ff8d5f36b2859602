// SPDX-License-Identifier: MIT
#include <attune/io/json.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;

TEST_CASE("json_value: a tree keeps kinds, values and the order of members") {
  json_value const v = parse_json(R"({"z": "text", "a": [1, false, null], "m": {"k": -2.5}})");
  REQUIRE(v.is(json_kind::object));
  REQUIRE(v.members().size() == 3);
  CHECK(v.members()[0].key == "z");
  CHECK(v.members()[2].key == "m");
  CHECK(v.find("z")->as_string() == "text");
  CHECK(v.find("a")->items().size() == 3);
  CHECK(v.find("a")->items()[0].as_integer<int>() == 1);
  CHECK_FALSE(v.find("a")->items()[1].as_boolean());
  CHECK(v.find("a")->items()[2].is(json_kind::null));
  CHECK(v.find("m")->find("k")->as_double() == -2.5);
  CHECK(v.find("none") == nullptr);
  CHECK(v.find("z")->find("x") == nullptr);
}

TEST_CASE("json_value: integers are exact, and what is none is refused") {
  CHECK(parse_json("18446744073709551615").as_integer<std::uint64_t>() == std::numeric_limits<std::uint64_t>::max());
  CHECK(parse_json("-9223372036854775808").as_integer<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
  CHECK(parse_json("9007199254740993").as_integer<std::int64_t>() == 9007199254740993);
  CHECK(message_of<data_error>([] { (void)parse_json("18446744073709551616").as_integer<std::uint64_t>(); }) ==
        "the integer 18446744073709551616 is out of range");
  CHECK(message_of<data_error>([] { (void)parse_json("-1").as_integer<std::size_t>(); }) ==
        "the integer -1 is out of range");
  CHECK_THROWS_AS((void)parse_json("256").as_integer<std::uint8_t>(), data_error);
  CHECK_THROWS_AS((void)parse_json("1e3").as_integer<int>(), data_error);
  CHECK_THROWS_AS((void)parse_json("1.0").as_integer<int>(), data_error);
  CHECK_THROWS_AS((void)parse_json("\"1\"").as_integer<int>(), data_error);
}

TEST_CASE("json_value: a number that no double holds is an error, not infinity") {
  CHECK(parse_json("1.7976931348623157e308").as_double() == std::numeric_limits<double>::max());
  CHECK_THROWS_AS((void)parse_json("1e309").as_double(), data_error);
  CHECK_THROWS_AS((void)parse_json("-1e999999").as_double(), data_error);
}

TEST_CASE("json_value: an accessor of the wrong kind says both kinds") {
  CHECK(message_of<data_error>([] { (void)parse_json("1").as_string(); }) == "expected a string, got a number");
  CHECK(message_of<data_error>([] { (void)parse_json("{}").items(); }) == "expected an array, got an object");
}

TEST_CASE("parse_json: the place stands before every message") {
  CHECK(message_of<data_error>([] { (void)parse_json("{\"a\":}", "rows.jsonl:12"); }) ==
        "rows.jsonl:12: byte 5: expected a value");
  CHECK(message_of<data_error>([] { (void)parse_json("1 1", "p"); }) == "p: byte 2: something follows the value");
}

TEST_CASE("parse_json: a string of a megabyte comes through") {
  std::string const text(1 << 20, 'x');
  CHECK(parse_json('"' + text + '"').as_string() == text);
}
