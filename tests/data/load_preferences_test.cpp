// SPDX-License-Identifier: MIT
#include <attune/data/load_preferences.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <tuple>

#include <range/v3/algorithm/count_if.hpp>

#include <attune/data/byte_tokenizer.hpp>

#include "support/gzip_text.hpp"
#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::gzip;
using attune::test::message_of;
using attune::test::temporary_folder;

namespace {

byte_tokenizer const tokenizer;

preference_data load(std::string const& path, load_options const& options, load_report& report) {
  return load_preferences(path, tokenizer, options, report);
}

std::string text(std::span<token_id const> ids) {
  std::string out = tokenizer.decode(ids);
  if (!ids.empty() && ids.back() == byte_tokenizer::eos()) out += "<eos>";
  return (!ids.empty() && ids.front() == byte_tokenizer::bos() ? "<bos>" : "") + out;
}

std::string pair_row(std::string const& prompt, std::string const& chosen, std::string const& rejected) {
  return "{\"prompt\":\"" + prompt + "\",\"chosen\":\"" + chosen + "\",\"rejected\":\"" + rejected + "\"}\n";
}

}  // namespace

TEST_CASE("load_preferences: rows become ids, with bos and eos where asked, plain or gzip") {
  temporary_folder const folder;
  std::string const content = pair_row("p", "yes", "no") + pair_row("q", "a", "b");
  for (std::string const& bytes : {content, gzip(content)}) {
    load_report report;
    preference_data const data = load(folder.file("a.jsonl", bytes), {.bos = 256, .eos = 257}, report);
    REQUIRE(data.size() == 2);
    CHECK(text(data[0].prompt) == "<bos>p");
    CHECK(text(data[0].chosen) == "yes<eos>");
    CHECK(text(data[1].rejected) == "b<eos>");
    CHECK(report.rows == 2);
    CHECK(report.kept == 2);
    CHECK(report.dropped_total() == 0);
  }
}

TEST_CASE("load_preferences: a long prompt keeps its end, or its start, or is an error, as asked") {
  temporary_folder const folder;
  std::string const path = folder.file("a.jsonl", pair_row("12345678", "abc", "de"));
  load_report report;
  preference_data data = load(path, {.window = 8, .min_prompt = 2, .eos = 257}, report);
  CHECK(text(data[0].prompt) == "5678");
  CHECK(text(data[0].chosen) == "abc<eos>");
  CHECK(report.prompts_cut == 1);
  CHECK(report.completions_cut == 0);
  data = load(path, {.window = 8, .min_prompt = 2, .bos = 256, .eos = 257}, report);
  CHECK(text(data[0].prompt) == "<bos>678");
  data = load(path, {.window = 10, .truncation = truncation_rule::keep_start, .eos = 257}, report);
  CHECK(text(data[0].prompt) == "12345678");
  CHECK(text(data[0].chosen) == "ab");
  CHECK(text(data[0].rejected) == "de");
  CHECK(report.prompts_cut == 0);
  CHECK(report.completions_cut == 1);
  CHECK(message_of<data_error>([&] {
          (void)load(path, {.window = 11, .truncation = truncation_rule::error, .eos = 257}, report);
        }) == path + ":1: the row has 12 tokens, the window 11");
  CHECK_NOTHROW((void)load(path, {.window = 12, .truncation = truncation_rule::error, .eos = 257}, report));
}

TEST_CASE("load_preferences: rows that truncation empties or makes equal are dropped, counted and named") {
  temporary_folder const folder;
  std::string const path =
      folder.file("a.jsonl", pair_row("1234567890", "a", "b") + "\n" + pair_row("12", "abcdefgh1", "abcdefgh2") +
                                 pair_row("1", "a", "b") + pair_row("1234567890", "a", "b"));
  load_report report;
  preference_data const data = load(path, {.window = 8, .truncation = truncation_rule::keep_start}, report);
  CHECK(data.size() == 1);
  CHECK(report.rows == 4);
  CHECK(report.kept == 1);
  CHECK(report.of(drop_reason::no_completion_left).count == 2);
  CHECK(report.of(drop_reason::no_completion_left).first_lines == std::vector<std::size_t>{1, 5});
  CHECK(report.of(drop_reason::equal_after_truncation).count == 1);
  CHECK(report.of(drop_reason::equal_after_truncation).first_lines == std::vector<std::size_t>{3});
}

