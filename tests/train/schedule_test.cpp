// SPDX-License-Identifier: MIT
#include <attune/train/schedule.hpp>

#include <doctest/doctest.h>

using namespace attune;
using enum learning_rate_schedule;

TEST_CASE("schedule: without warm-up the first step has the full rate") {
  for (auto const shape : {constant, linear, cosine}) CHECK(learning_rate_factor(shape, 0, 0, 10) == 1.0);
}

TEST_CASE("schedule: warm-up rises in equal parts, never 0, and is full when it ends") {
  for (auto const shape : {constant, linear, cosine}) {
    CHECK(learning_rate_factor(shape, 0, 4, 10) == doctest::Approx(0.2));
    CHECK(learning_rate_factor(shape, 3, 4, 10) == doctest::Approx(0.8));
    CHECK(learning_rate_factor(shape, 4, 4, 10) == 1.0);
  }
}

TEST_CASE("schedule: constant stays, linear and cosine fall to the end as TRL's do") {
  CHECK(learning_rate_factor(constant, 9, 2, 10) == 1.0);
  CHECK(learning_rate_factor(linear, 6, 2, 10) == 0.5);
  CHECK(learning_rate_factor(linear, 9, 2, 10) == doctest::Approx(0.125));
  CHECK(learning_rate_factor(linear, 10, 2, 10) == 0.0);
  CHECK(learning_rate_factor(cosine, 6, 2, 10) == doctest::Approx(0.5));
  CHECK(learning_rate_factor(cosine, 4, 2, 10) == doctest::Approx(0.8535533905932737));
  CHECK(learning_rate_factor(cosine, 10, 2, 10) == doctest::Approx(0.0));
}

TEST_CASE("schedule: a warm-up as long as the run, or longer, is defined") {
  CHECK(learning_rate_factor(linear, 4, 5, 5) == doctest::Approx(5.0 / 6.0));
  CHECK(learning_rate_factor(cosine, 7, 9, 5) == doctest::Approx(0.8));
  CHECK(learning_rate_factor(linear, 99, 0, 5) == 0.0);
}
