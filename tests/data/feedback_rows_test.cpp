// SPDX-License-Identifier: MIT
#include <attune/data/feedback_rows.hpp>

#include <doctest/doctest.h>

#include <string>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;

namespace {

jsonl_row row(std::string const& json, std::size_t line = 1) { return {"f", line, parse_json(json)}; }

std::string read(std::string const& json) {
  jsonl_row const r = row(json, 4);
  feedback_text const t = feedback_format::of(r)(r);
  CHECK(t.line == 4);
  return t.prompt + "|" + t.completion + (t.desirable ? "|good" : "|bad");
}

std::string refusal(std::string const& only) {
  return message_of<data_error>([&] {
    jsonl_row const r = row(only);
    (void)feedback_format::of(r)(r);
  });
}

}  // namespace

TEST_CASE("feedback_format: a demonstration in any layout and a label beside it") {
  CHECK(read(R"({"prompt":"p","completion":" c","label":true})") == "p| c|good");
  CHECK(read(R"({"prompt":"p","completion":" c","label":false})") == "p| c|bad");
  CHECK(read(R"({"prompt":[{"role":"user","content":"a"}],
                "completion":[{"role":"assistant","content":"b"}],"label":true})") ==
        "\n\nHuman: a\n\nAssistant:| b|good");
  CHECK(read(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"label":false})") ==
        "\n\nHuman: a\n\nAssistant:| b|bad");
}

TEST_CASE(
    "feedback_format: a label that is missing or no boolean, and a bad demonstration, are refused by line and field") {
  CHECK(refusal(R"({"prompt":"p","completion":"c"})") == "f:1: field \"label\": missing");
  CHECK(refusal(R"({"prompt":"p","completion":"c","label":1})") ==
        "f:1: field \"label\": expected a boolean, got a number");
  CHECK(refusal(R"({"prompt":"p","completion":"c","label":"true"})") ==
        "f:1: field \"label\": expected a boolean, got a string");
  CHECK(refusal(R"({"prompt":"p","completion":"","label":true})") == "f:1: field \"completion\": an empty completion");
  CHECK(refusal(R"({"prompt":"p","label":true})") == "f:1: field \"completion\": missing");
  CHECK(refusal(R"({"label":true})") ==
        "f:1: expected the fields prompt and completion, or instruction and response, or messages");
}
