// SPDX-License-Identifier: MIT
#include <attune/data/preference_rows.hpp>

#include <doctest/doctest.h>

#include <string>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;

namespace {

jsonl_row row(std::string const& json, std::size_t line = 1) { return {"f", line, parse_json(json)}; }

preference_text read(std::string const& json) {
  jsonl_row const r = row(json);
  return preference_format::of(r)(r);
}

/// The refusal of a row after a first one that set the format.
std::string refusal(std::string const& first, std::string const& second) {
  preference_format const format = preference_format::of(row(first));
  return message_of<data_error>([&] { (void)format(row(second, 2)); });
}

std::string refusal(std::string const& only) {
  return message_of<data_error>([&] { (void)read(only); });
}

std::string user(std::string const& text) { return R"({"role":"user","content":")" + text + "\"}"; }
std::string assistant(std::string const& text) { return R"({"role":"assistant","content":")" + text + "\"}"; }

std::string const explicit_row = R"({"prompt":"p","chosen":"c","rejected":"r"})";
std::string const implicit_row =
    R"({"chosen":"\n\nHuman: q\n\nAssistant: yes","rejected":"\n\nHuman: q\n\nAssistant: no"})";

}  // namespace

TEST_CASE("preference_format: explicit text is taken as it is, with or without a margin") {
  preference_text const t = read(R"({"prompt":"p ","chosen":" c\u0000","rejected":"r","id":[1]})");
  CHECK(t.prompt == "p ");
  CHECK(t.chosen == std::string(" c\0", 3));
  CHECK(t.rejected == "r");
  CHECK(t.margin == 0.0);
  CHECK_FALSE(t.early_prompt);
  CHECK(read(R"({"prompt":"p","chosen":"c","rejected":"r","margin":-1.5})").margin == -1.5);
}

TEST_CASE("preference_format: implicit transcripts share their dialogue") {
  preference_text const t = read(implicit_row);
  CHECK(t.prompt == "\n\nHuman: q\n\nAssistant:");
  CHECK(t.chosen == " yes");
  CHECK(t.rejected == " no");
  CHECK_FALSE(t.early_prompt);
}

TEST_CASE("preference_format: transcripts that part before the last reply are kept and marked") {
  preference_text const t = read(
      R"({"chosen":"\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: yes","rejected":"\n\nHuman: q\n\nAssistant: no"})");
  CHECK(t.prompt == "\n\nHuman: q\n\nAssistant:");
  CHECK(t.chosen == " a\n\nHuman: r\n\nAssistant: yes");
  CHECK(t.early_prompt);
}

TEST_CASE("preference_format: conversations, explicit and implicit, give the same text") {
  preference_text const t = read("{\"prompt\":[" + user("q") + "],\"chosen\":[" + assistant("yes") +
                                 "],\"rejected\":[" + assistant("no") + "]}");
  preference_text const u = read("{\"chosen\":[" + user("q") + "," + assistant("yes") + "],\"rejected\":[" + user("q") +
                                 "," + assistant("no") + "]}");
  for (preference_text const& p : {t, u}) {
    CHECK(p.prompt == "\n\nHuman: q\n\nAssistant:");
    CHECK(p.chosen == " yes");
    CHECK(p.rejected == " no");
    CHECK_FALSE(p.early_prompt);
  }
}

TEST_CASE("preference_format: implicit conversations are cut before the first reply that differs") {
  preference_text const t =
      read("{\"chosen\":[" + user("q") + "," + assistant("a") + "," + user("r") + "," + assistant("yes") +
           "],\"rejected\":[" + user("q") + "," + assistant("a") + "," + user("s") + "," + assistant("no") + "]}");
  CHECK(t.prompt == "\n\nHuman: q\n\nAssistant:");
  CHECK(t.chosen == " a\n\nHuman: r\n\nAssistant: yes");
  CHECK(t.rejected == " a\n\nHuman: s\n\nAssistant: no");
  CHECK(t.early_prompt);
}

