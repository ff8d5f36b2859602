// SPDX-License-Identifier: MIT
#include <attune/data/stepwise_rows.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;

namespace {
stepwise_text read(std::string const& json) { return stepwise_row({"f", 3, parse_json(json)}); }
std::string refusal(std::string const& json) {
  return message_of<data_error>([&] { (void)read(json); });
}
}  // namespace

TEST_CASE("stepwise_row: a prompt, its steps and a label for each") {
  stepwise_text const t = read(R"({"prompt":"p","completions":["a","b c"],"labels":[true,false],"source":1})");
  CHECK(t.line == 3);
  CHECK(t.prompt == "p");
  CHECK(t.steps == std::vector<std::string>{"a", "b c"});
  CHECK(t.labels == std::vector<bool>{true, false});
}

TEST_CASE("stepwise_row: bad rows are refused by line, field and item") {
  CHECK(refusal(R"({"completions":["a"],"labels":[true]})") == "f:3: field \"prompt\": missing");
  CHECK(refusal(R"({"prompt":"","completions":["a"],"labels":[true]})") == "f:3: field \"prompt\": empty");
  CHECK(refusal(R"({"prompt":"p","labels":[true]})") == "f:3: field \"completions\": missing");
  CHECK(refusal(R"({"prompt":"p","completions":"a","labels":[true]})") ==
        "f:3: field \"completions\": expected an array, got a string");
  CHECK(refusal(R"({"prompt":"p","completions":[],"labels":[]})") == "f:3: field \"completions\": no steps");
  CHECK(refusal(R"({"prompt":"p","completions":["a",1],"labels":[true,true]})") ==
        "f:3: field \"completions[1]\": expected a string, got a number");
  CHECK(refusal(R"({"prompt":"p","completions":["a",""],"labels":[true,true]})") ==
        "f:3: field \"completions[1]\": an empty step");
  CHECK(refusal(R"({"prompt":"p","completions":["a"]})") == "f:3: field \"labels\": missing");
  CHECK(refusal(R"({"prompt":"p","completions":["a"],"labels":[1]})") ==
        "f:3: field \"labels[0]\": expected a boolean, got a number");
  CHECK(refusal(R"({"prompt":"p","completions":["a","b"],"labels":[true]})") == "f:3: field \"labels\": 1 for 2 steps");
}
