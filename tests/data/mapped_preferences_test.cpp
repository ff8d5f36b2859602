// SPDX-License-Identifier: MIT
#include <attune/data/mapped_preferences.hpp>

#include <doctest/doctest.h>

#include <string>
#include <utility>

#include <attune/core/fingerprint.hpp>
#include <attune/core/random.hpp>
#include <attune/data/byte_tokenizer.hpp>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::content_of;
using attune::test::message_of;
using attune::test::temporary_folder;

namespace {

std::string rows_of(std::size_t count, bool margins) {
  random_stream random(9);
  std::string out;
  for (std::size_t i = 0; i < count; ++i) {
    auto const word = [&] { return std::string(1 + random.below(12), static_cast<char>('a' + random.below(26))); };
    out += "{\"prompt\":\"" + word() + "\",\"chosen\":\"+" + word() + "\",\"rejected\":\"-" + word() + "\"";
    if (margins) out += ",\"margin\":" + std::to_string(random.uniform());
    out += "}\n";
  }
  return out;
}

}  // namespace

TEST_CASE("mapped_preferences: 20 000 rows are the same from the map as in memory, margins too") {
  temporary_folder const folder;
  for (bool const margins : {false, true}) {
    std::string const path = folder.file("a.jsonl", rows_of(20000, margins));
    load_options const options{.window = 20, .eos = 257};
    load_report memory_report;
    load_report map_report;
    preference_data const memory = load_preferences(path, byte_tokenizer(), options, memory_report);
    write_mapped_preferences(path, folder / "a.pairs", byte_tokenizer(), options, map_report);
    mapped_preferences const map(folder / "a.pairs");
    CHECK(map.size() == 20000);
    CHECK(map.total_tokens() == memory.total_tokens());
    CHECK(fingerprint(map) == fingerprint(memory));
    CHECK(summary(map_report) == summary(memory_report));
    CHECK(map_report.prompts_cut > 0);
    CHECK_NOTHROW(map.verify());
  }
}

TEST_CASE("mapped_preferences: an odd number of tokens keeps the table aligned") {
  temporary_folder const folder;
  load_report report;
  for (char const* prompt : {"a", "ab"}) {
    std::string const path =
        folder.file("a.jsonl", std::string("{\"prompt\":\"") + prompt + R"(","chosen":"x","rejected":"y"})");
    write_mapped_preferences(path, folder / "a.pairs", byte_tokenizer(), {}, report);
    mapped_preferences const map(folder / "a.pairs");
    CHECK(byte_tokenizer().decode(map[0].prompt) == prompt);
    CHECK(byte_tokenizer().decode(map[0].rejected) == "y");
  }
}

TEST_CASE("mapped_preferences: it survives a move, and the file being replaced") {
  temporary_folder const folder;
  load_report report;
  std::string const path = folder.file("a.jsonl", R"({"prompt":"p","chosen":"x","rejected":"y"})");
  write_mapped_preferences(path, folder / "a.pairs", byte_tokenizer(), {}, report);
  mapped_preferences first(folder / "a.pairs");
  mapped_preferences const map(std::move(first));
  folder.file("a.jsonl", R"({"prompt":"other","chosen":"xx","rejected":"yy"})");
  write_mapped_preferences(path, folder / "a.pairs", byte_tokenizer(), {}, report);
  CHECK(byte_tokenizer().decode(map[0].prompt) == "p");
}

TEST_CASE("mapped_preferences: a bad row leaves no file behind, and the old one as it was") {
  temporary_folder const folder;
  load_report report;
  std::string const good = folder.file("a.jsonl", rows_of(10, false));
  std::string const bad = folder.file("b.jsonl", rows_of(10, false) + "{}\n");
  CHECK_THROWS_AS(write_mapped_preferences(bad, folder / "a.pairs", byte_tokenizer(), {}, report), data_error);
  CHECK(folder.entries() == 2);
  write_mapped_preferences(good, folder / "a.pairs", byte_tokenizer(), {}, report);
  std::string const before = content_of(folder / "a.pairs");
  CHECK_THROWS_AS(write_mapped_preferences(bad, folder / "a.pairs", byte_tokenizer(), {}, report), data_error);
  CHECK(content_of(folder / "a.pairs") == before);
}

TEST_CASE("mapped_preferences: a file that was cut, or is another, is refused when it is opened") {
  temporary_folder const folder;
  load_report report;
  write_mapped_preferences(folder.file("a.jsonl", rows_of(20, false)), folder / "a.pairs", byte_tokenizer(), {},
                           report);
  std::string const whole = content_of(folder / "a.pairs");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    std::string const path = folder.file("b.pairs", whole.substr(0, size));
    CHECK(message_of<data_error>([&] { mapped_preferences const m(path); }).starts_with(path + ": "));
  }
  std::string const path = folder.file("b.pairs", "x" + whole.substr(1));
  CHECK(message_of<data_error>([&] { mapped_preferences const m(path); }) ==
        path + ": no file of preference pairs, or of another version");
}

TEST_CASE("mapped_preferences: a byte changed anywhere is found, in the table at once, in the ids by verify") {
  temporary_folder const folder;
  load_report report;
  write_mapped_preferences(folder.file("a.jsonl", rows_of(20, false)), folder / "a.pairs", byte_tokenizer(), {},
                           report);
  std::string const whole = content_of(folder / "a.pairs");
  std::size_t at_open = 0;
  std::size_t at_verify = 0;
  std::size_t unnoticed = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    folder.file("b.pairs", bad);
    try {
      mapped_preferences const map(folder / "b.pairs");
      try {
        map.verify();
        ++unnoticed;
      } catch (data_error const&) {
        ++at_verify;
      }
    } catch (data_error const&) {
      ++at_open;
    }
  }
  CHECK(unnoticed == 0);
  CHECK(at_open >= 20 * sizeof(mapped_row));
  CHECK(at_verify > 0);
}
