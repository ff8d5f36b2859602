// SPDX-License-Identifier: MIT
#include <attune/data/load_prompts.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

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

prompt_data load(std::string const& path, load_options const& options, std::size_t max_new_tokens, load_report& report) {
  return load_prompts(path, tokenizer, options, max_new_tokens, report);
}

std::string text(std::span<token_id const> ids) {
  return (ids.front() == byte_tokenizer::bos() ? "<bos>" : "") + tokenizer.decode(ids);
}

std::string row(std::string const& prompt) { return "{\"prompt\":\"" + prompt + "\"}\n"; }

}  // namespace

TEST_CASE("load_prompts: rows become ids, plain or gzip, with bos where asked and never an eos") {
  temporary_folder const folder;
  std::string const content = row("p") + "\n" + row("q r");
  for (std::string const& bytes : {content, gzip(content)}) {
    load_report report;
    prompt_data const data = load(folder.file("a.jsonl", bytes), {.bos = 256, .eos = 257}, 5, report);
    REQUIRE(data.size() == 2);
    CHECK(text(data[0].prompt) == "<bos>p");
    CHECK(text(data[1].prompt) == "<bos>q r");
    CHECK(report.rows == 2);
    CHECK(report.kept == 2);
    CHECK(report.dropped_total() == 0);
  }
}

TEST_CASE("load_prompts: a long prompt makes room for max_new_tokens, down to min_prompt, or is an error") {
  temporary_folder const folder;
  std::string const path = folder.file("a.jsonl", row("12345678"));
  load_report report;
  CHECK(text(load(path, {.window = 11}, 3, report)[0].prompt) == "12345678");
  CHECK(report.prompts_cut == 0);
  CHECK(text(load(path, {.window = 8, .min_prompt = 2}, 3, report)[0].prompt) == "45678");
  CHECK(report.prompts_cut == 1);
  CHECK(report.completions_cut == 0);
  CHECK(text(load(path, {.window = 8, .min_prompt = 2, .bos = 256}, 3, report)[0].prompt) == "<bos>5678");
  CHECK(text(load(path, {.window = 8, .min_prompt = 6}, 3, report)[0].prompt) == "345678");
  CHECK(report.completions_cut == 1);  // two tokens are left of three
  CHECK(text(load(path, {.window = 10, .truncation = truncation_rule::keep_start}, 3, report)[0].prompt) == "12345678");
  CHECK(report.prompts_cut == 0);
  CHECK(report.completions_cut == 1);
  CHECK(message_of<data_error>([&] { (void)load(path, {.window = 10, .truncation = truncation_rule::error}, 3, report); }) ==
        path + ":1: the prompt has 8 tokens, its response up to 3, the window 10");
  CHECK_NOTHROW((void)load(path, {.window = 11, .truncation = truncation_rule::error}, 3, report));
}

TEST_CASE("load_prompts: a prompt that leaves no room for a token of a response is dropped, counted and named") {
  temporary_folder const folder;
  std::string const path = folder.file("a.jsonl", row("12345678") + row("1234567") + row("1234567890"));
  load_report report;
  prompt_data const data = load(path, {.window = 8, .truncation = truncation_rule::keep_start}, 3, report);
  REQUIRE(data.size() == 1);
  CHECK(text(data[0].prompt) == "1234567");
  CHECK(report.of(drop_reason::no_completion_left).first_lines == std::vector<std::size_t>{1, 3});
  CHECK(report.kept == 1);
  CHECK(report.completions_cut == 1);
  CHECK(report.prompts_cut == 0);  // of kept rows
}

TEST_CASE("load_prompts: nothing there, nothing left and a bad row are errors that name the place") {
  temporary_folder const folder;
  load_report report;
  std::string path = folder.file("a.jsonl", " \n");
  CHECK(message_of<data_error>([&] { (void)load(path, {}, 3, report); }) == path + ": an empty dataset: no rows");
  path = folder.file("b.jsonl", row("12345678"));
  CHECK(message_of<data_error>([&] {
          (void)load(path, {.window = 8, .truncation = truncation_rule::keep_start}, 3, report);
        }) == path + ": no row is left: 1 rows, 0 kept, 1 dropped: no completion token left in the window 1 (lines 1)");
  path = folder.file("c.jsonl", row("p") + "{\"prompt\":\"\"}");
  CHECK(message_of<data_error>([&] { (void)load(path, {}, 3, report); }) == path + ":2: field \"prompt\": empty");
  CHECK_THROWS_AS((void)load(path, {.window = 1}, 3, report), contract_violation);
  CHECK_THROWS_AS((void)load(path, {}, 0, report), contract_violation);
}

TEST_CASE("load_prompts: max_rows reads no further") {
  temporary_folder const folder;
  load_report report;
  CHECK(load(folder.file("a.jsonl", row("p") + row("q") + "broken\n"), {.max_rows = 2}, 3, report).size() == 2);
  CHECK(report.rows == 2);
}

TEST_CASE("prompt_texts: is a range, so algorithms and views work on it") {
  temporary_folder const folder;
  std::string const path = folder.file("a.jsonl", row("p") + row("longer"));
  CHECK(ranges::count_if(prompt_texts(path), [](prompt_text const& t) { return t.prompt.size() > 1; }) == 1);
}

TEST_CASE("real data: the prompts of HH-RLHF load whole, every one ends where the assistant speaks") {
  char const* const folder = std::getenv("ATTUNE_SHARED_DATA");
  std::string const path = std::string(folder == nullptr ? "" : folder) + "/preferences/hh_rlhf/valid.jsonl.gz";
  if (folder == nullptr || !std::filesystem::exists(path)) {
    MESSAGE("skipped: the prompts of HH-RLHF load whole, every one ends where the assistant speaks");
    return;
  }
  load_report report;
  prompt_data const data = load(path, {.window = 512}, 64, report);
  CHECK(data.size() == 200);
  CHECK(report.dropped_total() == 0);
  std::size_t odd = 0;
  for (std::size_t i = 0; i < data.size(); ++i)
    odd += !tokenizer.decode(data[i].prompt).ends_with("\n\nAssistant:") || data[i].prompt.size() + 64 > 512;
  CHECK(odd == 0);
}
