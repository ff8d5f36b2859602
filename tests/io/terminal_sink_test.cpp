// SPDX-License-Identifier: MIT
#include <attune/io/terminal_sink.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

using namespace attune;

static_assert(ReportSink<terminal_sink>);

namespace {

/// What the sink prints for the reports, in order.
std::string printed(std::vector<report> const& reports, terminal_options options) {
  std::FILE* const file = std::tmpfile();
  REQUIRE(file != nullptr);
  terminal_sink sink(file, options);
  for (report const& r : reports) sink(r);
  std::string out(static_cast<std::size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  REQUIRE(std::fread(out.data(), 1, out.size(), file) == out.size());
  std::fclose(file);
  return out;
}

std::array<metric, 2> const metrics{{{"loss", 0.693147}, {"rewards/margins", 1.5}}};
std::array<metric, 1> const eval_metrics{{{"eval_loss", 0.5}}};

report at(report_kind kind, std::size_t step, double seconds, std::span<metric const> m = metrics) {
  return {.kind = kind,
          .stage = "dpo",
          .step = step,
          .total_steps = 100,
          .epoch = static_cast<double>(step) / 50.0,
          .tokens = step * 1000,
          .seconds = seconds,
          .metrics = m};
}

}  // namespace

TEST_CASE("terminal_sink: not on a terminal, one line per log with step, metrics, tokens per second and time left") {
  CHECK(printed({at(report_kind::start, 0, 0, {}), at(report_kind::progress, 5, 1), at(report_kind::log, 10, 2),
                 at(report_kind::evaluation, 10, 2, eval_metrics), at(report_kind::finish, 100, 20)},
                {}) ==
        "dpo 0/100  start\n"
        "dpo 10/100  epoch 0.20  loss 0.6931  rewards/margins 1.5  5.0k tokens/s  18 s left\n"
        "dpo 10/100  epoch 0.20  eval_loss 0.5  5.0k tokens/s  18 s left\n"
        "dpo 100/100  epoch 2.00  loss 0.6931  rewards/margins 1.5  5.0k tokens/s  finished in 20 s\n");
}

TEST_CASE("terminal_sink: after a resume the time left comes from the steps of this process") {
  CHECK(printed({at(report_kind::start, 50, 0, {}), at(report_kind::log, 60, 10)}, {}).find("40 s left") !=
        std::string::npos);
  CHECK(printed({at(report_kind::start, 50, 0, {})}, {}) == "dpo 50/100  resumed\n");
}

TEST_CASE("terminal_sink: on a terminal one line is rewritten, evaluations and the end stay") {
  std::string const out = printed({at(report_kind::start, 0, 0, {}), at(report_kind::log, 50, 10),
                                   at(report_kind::evaluation, 50, 10, eval_metrics), at(report_kind::finish, 100, 20)},
                                  {.style = terminal_style::rewrite, .width = 200});
  CHECK(out ==
        "\r[>                   ]   0%  dpo 0/100  start\x1b[K"
        "\r[==========>         ]  50%  dpo 50/100  loss 0.6931  rewards/margins 1.5  5.0k tokens/s  10 s left\x1b[K"
        "\rdpo 50/100  eval_loss 0.5  5.0k tokens/s  10 s left\x1b[K\n"
        "\rdpo 100/100  loss 0.6931  rewards/margins 1.5  5.0k tokens/s  finished in 20 s\x1b[K\n");
}

TEST_CASE("terminal_sink: the rewritten line never exceeds the width") {
  std::string const out = printed({at(report_kind::log, 50, 10)}, {.style = terminal_style::rewrite, .width = 40});
  CHECK(out == "\r[==========>         ]  50%  dpo 50/100\x1b[K");
}

TEST_CASE("terminal_sink: progress between logs is shown, but not more often than asked") {
  std::vector<report> reports{at(report_kind::start, 0, 0, {})};
  for (std::size_t step = 1; step <= 100; ++step)
    reports.push_back(at(report_kind::progress, step, 0.01 * static_cast<double>(step)));
  std::string const out = printed(reports, {.style = terminal_style::rewrite, .width = 80, .seconds_between = 0.25});
  CHECK(std::count(out.begin(), out.end(), '\r') == 1 + 4);
}

TEST_CASE("terminal_sink: a metric that is not a number is shown as such") {
  std::array<metric, 1> const bad{{{"loss", std::numeric_limits<double>::quiet_NaN()}}};
  CHECK(printed({at(report_kind::log, 10, 2, bad)}, {}).find("loss nan") != std::string::npos);
}

TEST_CASE("terminal_sink: reports without totals, tokens or time do no harm") {
  CHECK(printed({report{.kind = report_kind::log, .stage = "s"}}, {}) == "s 0/0  epoch 0.00\n");
  CHECK(printed({report{.kind = report_kind::log, .stage = "s", .step = 7, .total_steps = 3}},
                {.style = terminal_style::rewrite, .width = 80})
            .find("[====================] 233%") != std::string::npos);
}

TEST_CASE("duration_text and rate_text: a reader's units") {
  CHECK(duration_text(0) == "0 s");
  CHECK(duration_text(59.6) == "1:00");
  CHECK(duration_text(245) == "4:05");
  CHECK(duration_text(3723) == "1:02:03");
  CHECK(duration_text(-1) == "?");
  CHECK(duration_text(std::numeric_limits<double>::quiet_NaN()) == "?");
  CHECK(rate_text(870) == "870");
  CHECK(rate_text(12345) == "12.3k");
  CHECK(rate_text(4560000) == "4.56M");
}

TEST_CASE("terminal_sink: an option out of range and a stream that takes nothing are errors") {
  CHECK_THROWS_AS(terminal_sink(stderr, {.seconds_between = -1.0}), contract_violation);
  std::FILE* const full = std::fopen("/dev/full", "w");
  REQUIRE(full != nullptr);
  terminal_sink sink(full);
  CHECK_THROWS_AS(sink(at(report_kind::log, 1, 1)), data_error);
  std::fclose(full);
}
