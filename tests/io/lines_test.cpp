// SPDX-License-Identifier: MIT
#include <attune/io/lines.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <attune/core/random.hpp>

#include "support/gzip_text.hpp"
#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::gzip;
using attune::test::message_of;
using attune::test::temporary_folder;

namespace {

using strings = std::vector<std::string>;

strings lines_of(std::string const& path, line_options options = {}) {
  line_reader reader(path, options);
  strings out;
  std::string_view line;
  while (reader.next(line)) {
    out.emplace_back(line);
    CHECK(reader.line_number() == out.size());
  }
  CHECK_FALSE(reader.next(line));
  return out;
}

/// Letters that compress badly, so that a small text is a stream of several blocks.
std::string noise(std::size_t size) {
  random_stream random(3);
  std::string out(size, ' ');
  for (char& c : out) c = static_cast<char>('!' + random.below(90));
  return out;
}

}  // namespace

TEST_CASE("line_reader: plain text, with and without an end to the last line, both kinds of line end") {
  temporary_folder const folder;
  CHECK(lines_of(folder.file("a", "")).empty());
  CHECK(lines_of(folder.file("a", "x")) == strings{"x"});
  CHECK(lines_of(folder.file("a", "\n")) == strings{""});
  CHECK(lines_of(folder.file("a", "a\n\nb\r\nc\r\n")) == strings{"a", "", "b", "c"});
  CHECK(lines_of(folder.file("a", "a\nb")) == strings{"a", "b"});
  CHECK(lines_of(folder.file("a", "a\rb\n")) == strings{"a\rb"});
}

TEST_CASE("line_reader: gzip is told by its first bytes, not by the name") {
  temporary_folder const folder;
  CHECK(lines_of(folder.file("plain.jsonl", gzip("a\nb\n"))) == strings{"a", "b"});
  CHECK(lines_of(folder.file("plain.gz", "a\nb\n")) == strings{"a", "b"});
  CHECK(lines_of(folder.file("empty.gz", gzip(""))).empty());
}

TEST_CASE("line_reader: lines of any length across the edges of its buffers") {
  temporary_folder const folder;
  std::string text;
  strings expected;
  for (std::size_t size : {65534U, 65535U, 65536U, 65537U, 1U, 0U, 200001U, 7U}) {
    expected.push_back(noise(size));
    text += expected.back() + "\n";
  }
  CHECK(lines_of(folder.file("a", text)) == expected);
  CHECK(lines_of(folder.file("a.gz", gzip(text))) == expected);
}

TEST_CASE("line_reader: gzip members in a row are one text, zeros behind them are padding") {
  temporary_folder const folder;
  std::string const two = gzip("a\nb") + gzip("c\nd\n") + gzip("") + gzip("e");
  CHECK(lines_of(folder.file("a", two)) == strings{"a", "bc", "d", "e"});
  CHECK(lines_of(folder.file("a", two + std::string(512, '\0'))) == strings{"a", "bc", "d", "e"});
  CHECK_THROWS_AS(lines_of(folder.file("a", two + std::string(5, '\0') + gzip("f"))), data_error);
  CHECK_THROWS_AS(lines_of(folder.file("a", two + "garbage")), data_error);
}

TEST_CASE("line_reader: a gzip stream cut anywhere is an error, never a short text") {
  temporary_folder const folder;
  std::string const whole = gzip("one\ntwo\nthree\n");
  for (std::size_t size = 2; size < whole.size(); ++size) {
    std::string const path = folder.file("a.gz", whole.substr(0, size));
    CHECK(message_of<data_error>([&] { lines_of(path); }).find("the gzip stream is cut short") != std::string::npos);
  }
  std::string const large = gzip(noise(300000) + "\n" + noise(300000));
  std::string const path = folder.file("b.gz", large.substr(0, large.size() - 9));
  CHECK(message_of<data_error>([&] { lines_of(path); }) == path + ":2: the gzip stream is cut short");
}

TEST_CASE("line_reader: a flipped bit in the data or the checksum of a gzip stream is an error") {
  temporary_folder const folder;
  std::string const text = noise(3000) + "\n";
  std::string const whole = gzip(text);
  std::size_t unnoticed = 0;
  for (std::size_t byte = 10; byte < whole.size(); byte += 7) {  // the ten bytes before hold time and system
    std::string bad = whole;
    bad[byte] = static_cast<char>(bad[byte] ^ 4);
    try {
      lines_of(folder.file("a.gz", bad));
      ++unnoticed;
    } catch (data_error const&) {
    }
  }
  CHECK(unnoticed == 0);
  std::string bad_sum = whole;
  bad_sum[whole.size() - 8] = static_cast<char>(bad_sum[whole.size() - 8] ^ 1);
  std::string const path = folder.file("b.gz", bad_sum);
  CHECK(message_of<data_error>([&] { lines_of(path); }) ==
        path + ":1: the gzip stream is damaged: incorrect data check");
}

TEST_CASE("line_reader: a line beyond the limit is an error with its number, plain or inflated from little") {
  temporary_folder const folder;
  CHECK(lines_of(folder.file("a", "12345\n12345\n"), {.max_line_bytes = 5}).size() == 2);
  std::string const path = folder.file("a", "12345\n123456\n");
  CHECK(message_of<data_error>([&] { lines_of(path, {.max_line_bytes = 5}); }) ==
        path + ":2: a line longer than 5 bytes");
  std::string const bomb = folder.file("b.gz", gzip(std::string(10000000, 'x')));
  CHECK(message_of<data_error>([&] { lines_of(bomb, {.max_line_bytes = 100000}); }) ==
        bomb + ":1: a line longer than 100000 bytes");
}

TEST_CASE("line_reader: a file that cannot be opened or read, and an option out of range") {
  temporary_folder const folder;
  CHECK(message_of<data_error>([&] { line_reader const r(folder / "no"); }) ==
        folder / "no: cannot open: No such file or directory");
  CHECK(message_of<data_error>([&] { line_reader const r(folder.path()); }).find("cannot read: Is a directory") !=
        std::string::npos);
  CHECK_THROWS_AS(line_reader(folder.file("a", ""), {.max_line_bytes = 0}), contract_violation);
}
