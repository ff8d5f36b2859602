// SPDX-License-Identifier: MIT
#include <attune/data/demonstration_rows.hpp>

#include <doctest/doctest.h>

#include <string>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;

namespace {

jsonl_row row(std::string const& json, std::size_t line = 1) { return {"f", line, parse_json(json)}; }

std::string read(std::string const& json) {
  jsonl_row const r = row(json);
  demonstration_text const t = demonstration_format::of(r)(r);
  return t.prompt + "|" + t.completion;
}

std::string refusal(std::string const& first, std::string const& second) {
  demonstration_format const format = demonstration_format::of(row(first));
  return message_of<data_error>([&] { (void)format(row(second, 2)); });
}

std::string refusal(std::string const& only) {
  return message_of<data_error>([&] { (void)read(only); });
}

}  // namespace

TEST_CASE("demonstration_format: prompt and completion are taken as they are") {
  CHECK(read(R"({"prompt":"p","completion":" c"})") == "p| c");
}

TEST_CASE("demonstration_format: instruction and response, or output, become a dialogue; an input follows") {
  CHECK(read(R"({"instruction":"i","response":"r"})") == "\n\nHuman: i\n\nAssistant:| r");
  CHECK(read(R"({"instruction":"i","output":"o","input":""})") == "\n\nHuman: i\n\nAssistant:| o");
  CHECK(read(R"({"instruction":"i","input":"x","output":"o"})") == "\n\nHuman: i\n\nx\n\nAssistant:| o");
}

TEST_CASE("demonstration_format: messages are split before the last, the assistant's") {
  CHECK(read(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},
                {"role":"user","content":"c"},{"role":"assistant","content":"d"}]})") ==
        "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:| d");
  CHECK(read(R"({"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}]})") ==
        "\n\nHuman: a\n\nAssistant:| b");
}

TEST_CASE("demonstration_format: bad rows are refused by line and field") {
  CHECK(refusal(R"({"text":"x"})") ==
        "f:1: expected the fields prompt and completion, or instruction and response, or messages");
  CHECK(refusal(R"({"prompt":"p"})") == "f:1: field \"completion\": missing");
  CHECK(refusal(R"({"completion":"c"})") == "f:1: field \"prompt\": missing");
  CHECK(refusal(R"({"instruction":"i"})") == "f:1: field \"output\": missing");
  CHECK(refusal(R"({"prompt":"","completion":"c"})") == "f:1: field \"prompt\": empty");
  CHECK(refusal(R"({"prompt":"p","completion":""})") == "f:1: field \"completion\": an empty completion");
  CHECK(refusal(R"({"instruction":"i","response":""})") == "f:1: field \"response\": an empty completion");
  CHECK(refusal(R"({"instruction":"i","input":1,"response":"r"})") ==
        "f:1: field \"input\": expected a string, got a number");
  CHECK(refusal(R"({"messages":[{"role":"assistant","content":"b"}]})") ==
        "f:1: field \"messages\": expected a message before the assistant's");
  CHECK(refusal(R"({"messages":[{"role":"user","content":"b"},{"role":"user","content":"c"}]})") ==
        "f:1: field \"messages\": the completion does not begin with the assistant's message");
  CHECK(refusal(R"({"messages":[{"role":"user","content":"b"},{"role":"assistant","content":""}]})") ==
        "f:1: field \"messages\": an empty completion");
}

TEST_CASE("demonstration_format: a later row that is spelled otherwise is refused") {
  CHECK(refusal(R"({"instruction":"i","response":"r"})", R"({"instruction":"i","output":"r"})") ==
        "f:2: field \"response\": missing");
  CHECK(refusal(R"({"prompt":"p","completion":"c"})", R"({"messages":[]})") == "f:2: field \"prompt\": missing");
  CHECK(refusal(R"({"prompt":"p","completion":"c"})", R"({"prompt":[],"completion":"c"})") ==
        "f:2: field \"prompt\": expected a string, got an array");
}
