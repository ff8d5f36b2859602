// SPDX-License-Identifier: MIT
#include <attune/data/prompt_rows.hpp>

#include <doctest/doctest.h>

#include <string>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;

namespace {

jsonl_row row(std::string const& json, std::size_t line = 1) { return {"f", line, parse_json(json)}; }

std::string read(std::string const& json) {
  jsonl_row const r = row(json);
  return prompt_format::of(r)(r).prompt;
}

std::string refusal(std::string const& first, std::string const& second) {
  prompt_format const format = prompt_format::of(row(first));
  return message_of<data_error>([&] { (void)format(row(second, 2)); });
}

std::string refusal(std::string const& only) {
  return message_of<data_error>([&] { (void)read(only); });
}

std::string const user_a = R"({"role":"user","content":"a"})", assistant_b = R"({"role":"assistant","content":"b"})";

}  // namespace

TEST_CASE("prompt_format: text is taken as it is, messages become a dialogue that the assistant is to go on with") {
  CHECK(read(R"({"prompt":" p\u0000"})") == std::string(" p\0", 3));
  CHECK(read("{\"prompt\":[" + user_a + "]}") == "\n\nHuman: a\n\nAssistant:");
  CHECK(read("{\"messages\":[" + user_a + "]}") == "\n\nHuman: a\n\nAssistant:");
  CHECK(read("{\"messages\":[" + user_a + "," + assistant_b + "," + user_a + "]}") ==
        "\n\nHuman: a\n\nAssistant: b\n\nHuman: a\n\nAssistant:");
  CHECK(read("{\"prompt\":\"p\",\"messages\":[" + user_a + "]}") == "\n\nHuman: a\n\nAssistant:");
  CHECK(read(R"({"prompt":"p","instruction":"i"})") == "\n\nHuman: i\n\nAssistant:");
  CHECK(read(R"({"instruction":"i"})") == "\n\nHuman: i\n\nAssistant:");
  CHECK(read(R"({"instruction":"i","input":"x"})") == "\n\nHuman: i\n\nx\n\nAssistant:");
}

TEST_CASE("prompt_format: a demonstration's prompt is the one that SFT learns to answer") {
  for (std::string const& text :
       {std::string(R"({"prompt":"p","completion":"c"})"), std::string(R"({"instruction":"i","input":"x","output":"o"})"),
        "{\"messages\":[" + user_a + "," + assistant_b + "]}",
        "{\"messages\":[" + user_a + "," + assistant_b + "," + user_a + "," + assistant_b + "]}",
        "{\"prompt\":[" + user_a + "],\"completion\":[" + assistant_b + "]}"}) {
    jsonl_row const r = row(text);
    CHECK(read(text) == demonstration_format::of(r)(r).prompt);
  }
}

TEST_CASE("prompt_format: a preference pair's prompt is the one that DPO learns to answer") {
  std::string const assistant_c = R"({"role":"assistant","content":"c"})";
  for (std::string const& text :
       {std::string(R"({"prompt":"p","chosen":"c","rejected":"r"})"),
        std::string(R"({"chosen":"\n\nHuman: q\n\nAssistant: yes","rejected":"\n\nHuman: q\n\nAssistant: no"})"),
        "{\"prompt\":[" + user_a + "],\"chosen\":[" + assistant_b + "],\"rejected\":[" + assistant_c + "]}",
        "{\"chosen\":[" + user_a + "," + assistant_b + "],\"rejected\":[" + user_a + "," + assistant_c + "]}"}) {
    jsonl_row const r = row(text);
    CHECK(read(text) == preference_format::of(r)(r).prompt);
  }
}

TEST_CASE("prompt_format: bad rows are refused by line and field") {
  CHECK(refusal(R"({"text":"x"})") ==
        "f:1: expected a field prompt, messages or instruction, or the fields chosen and rejected");
  CHECK(refusal(R"({"prompt":1})") == "f:1: field \"prompt\": expected a string, got a number");
  CHECK(refusal(R"({"prompt":""})") == "f:1: field \"prompt\": empty");
  CHECK(refusal(R"({"prompt":[]})") == "f:1: field \"prompt\": no messages");
  CHECK(refusal(R"({"instruction":null})") == "f:1: field \"instruction\": expected a string, got null");
  CHECK(refusal("{\"messages\":[" + assistant_b + "]}") ==
        "f:1: field \"messages\": expected a message before the assistant's");
  CHECK(refusal(R"({"messages":[{"role":"tool","content":"b"}]})") == "f:1: field \"messages[0].role\": unknown role \"tool\"");
  CHECK(refusal(R"({"chosen":"yes"})") == "f:1: field \"rejected\": missing");
}

TEST_CASE("prompt_format: a later row that is spelled otherwise is refused") {
  CHECK(refusal(R"({"prompt":"p"})", R"({"instruction":"i"})") == "f:2: field \"prompt\": missing");
  CHECK(refusal(R"({"prompt":"p"})", R"({"prompt":[]})") == "f:2: field \"prompt\": expected a string, got an array");
  CHECK(refusal("{\"messages\":[" + user_a + "]}", R"({"prompt":"p"})") == "f:2: field \"messages\": missing");
  CHECK(refusal(R"({"chosen":"\n\nHuman: q\n\nAssistant: yes","rejected":"\n\nHuman: q\n\nAssistant: no"})",
                R"({"prompt":"p","chosen":"c","rejected":"r"})") == "f:2: field \"prompt\": unexpected: earlier rows have none");
}
