// SPDX-License-Identifier: MIT
#include <attune/data/jsonl_rows.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <range/v3/view/take.hpp>

#include "support/gzip_text.hpp"
#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::gzip;
using attune::test::message_of;
using attune::test::temporary_folder;

TEST_CASE("text_lines: a range over the lines of a file with their numbers") {
  temporary_folder const folder;
  std::string const path = folder.file("a", "x\n\nyy\n");
  std::vector<std::string> seen;
  for (text_line const& line : text_lines(path)) {
    CHECK(*line.path == path);
    seen.push_back(std::to_string(line.number) + std::string(line.text));
  }
  CHECK(seen == std::vector<std::string>{"1x", "2", "3yy"});
}

TEST_CASE("jsonl_rows: each row is read once, blank lines are passed over and counted, gzip is transparent") {
  temporary_folder const folder;
  std::string const text = "{\"a\":1}\n\n  \t\r\n{\"a\":2}\r\n{\"a\":3}";
  for (std::string const& content : {text, gzip(text)}) {
    std::vector<std::size_t> lines;
    std::vector<int> values;
    for (jsonl_row const& row : jsonl_rows(folder.file("a", content))) {
      lines.push_back(row.line);
      values.push_back(row.value.find("a")->as_integer<int>());
    }
    CHECK(lines == std::vector<std::size_t>{1, 4, 5});
    CHECK(values == std::vector<int>{1, 2, 3});
  }
}

TEST_CASE("jsonl_rows: a pipeline reads no further than it must") {
  temporary_folder const folder;
  std::string const path = folder.file("a", "{}\n{}\nnot json\n");
  std::size_t rows = 0;
  for ([[maybe_unused]] jsonl_row const& row : jsonl_rows(path) | ranges::views::take(2)) ++rows;
  CHECK(rows == 2);
}

TEST_CASE("jsonl_rows: a bad row is an error with its file, line and byte") {
  temporary_folder const folder;
  auto const refusal = [&](std::string const& content) {
    std::string const path = folder.file("a", content);
    std::string const message = message_of<data_error>([&] {
      for ([[maybe_unused]] jsonl_row const& row : jsonl_rows(path)) {
      }
    });
    REQUIRE(message.starts_with(path));
    return message.substr(path.size());
  };
  CHECK(refusal("{}\n{\"a\":\"\xFF\"}\n") == ":2: byte 6: invalid UTF-8");
  CHECK(refusal("{}\n\n[1]\n") == ":3: expected an object, got an array");
  CHECK(refusal("{} {}\n") == ":1: byte 3: something follows the value");
  CHECK(refusal("{\"a\":1,\"a\":2}") == ":1: byte 7: the key \"a\" is given twice");
  CHECK(refusal("{\"a\":\n1}") == ":1: byte 5: expected a value, the text ends");
  CHECK(refusal("\xEF\xBB\xBF{}") == ":1: byte 0: a byte order mark, which JSON does not allow");
}

TEST_CASE("jsonl_row: a field that is missing or of another kind is refused by name") {
  jsonl_row const row{"f", 7, parse_json(R"({"t":"x","n":1,"z":null})")};
  CHECK(row.text("t") == "x");
  CHECK(row.has("z"));
  CHECK_FALSE(row.has("y"));
  CHECK(message_of<data_error>([&] { (void)row.text("y"); }) == "f:7: field \"y\": missing");
  CHECK(message_of<data_error>([&] { (void)row.text("n"); }) == "f:7: field \"n\": expected a string, got a number");
  CHECK(message_of<data_error>([&] { (void)row.text("z"); }) == "f:7: field \"z\": expected a string, got null");
}
