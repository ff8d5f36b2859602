// SPDX-License-Identifier: MIT
//
// The main function of every test executable. Beside what doctest gives it exits with 77 where nothing failed but a
// test said MESSAGE("skipped: ..."), so that a test which could not run is never counted among those that passed.
// That is allowed to test cases named "real data: ..." (tests/CMakeLists.txt registers each by its name), to those of an
// optional package that is absent and to those that need a device (tests/cuda).
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <string_view>

namespace {

bool skipped = false;

struct skip_listener : doctest::IReporter {
  explicit skip_listener(doctest::ContextOptions const&) {}

  void log_message(doctest::MessageData const& message) override {
    if (std::string_view(message.m_string.c_str()).starts_with("skipped: ")) skipped = true;
  }

  void report_query(doctest::QueryData const&) override {}
  void test_run_start() override {}
  void test_run_end(doctest::TestRunStats const&) override {}
  void test_case_start(doctest::TestCaseData const&) override {}
  void test_case_reenter(doctest::TestCaseData const&) override {}
  void test_case_end(doctest::CurrentTestCaseStats const&) override {}
  void test_case_exception(doctest::TestCaseException const&) override {}
  void subcase_start(doctest::SubcaseSignature const&) override {}
  void subcase_end() override {}
  void log_assert(doctest::AssertData const&) override {}
  void test_case_skipped(doctest::TestCaseData const&) override {}
};

}  // namespace

REGISTER_LISTENER("skips", 1, skip_listener);

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  int const result = context.run();
  if (result != 0 || !skipped) return result;
  std::puts("exit 77: a test case was skipped (only those named \"real data: ...\" or \"device: ...\" and xtensor's may be)");
  return 77;
}
