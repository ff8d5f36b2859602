// SPDX-License-Identifier: MIT
#include <attune/device/squared_norm.hpp>

#include <cstddef>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>
#include <attune/core/storage.hpp>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE_TEMPLATE("squared_norm: any length and alignment; bits do not depend on the schedule", S, float, bf16, f16) {
  std::vector<S> values(9003);
  random_stream random(4);
  for (S& x : values) x = S(static_cast<float>(random.normal()));
  for (std::size_t const count : {0u, 1u, 5u, 4096u, 9000u})
    for (std::size_t const shift : {0u, 3u}) {
      long double expected = 0.0L;
      for (std::size_t i = 0; i < count; ++i) {
        long double const x = static_cast<long double>(static_cast<float>(values[shift + i]));
        expected += x * x;
      }
      double first = -1.0;
      for (launch_options const& options : engine::schedules({.blocks = 3, .threads = 128})) {
        std::vector<double> partials(3, -1.0);
        double out = -1.0;
        engine::run(options, device::squared_norm<S>{values.data() + shift, count, partials.data()});
        engine::run({.threads = 32}, device::sum_partials{partials.data(), 3, &out});
        CHECK(out == doctest::Approx(static_cast<double>(expected)).epsilon(1e-14));
        CHECK((first == -1.0 || first == out));
        first = out;
      }
    }
}
