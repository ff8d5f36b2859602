// SPDX-License-Identifier: MIT
#include <attune/concepts/report_sink.hpp>

#include <doctest/doctest.h>

#include <functional>
#include <string>

using namespace attune;

namespace {

using function = void(report const&);
struct counts {
  int calls = 0;
  void operator()(report const&) { ++calls; }
};
struct returns_something {
  int operator()(report const&) const { return 1; }
};

struct wants_to_change_it {
  void operator()(report&) const {}
};
struct takes_a_line_of_text {
  void operator()(std::string const&) const {}
};
struct const_but_changes {
  void operator()(report const&) {}
};
struct not_callable {
  void write(report const&) {}
};

}  // namespace

static_assert(ReportSink<function>);
static_assert(ReportSink<counts>);
static_assert(ReportSink<returns_something>);
static_assert(ReportSink<std::function<void(report const&)>>);
static_assert(!ReportSink<wants_to_change_it>);
static_assert(!ReportSink<takes_a_line_of_text>);
static_assert(!ReportSink<const_but_changes const>);
static_assert(!ReportSink<not_callable>);

TEST_CASE("report sink: a report carries views, no copies") {
  metric const metrics[]{{"loss", 0.5}, {"grad_norm", 1.0}};
  counts sink;
  sink(report{.kind = report_kind::log, .stage = "dpo", .step = 3, .total_steps = 9, .metrics = metrics});
  CHECK(sink.calls == 1);
}