TEST_CASE("preference_format: a row with a field missing or of another type is refused by line and field") {
  CHECK(refusal(R"({"prompt":"p","chosen":"c"})") == "f:1: field \"rejected\": missing");
  CHECK(refusal(R"({"prompt":"p","rejected":"r"})") == "f:1: field \"chosen\": missing");
  CHECK(refusal(R"({"prompt":1,"chosen":"c","rejected":"r"})") ==
        "f:1: field \"prompt\": expected a string, got a number");
  CHECK(refusal(R"({"prompt":"p","chosen":"c","rejected":null})") ==
        "f:1: field \"rejected\": expected a string, got null");
  CHECK(refusal(R"({"prompt":"p","chosen":"c","rejected":"r","margin":"1"})") ==
        "f:1: field \"margin\": expected a number, got a string");
  CHECK(refusal(R"({"prompt":"p","chosen":"c","rejected":"r","margin":1e999})") ==
        "f:1: field \"margin\": the number 1e999 is out of range");
}

TEST_CASE("preference_format: a later row that is spelled otherwise is refused by line and field") {
  CHECK(refusal(explicit_row, implicit_row) == "f:2: field \"prompt\": missing");
  CHECK(refusal(implicit_row, explicit_row) == "f:2: field \"prompt\": unexpected: earlier rows have none");
  CHECK(refusal(explicit_row, R"({"prompt":"p","chosen":[],"rejected":"r"})") ==
        "f:2: field \"chosen\": expected a string, got an array");
  CHECK(refusal(explicit_row, R"({"prompt":"p","chosen":"c","rejected":"r","margin":1})") ==
        "f:2: field \"margin\": unexpected: earlier rows have none");
  CHECK(refusal(R"({"prompt":"p","chosen":"c","rejected":"r","margin":1})", explicit_row) ==
        "f:2: field \"margin\": missing");
}

TEST_CASE("preference_format: empty texts, equal completions and transcripts without shared dialogue are refused") {
  CHECK(refusal(R"({"prompt":"","chosen":"c","rejected":"r"})") == "f:1: field \"prompt\": empty");
  CHECK(refusal(R"({"prompt":"p","chosen":"","rejected":"r"})") == "f:1: field \"chosen\": an empty completion");
  CHECK(refusal(R"({"prompt":"p","chosen":"c","rejected":""})") == "f:1: field \"rejected\": an empty completion");
  CHECK(refusal(R"({"prompt":"p","chosen":"c","rejected":"c"})") ==
        "f:1: field \"rejected\": equal to chosen: the pair prefers nothing");
  CHECK(refusal(R"({"chosen":"c","rejected":"c"})") ==
        "f:1: field \"rejected\": equal to chosen: the pair prefers nothing");
  CHECK(refusal(R"({"chosen":"yes","rejected":"no"})") ==
        "f:1: field \"rejected\": shares no dialogue with chosen that ends in \"\\n\\nAssistant:\"");
  CHECK(refusal(R"({"chosen":"\n\nHuman: q\n\nAssistant:","rejected":"\n\nHuman: q\n\nAssistant: no"})") ==
        "f:1: field \"chosen\": an empty completion");
}

TEST_CASE("preference_format: conversations without a reply to compare are refused") {
  auto const implicit = [](std::string const& c, std::string const& r) {
    return refusal("{\"chosen\":[" + c + "],\"rejected\":[" + r + "]}");
  };
  CHECK(implicit(user("q") + "," + assistant("a"), user("p") + "," + assistant("b")) ==
        "f:1: field \"rejected\": shares no messages with chosen before a reply of the assistant");
  CHECK(implicit(assistant("a"), assistant("b")) ==
        "f:1: field \"rejected\": shares no messages with chosen before a reply of the assistant");
  CHECK(implicit(user("q") + "," + assistant("a"), user("q") + "," + assistant("a")) ==
        "f:1: field \"rejected\": equal to chosen: the pair prefers nothing");
  CHECK(implicit(user("q") + "," + assistant(""), user("q") + "," + assistant("b")) ==
        "f:1: field \"chosen\": an empty completion");
  CHECK(implicit(user("q") + "," + assistant("a"), user("q") + "," + assistant("b") + "," + user("c")) ==
        "f:1: field \"rejected\": the last message is not the assistant's");
  CHECK(refusal("{\"prompt\":[" + user("q") + "],\"chosen\":[" + assistant("a") + "],\"rejected\":[" + user("b") +
                "]}") == "f:1: field \"rejected\": the first message of a completion is not the assistant's");
  CHECK(refusal("{\"prompt\":\"q\",\"chosen\":[" + assistant("a") + "],\"rejected\":[" + assistant("b") + "]}") ==
        "f:1: field \"prompt\": expected an array, got a string");
}
