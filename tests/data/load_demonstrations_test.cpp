// SPDX-License-Identifier: MIT
#include <attune/data/load_demonstrations.hpp>

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

demonstration_data load(std::string const& path, load_options const& options, load_report& report) {
  return load_demonstrations(path, tokenizer, options, report);
}

std::string row(std::string const& prompt, std::string const& completion) {
  return "{\"prompt\":\"" + prompt + "\",\"completion\":\"" + completion + "\"}\n";
}

}  // namespace

TEST_CASE("load_demonstrations: rows become ids, plain or gzip, in every layout") {
  temporary_folder const folder;
  load_report report;
  demonstration_data const plain =
      load(folder.file("a", gzip(row("p", "one") + row("q", "two"))), {.bos = 256, .eos = 257}, report);
  REQUIRE(plain.size() == 2);
  CHECK(plain[1].prompt.front() == 256);
  CHECK(tokenizer.decode(plain[1].prompt) == "q");
  CHECK(tokenizer.decode(plain[1].completion) == "two");
  CHECK(plain[1].completion.back() == 257);
  demonstration_data const instruction = load(folder.file("b", R"({"instruction":"i","response":"r"})"), {}, report);
  CHECK(tokenizer.decode(instruction[0].prompt) == "\n\nHuman: i\n\nAssistant:");
  CHECK(tokenizer.decode(instruction[0].completion) == " r");
}

TEST_CASE("load_demonstrations: truncation keeps the end of the prompt; what is left without a completion is dropped") {
  temporary_folder const folder;
  load_report report;
  std::string const path = folder.file("a", row("12345678", "abc") + row("1", "a"));
  CHECK(tokenizer.decode(load(path, {.window = 6, .min_prompt = 1}, report)[0].prompt) == "678");
  CHECK(report.prompts_cut == 1);
  CHECK(load(path, {.window = 6, .truncation = truncation_rule::keep_start}, report).size() == 1);
  CHECK(report.of(drop_reason::no_completion_left).first_lines == std::vector<std::size_t>{1});
  CHECK(message_of<data_error>([&] {
          (void)load(path, {.window = 6, .truncation = truncation_rule::error}, report);
        }) == path + ":1: the row has 11 tokens, the window 6");
}

TEST_CASE("load_demonstrations: nothing there, nothing left and a bad row are errors that name the place") {
  temporary_folder const folder;
  load_report report;
  std::string path = folder.file("a", "\n");
  CHECK(message_of<data_error>([&] { (void)load(path, {}, report); }) == path + ": an empty dataset: no rows");
  path = folder.file("a", row("12345678", "abc"));
  CHECK(message_of<data_error>([&] {
          (void)load(path, {.window = 6, .truncation = truncation_rule::keep_start}, report);
        }).starts_with(path + ": no row is left: 1 rows"));
  path = folder.file("a", row("p", "c") + "{\"prompt\":\"p\"}");
  CHECK(message_of<data_error>([&] { (void)load(path, {}, report); }) == path + ":2: field \"completion\": missing");
}
