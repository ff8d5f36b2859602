// SPDX-License-Identifier: MIT
#include <attune/data/load_feedback.hpp>

#include <doctest/doctest.h>

#include <string>

#include <attune/data/byte_tokenizer.hpp>

#include "support/gzip_text.hpp"
#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::gzip;
using attune::test::message_of;
using attune::test::temporary_folder;

namespace {

byte_tokenizer const tokenizer;

feedback_data load(std::string const& path, load_options const& options, load_report& report) {
  return load_feedback(path, tokenizer, options, report);
}

std::string row(std::string const& prompt, std::string const& completion, bool label) {
  return "{\"prompt\":\"" + prompt + "\",\"completion\":\"" + completion +
         "\",\"label\":" + (label ? "true" : "false") + "}\n";
}

}  // namespace

TEST_CASE("load_feedback: rows become ids and judgements, plain or gzip") {
  temporary_folder const folder;
  load_report report;
  std::string const text = row("p", "one", true) + row("q", "two", false);
  for (std::string const& content : {text, gzip(text)}) {
    feedback_data const data = load(folder.file("a", content), {.bos = 256, .eos = 257}, report);
    REQUIRE(data.size() == 2);
    CHECK(data[0].desirable);
    CHECK(!data[1].desirable);
    CHECK(data[1].weight == 1.0);
    CHECK(data[1].prompt.front() == 256);
    CHECK(tokenizer.decode(data[1].prompt) == "q");
    CHECK(tokenizer.decode(data[1].completion) == "two");
    CHECK(data[1].completion.back() == 257);
    CHECK(report.kept == 2);
  }
}

TEST_CASE("load_feedback: truncation keeps the end of the prompt; what is left without a completion is dropped") {
  temporary_folder const folder;
  load_report report;
  std::string const path = folder.file("a", row("12345678", "abc", true) + row("1", "a", false));
  feedback_data const kept = load(path, {.window = 6, .min_prompt = 1}, report);
  CHECK(tokenizer.decode(kept[0].prompt) == "678");
  CHECK(kept[0].desirable);
  CHECK(report.prompts_cut == 1);
  feedback_data const dropped = load(path, {.window = 6, .truncation = truncation_rule::keep_start}, report);
  REQUIRE(dropped.size() == 1);
  CHECK(!dropped[0].desirable);
  CHECK(report.of(drop_reason::no_completion_left).first_lines == std::vector<std::size_t>{1});
  CHECK(message_of<data_error>([&] {
          (void)load(path, {.window = 6, .truncation = truncation_rule::error}, report);
        }) == path + ":1: the row has 11 tokens, the window 6");
  CHECK(load(path, {.max_rows = 1}, report).size() == 1);
}

TEST_CASE("load_feedback: nothing there, nothing left and a bad row are errors that name the place") {
  temporary_folder const folder;
  load_report report;
  std::string path = folder.file("a", "\n");
  CHECK(message_of<data_error>([&] { (void)load(path, {}, report); }) == path + ": an empty dataset: no rows");
  path = folder.file("a", row("12345678", "abc", true));
  CHECK(message_of<data_error>([&] {
          (void)load(path, {.window = 6, .truncation = truncation_rule::keep_start}, report);
        }).starts_with(path + ": no row is left: 1 rows"));
  path = folder.file("a", row("p", "c", true) + "{\"prompt\":\"p\",\"completion\":\"c\"}");
  CHECK(message_of<data_error>([&] { (void)load(path, {}, report); }) == path + ":2: field \"label\": missing");
}