TEST_CASE("load_preferences: nothing left, nothing there and a bad row are errors that name the place") {
  temporary_folder const folder;
  load_report report;
  std::string path = folder.file("a.jsonl", pair_row("1234567890", "a", "b"));
  CHECK(message_of<data_error>([&] {
          (void)load(path, {.window = 8, .truncation = truncation_rule::keep_start}, report);
        }) == path + ": no row is left: 1 rows, 0 kept, 1 dropped: no completion token left in the window 1 (lines 1)");
  for (char const* content : {"", "\n", "\n \n\n"}) {
    path = folder.file("b.jsonl", content);
    CHECK(message_of<data_error>([&] { (void)load(path, {}, report); }) == path + ": an empty dataset: no rows");
  }
  path = folder.file("c.jsonl", pair_row("p", "a", "b") + pair_row("p", "a", "a"));
  CHECK(message_of<data_error>([&] { (void)load(path, {}, report); }) ==
        path + ":2: field \"rejected\": equal to chosen: the pair prefers nothing");
  path = folder.file("d.jsonl.gz", gzip(pair_row("p", "a", "b") + pair_row("p", "\xC3(", "a")));
  CHECK(message_of<data_error>([&] { (void)load(path, {}, report); }) == path + ":2: byte 24: invalid UTF-8");
  CHECK_THROWS_AS((void)load(path, {.window = 1}, report), contract_violation);
}

TEST_CASE("load_preferences: max_rows reads no further") {
  temporary_folder const folder;
  load_report report;
  std::string const path = folder.file("a.jsonl", pair_row("p", "a", "b") + pair_row("p", "c", "d") + "broken\n");
  CHECK(load(path, {.max_rows = 2}, report).size() == 2);
  CHECK(report.rows == 2);
}

TEST_CASE("load_preferences: transcripts that part early are kept and counted") {
  temporary_folder const folder;
  load_report report;
  std::string const path = folder.file(
      "a.jsonl",
      R"({"chosen":"\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: y","rejected":"\n\nHuman: q\n\nAssistant: n"})");
  CHECK(text(load(path, {}, report)[0].prompt) == "\n\nHuman: q\n\nAssistant:");
  CHECK(report.early_prompts == 1);
}

TEST_CASE("preference_texts: is a range, so algorithms and views work on it") {
  temporary_folder const folder;
  std::string const path = folder.file("a.jsonl", pair_row("p", "long answer", "b") + pair_row("p", "c", "longer"));
  CHECK(ranges::count_if(preference_texts(path),
                         [](preference_text const& t) { return t.chosen.size() > t.rejected.size(); }) == 1);
}

TEST_CASE("real data: HH-RLHF loads whole, every prompt ends where the assistant speaks") {
  char const* const folder = std::getenv("ATTUNE_SHARED_DATA");
  std::string const place = std::string(folder == nullptr ? "" : folder) + "/preferences/hh_rlhf/";
  if (folder == nullptr || !std::filesystem::exists(place + "train.jsonl.gz")) {
    MESSAGE("skipped: HH-RLHF loads whole, every prompt ends where the assistant speaks");
    return;
  }
  for (auto const& [name, rows, early] : {std::tuple("train", 1800U, 3U), std::tuple("valid", 200U, 1U)}) {
    load_report report;
    preference_data const data = load(place + name + ".jsonl.gz", {.eos = 257}, report);
    CHECK(data.size() == rows);
    CHECK(report.rows == rows);
    CHECK(report.dropped_total() == 0);
    CHECK(report.early_prompts == early);
    std::size_t odd = 0;
    for (std::size_t i = 0; i < data.size(); ++i) {
      std::string const prompt = tokenizer.decode(data[i].prompt);
      odd += !prompt.ends_with("\n\nAssistant:") || !prompt.starts_with("\n\nHuman:") || data[i].chosen.back() != 257;
    }
    CHECK(odd == 0);
    preference_data const cut = load(place + name + ".jsonl.gz", {.window = 256, .eos = 257}, report);
    CHECK(cut.size() + report.dropped_total() == rows);
    CHECK(report.prompts_cut > 0);
    for (std::size_t i = 0; i < cut.size(); ++i)
      odd += cut[i].prompt.size() + std::max(cut[i].chosen.size(), cut[i].rejected.size()) > 256 ||
             !tokenizer.decode(cut[i].prompt).ends_with("\n\nAssistant:");
    CHECK(odd == 0);
  }
}
