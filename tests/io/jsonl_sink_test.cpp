// SPDX-License-Identifier: MIT
#include <attune/io/jsonl_sink.hpp>

#include <doctest/doctest.h>

#include <array>
#include <limits>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::content_of;
using attune::test::message_of;
using attune::test::temporary_folder;

static_assert(ReportSink<jsonl_sink>);

namespace {

report at(report_kind kind, std::size_t step, std::span<metric const> metrics = {}, std::string_view stage = "dpo") {
  return {.kind = kind,
          .stage = stage,
          .step = step,
          .total_steps = 100,
          .epoch = 0.5,
          .tokens = 64,
          .seconds = 1.25,
          .metrics = metrics};
}

std::vector<std::size_t> steps_in(std::string const& path) {
  std::vector<std::size_t> out;
  line_reader lines(path);
  std::string_view line;
  while (lines.next(line)) out.push_back(parse_json(line).find("step")->as_integer<std::size_t>());
  return out;
}

}  // namespace

TEST_CASE("json_line: all of a report, metrics under their own names") {
  std::array<metric, 2> const metrics{{{"loss", 0.1}, {"rewards/margins", -2.0}}};
  CHECK(
      json_line(at(report_kind::log, 7, metrics)) ==
      R"({"kind":"log","stage":"dpo","step":7,"total_steps":100,"epoch":0.5,"tokens":64,"seconds":1.25,"loss":0.1,"rewards/margins":-2})");
}

TEST_CASE("json_line: what is not finite is null, and an extra field says what it was") {
  double const inf = std::numeric_limits<double>::infinity();
  std::array<metric, 4> const metrics{{{"a", inf - inf}, {"b", inf}, {"c", -inf}, {"d", 1.0}}};
  json_value const row = parse_json(json_line(at(report_kind::log, 7, metrics)));
  for (char const* name : {"a", "b", "c"}) CHECK(row.find(name)->is(json_kind::null));
  CHECK(row.find("d")->as_double() == 1.0);
  json_value const& why = *row.find("not_finite");
  CHECK(why.members().size() == 3);
  CHECK(why.find("b")->as_string() == "inf");
  CHECK(why.find("c")->as_string() == "-inf");
  CHECK(parse_json(json_line(at(report_kind::log, 7))).find("not_finite") == nullptr);
}

TEST_CASE("json_line: a metric that would take another member's name is refused") {
  std::array<metric, 1> const fixed{{{"step", 1.0}}};
  std::array<metric, 2> const twice{{{"loss", 1.0}, {"loss", 2.0}}};
  CHECK_THROWS_AS((void)json_line(at(report_kind::log, 7, fixed)), contract_violation);
  CHECK_THROWS_AS((void)json_line(at(report_kind::log, 7, twice)), contract_violation);
}

TEST_CASE("jsonl_sink: every report is on the disk when the call returns; progress only where asked") {
  temporary_folder const folder;
  std::string const path = folder.file("m.jsonl", "old\n");
  jsonl_sink sink(path);
  CHECK(content_of(path).empty());
  sink(at(report_kind::start, 0));
  CHECK(steps_in(path) == std::vector<std::size_t>{0});
  sink(at(report_kind::progress, 1));
  sink(at(report_kind::log, 2));
  CHECK(steps_in(path) == std::vector<std::size_t>{0, 2});
  jsonl_sink all(folder / "all.jsonl", {.with_progress = true});
  all(at(report_kind::progress, 1));
  CHECK(steps_in(folder / "all.jsonl") == std::vector<std::size_t>{1});
}

TEST_CASE("jsonl_sink: a resumed run goes on as if it had not stopped") {
  temporary_folder const folder;
  std::string const path = folder / "m.jsonl";
  {
    jsonl_sink sink(path, {.append = true});
    sink(at(report_kind::log, 30, {}, "sft"));
    for (std::size_t step : {0U, 10U, 20U, 30U}) sink(at(step == 0 ? report_kind::start : report_kind::log, step));
  }
  std::string const cut = content_of(path) + R"({"kind":"log","sta)";
  folder.file("m.jsonl", cut);
  jsonl_sink sink(path, {.append = true});
  CHECK(steps_in(path) == std::vector<std::size_t>{30, 0, 10, 20, 30});
  sink(at(report_kind::start, 20));
  sink(at(report_kind::log, 30));
  CHECK(steps_in(path) == std::vector<std::size_t>{30, 0, 10, 20, 20, 30});
}

TEST_CASE("jsonl_sink: appending to a file that is no JSONL is an error with its line, and leaves the file alone") {
  temporary_folder const folder;
  std::string const path = folder.file("m.jsonl", "{\"a\":1}\nnotes\n");
  CHECK(message_of<data_error>([&] {
          jsonl_sink const sink(path, {.append = true});
        }).starts_with(path + ":2: byte 0: "));
  CHECK(content_of(path) == "{\"a\":1}\nnotes\n");
}

TEST_CASE("jsonl_sink: a disk that takes no more, and a folder that is not there, are errors that name the path") {
  jsonl_sink full("/dev/full");
  CHECK(message_of<data_error>([&] { full(at(report_kind::log, 1)); }) ==
        "/dev/full: cannot write: No space left on device");
  CHECK(message_of<data_error>([] {
          jsonl_sink const sink("no/such/m.jsonl");
        }).starts_with("no/such/m.jsonl: cannot open"));
}
