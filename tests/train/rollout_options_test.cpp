// SPDX-License-Identifier: MIT
#include <attune/train/rollout_options.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>

using namespace attune;

TEST_CASE("rollout_options: each field out of range is refused by name, and each is part of a run's identity") {
  auto const refused = [](rollout_options const& o, char const* what) {
    CHECK_THROWS_WITH_AS(validate(o), doctest::Contains(what), contract_violation);
  };
  CHECK_NOTHROW(validate(rollout_options{}));
  refused({.num_generations = 0}, "rollout_options.num_generations >= 1, got 0");
  refused({.max_new_tokens = 0}, "rollout_options.max_new_tokens >= 1, got 0");
  refused({.stop_tokens = {3, -1}}, "rollout_options.stop_tokens >= 0, got -1");
  refused({.top_p = 0.0}, "rollout_options.top_p in (0, 1], got 0");
  refused({.missing_eos_penalty = std::nan("")}, "rollout_options.missing_eos_penalty > 0 and finite, got nan");
  refused({.without_eos = missing_eos::subtract}, "rollout_options.stop_tokens, since without_eos is set");

  auto const identity = [](rollout_options const& o) {
    checksum64 sum;
    describe(o, sum);
    return sum.value();
  };
  std::uint64_t const standard = identity({});
  CHECK(identity({.num_generations = 2}) != standard);
  CHECK(identity({.max_new_tokens = 2}) != standard);
  CHECK(identity({.stop_tokens = {1}}) != standard);
  CHECK(identity({.top_k = 3}) != standard);
  CHECK(identity({.top_p = 0.5}) != standard);
  CHECK(identity({.without_eos = missing_eos::replace}) != standard);
  CHECK(identity({.missing_eos_penalty = 2.0}) != standard);
}
