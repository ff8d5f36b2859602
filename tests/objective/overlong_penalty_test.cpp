// SPDX-License-Identifier: MIT
#include <attune/objective/overlong_penalty.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

#include <attune/testing/gradient_check.hpp>

#include "support/golden_file.hpp"
#include "support/proofs.hpp"

using namespace attune;

TEST_CASE("overlong penalty: it is TRL's soft overlong punishment, for every length") {
  double worst = 0.0;
  std::size_t lengths = 0;
  auto const cases = read_golden("overlong_penalty.txt");
  for (golden_case const& c : cases) {
    overlong_penalty_options const o{.max_length = c.integers<std::size_t>("limit")[0],
                                     .buffer = c.integers<std::size_t>("buffer")[0]};
    validate(o);
    auto const given = c.integers<std::size_t>("lengths");
    for (std::size_t i = 0; i < given.size(); ++i, ++lengths)
      worst = std::max(worst, testing::relative_error(overlong_penalty(given[i], o), c["rewards"][i]));
  }
  CHECK(cases.size() >= 40);
  CHECK(lengths > 200);
  CHECK(worst == 0.0);
  proofs::golden("overlong penalty", "TRL", cases.size(), worst, 0.0);
}

TEST_CASE("overlong penalty: nothing before the buffer, then a straight line to the whole of it, and no more beyond") {
  overlong_penalty_options const o{.max_length = 20480, .buffer = 4096, .factor = 0.5};  // DAPO's lengths
  CHECK(overlong_penalty(0, o) == 0.0);
  CHECK(overlong_penalty(16384, o) == 0.0);
  CHECK(overlong_penalty(16384 + 1024, o) == -0.125);
  CHECK(overlong_penalty(16384 + 2048, o) == -0.25);
  CHECK(overlong_penalty(20480, o) == -0.5);
  CHECK(overlong_penalty(std::numeric_limits<std::size_t>::max(), o) == -0.5);
  CHECK(overlong_penalty(1, {.max_length = 1, .buffer = 1}) == -1.0);
  bool falls = true;
  for (std::size_t length = 1; length < 21000; ++length)
    falls = falls && overlong_penalty(length, o) <= overlong_penalty(length - 1, o);
  CHECK(falls);
  proofs::law("overlong penalty", "0 up to the buffer, linear in it, -factor at the limit and beyond");
}

TEST_CASE("overlong penalty: options out of range are refused by field and value") {
  auto const why = [](overlong_penalty_options o) -> std::string {
    try {
      validate(o);
    } catch (contract_violation const& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK(why({}) == "expected overlong_penalty_options.max_length >= 1, got 0");
  CHECK(why({.max_length = 4}) == "expected overlong_penalty_options.buffer in [1, max_length], got 0");
  CHECK(why({.max_length = 4, .buffer = 5}) == "expected overlong_penalty_options.buffer in [1, max_length], got 5");
  for (double const x : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    CHECK(why({.max_length = 4, .buffer = 4, .factor = x})
              .starts_with("expected overlong_penalty_options.factor > 0 and finite, got "));
  CHECK(why({.max_length = 4, .buffer = 4}) == "no error");
}
