// SPDX-License-Identifier: MIT
#include <attune/train/loop_options.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace attune;

TEST_CASE("loop options: the defaults are valid, each bad field is refused by name and value") {
  CHECK_NOTHROW(validate(loop_options{}));
  CHECK_THROWS_WITH_AS(validate(loop_options{.learning_rate = 0.0}),
                       "expected loop_options.learning_rate > 0 and finite, got 0", contract_violation);
  CHECK_THROWS_AS(validate(loop_options{.learning_rate = std::nan("")}), contract_violation);
  CHECK_THROWS_AS(validate(loop_options{.epochs = 0.0}), contract_violation);
  CHECK_THROWS_AS(validate(loop_options{.epochs = std::nan("")}), contract_violation);
  CHECK_NOTHROW(validate(loop_options{.epochs = 0.0, .max_steps = 3}));
  CHECK_THROWS_AS(validate(loop_options{.batch_size = 0}), contract_violation);
  CHECK_THROWS_AS(validate(loop_options{.max_grad_norm = 0.0}), contract_violation);
  CHECK_NOTHROW(validate(loop_options{.max_grad_norm = std::numeric_limits<double>::infinity()}));
  CHECK_THROWS_AS(validate(loop_options{.logging_steps = 0}), contract_violation);
  CHECK_THROWS_AS(validate(loop_options{.save_steps = 5}), contract_violation);
  CHECK_THROWS_AS(validate(loop_options{.resume = true}), contract_violation);
  CHECK_NOTHROW(validate(loop_options{.save_steps = 5, .checkpoint_folder = "here", .resume = true}));
}

TEST_CASE("loop options: what shapes the result is in the fingerprint, how often it reports is not") {
  auto const print = [](loop_options const& o, std::size_t steps = 10) {
    checksum64 sum;
    describe(o, steps, sum);
    return sum.value();
  };
  auto const base = print({});
  CHECK(print({.learning_rate = 2e-3}) != base);
  CHECK(print({.schedule = learning_rate_schedule::cosine}) != base);
  CHECK(print({.warmup_steps = 1}) != base);
  CHECK(print({}, 11) != base);
  CHECK(print({.batch_size = 9}) != base);
  CHECK(print({.micro_batch_tokens = 1}) != base);
  CHECK(print({.max_grad_norm = 2.0}) != base);
  CHECK(print({.seed = 1}) != base);
  CHECK(print({.nonfinite = on_nonfinite::skip}) != base);
  CHECK(print({.logging_steps = 1, .eval_steps = 1, .save_steps = 1, .checkpoint_folder = "x", .resume = true}) == base);
}
