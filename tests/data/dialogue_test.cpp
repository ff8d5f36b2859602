// SPDX-License-Identifier: MIT
#include <attune/data/dialogue.hpp>

#include <doctest/doctest.h>

#include <string>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;

namespace {

std::string shared(std::string const& a, std::string const& b) {
  auto const length = shared_prompt_length(a, b);
  CHECK(shared_prompt_length(b, a) == length);
  return length ? a.substr(0, *length) : "none";
}

std::string refusal(std::string const& json) {
  jsonl_row const row{"f", 1, parse_json(json)};
  return message_of<data_error>([&] { (void)messages_of(row, "m"); });
}

}  // namespace

TEST_CASE("shared_prompt_length: the common dialogue up to the last reply's turn") {
  CHECK(shared("\n\nHuman: q\n\nAssistant: yes", "\n\nHuman: q\n\nAssistant: no") == "\n\nHuman: q\n\nAssistant:");
  CHECK(shared("\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: yes",
               "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: no") ==
        "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:");
}

TEST_CASE("shared_prompt_length: transcripts that part earlier are cut at the last turn they share") {
  CHECK(shared("\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: yes",
               "\n\nHuman: q\n\nAssistant: b\n\nHuman: r\n\nAssistant: no") == "\n\nHuman: q\n\nAssistant:");
  CHECK(shared("\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: yes", "\n\nHuman: q\n\nAssistant: a") ==
        "\n\nHuman: q\n\nAssistant:");
}

TEST_CASE("shared_prompt_length: nothing where no reply's turn is shared whole") {
  CHECK(shared("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: p\n\nAssistant: a") == "none");
  CHECK(shared("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistan") == "none");
  CHECK(shared("", "") == "none");
}

TEST_CASE("messages_of: roles become turns") {
  jsonl_row const row{"f", 1, parse_json(R"({"m":[{"role":"system","content":"s"},{"role":"user","content":"u"},
      {"role":"assistant","content":"a"},{"role":"human","content":"h"},{"role":"gpt","content":"g","extra":1}]})")};
  auto const messages = messages_of(row, "m");
  CHECK(transcript(messages) == "\n\nSystem: s\n\nHuman: u\n\nAssistant: a\n\nHuman: h\n\nAssistant: g");
  split_dialogue const parts = split_before(messages, 2);
  CHECK(parts.prompt == "\n\nSystem: s\n\nHuman: u\n\nAssistant:");
  CHECK(parts.completion == " a\n\nHuman: h\n\nAssistant: g");
}

TEST_CASE("messages_of: what is no list of messages is refused by field and index") {
  CHECK(refusal(R"({})") == "f:1: field \"m\": missing");
  CHECK(refusal(R"({"m":"x"})") == "f:1: field \"m\": expected an array, got a string");
  CHECK(refusal(R"({"m":[]})") == "f:1: field \"m\": no messages");
  CHECK(refusal(R"({"m":["x"]})") == "f:1: field \"m[0].role\": missing");
  CHECK(refusal(R"({"m":[{"role":"user","content":"a"},{"role":"user"}]})") == "f:1: field \"m[1].content\": missing");
  CHECK(refusal(R"({"m":[{"role":"user","content":[]}]})") ==
        "f:1: field \"m[0].content\": expected a string, got an array");
  CHECK(refusal(R"({"m":[{"role":"tool","content":"a"}]})") == "f:1: field \"m[0].role\": unknown role \"tool\"");
}
