// SPDX-License-Identifier: MIT
#include <attune/data/load_stepwise.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <attune/data/byte_tokenizer.hpp>

#include "support/gzip_text.hpp"
#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;
using attune::test::temporary_folder;

namespace {

byte_tokenizer const tokenizer;

stepwise_data load(std::string const& path, stepwise_options const& options, load_report& report) {
  return load_stepwise(path, tokenizer, options, report);
}

std::vector<std::size_t> ends_of(stepwise_completion const& row) {
  return {row.step_ends.begin(), row.step_ends.end()};
}

std::string const two_rows = R"({"prompt":"ask","completions":["one","no"],"labels":[true,false]}
{"prompt":"q","completions":["x"],"labels":[false]}
)";

}  // namespace

TEST_CASE("load_stepwise: steps end with their separator, plain or gzip; bos leads, eos follows the last step") {
  temporary_folder const folder;
  load_report report;
  for (std::string const& content : {two_rows, test::gzip(two_rows)}) {
    stepwise_data const data = load(folder.file("a", content), {.load = {.bos = 256, .eos = 257}}, report);
    REQUIRE(data.size() == 2);
    CHECK(data[0].prompt.front() == 256);
    CHECK(tokenizer.decode(data[0].completion.first(7)) == "one\nno\n");
    CHECK(data[0].completion.back() == 257);
    CHECK(ends_of(data[0]) == std::vector<std::size_t>{4, 7});
    CHECK(data[0].labels[0] == 1);
    CHECK(data[0].labels[1] == 0);
    CHECK(data[1].labels[0] == 0);
  }
  CHECK(ends_of(load(folder.file("a", two_rows), {.step_separator = ""}, report)[0]) == std::vector<std::size_t>{3, 5});
  CHECK(ends_of(load(folder.file("a", two_rows), {.step_separator = "##"}, report)[0]) ==
        std::vector<std::size_t>{5, 9});
}

TEST_CASE("load_stepwise: a step that truncation cuts into is left out; without a step left the row is dropped") {
  temporary_folder const folder;
  load_report report;
  std::string const path = folder.file("a", two_rows);
  auto const with = [&](std::size_t window) {
    return load(path, {.load = {.window = window, .truncation = truncation_rule::keep_start}}, report);
  };
  CHECK(ends_of(with(10)[0]).size() == 2);
  stepwise_data const cut = with(9);
  CHECK(ends_of(cut[0]) == std::vector<std::size_t>{4});
  CHECK(tokenizer.decode(cut[0].completion) == "one\n");
  CHECK(report.completions_cut == 1);
  CHECK(with(7)[0].completion.size() == 4);
  CHECK(with(6).size() == 1);
  CHECK(report.of(drop_reason::no_completion_left).first_lines == std::vector<std::size_t>{1});
  CHECK(message_of<data_error>([&] {
          (void)load(path, {.load = {.window = 9, .truncation = truncation_rule::error}}, report);
        }) == path + ":1: the row has 10 tokens, the window 9");
  CHECK(load(path, {.load = {.max_rows = 1}}, report).size() == 1);
}

TEST_CASE("load_stepwise: nothing there, nothing left and a bad row are errors that name the place") {
  temporary_folder const folder;
  load_report report;
  std::string path = folder.file("a", "\n");
  CHECK(message_of<data_error>([&] { (void)load(path, {}, report); }) == path + ": an empty dataset: no rows");
  path = folder.file("a", two_rows);
  CHECK(message_of<data_error>([&] {
          (void)load(path, {.load = {.window = 2, .truncation = truncation_rule::keep_start}}, report);
        }).starts_with(path + ": no row is left: 2 rows"));
  path = folder.file("a", two_rows + R"({"prompt":"p","completions":["c"]})");
  CHECK(message_of<data_error>([&] { (void)load(path, {}, report); }) == path + ":3: field \"labels\": missing");
}
