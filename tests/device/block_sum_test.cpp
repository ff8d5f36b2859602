// SPDX-License-Identifier: MIT
#include <attune/device/block_sum.hpp>

#include <vector>

#include <doctest/doctest.h>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE("block_sum: in every thread, again and again") {
  for (unsigned const threads : {32u, 64u, 1024u})
    for (launch_options const& options : engine::schedules({.threads = threads})) {
      std::vector<double> seen(threads);
      engine::run(options, [&](auto const& block) {
        double const first = device::block_sum(block, static_cast<double>(block.thread() + 1));
        block.store(&seen[block.thread()], device::block_sum(block, first));
      });
      double const n = threads;
      CHECK(seen == std::vector<double>(threads, n * n * (n + 1) / 2));
    }
  engine::check_barriers_needed(
      {.threads = 96},
      [](auto const& block) {
        for (int k = 0; k < 3; ++k) (void)device::block_sum(block, 1.0);
      },
      2);
}

TEST_CASE("sum_partials: columns of a table") {
  std::vector<double> table(3 * 1000), out(3, -1.0);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<double>(i);
  engine::run({.threads = 128, .order = engine::schedule::reverse}, device::sum_partials{table.data(), 1000, out.data(), 3});
  CHECK(out == std::vector<double>{1498500.0, 1499500.0, 1500500.0});
  engine::run({.threads = 32}, device::sum_partials{table.data(), 0, out.data()});
  CHECK(out[0] == 0.0);
}
