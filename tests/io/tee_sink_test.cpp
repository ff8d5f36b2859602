// SPDX-License-Identifier: MIT
#include <attune/io/tee_sink.hpp>

#include <doctest/doctest.h>

#include <memory>
#include <string>

using namespace attune;

TEST_CASE("tee_sink: every sink sees every report, in the order given") {
  std::string seen;
  auto const first = [&](report const& r) { seen += "a" + std::to_string(r.step); };
  auto const second = [&](report const& r) { seen += "b" + std::to_string(r.step); };
  tee_sink both(first, second);
  static_assert(ReportSink<decltype(both)>);
  both(report{.step = 1});
  both(report{.step = 2});
  CHECK(seen == "a1b1a2b2");
}

TEST_CASE("tee_sink: a sink passed by name is borrowed, a temporary is kept, one that cannot be copied too") {
  struct counter {
    int count = 0;
    void operator()(report const&) { ++count; }
  };
  struct owner {
    std::unique_ptr<int> count = std::make_unique<int>(0);
    int* out;
    explicit owner(int* o) : out(o) {}
    void operator()(report const&) { *out = ++*count; }
  };
  counter named;
  int owned = 0;
  tee_sink both(named, owner(&owned));
  both(report{});
  both(report{});
  CHECK(named.count == 2);
  CHECK(owned == 2);
}

TEST_CASE("tee_sink: what a sink throws comes through and later sinks are not called") {
  bool called = false;
  tee_sink both([](report const&) { throw 1; }, [&](report const&) { called = true; });
  CHECK_THROWS_AS(both(report{}), int);
  CHECK_FALSE(called);
}
