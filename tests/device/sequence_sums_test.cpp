// SPDX-License-Identifier: MIT
#include <attune/device/sequence_sums.hpp>

#include <cstddef>
#include <vector>

#include <doctest/doctest.h>
#include <attune/objective/sequence_sums.hpp>

#include "support/engine_checks.hpp"
#include "support/token_numbers.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE("sequence_sums: the host's in double, masked-out NaN unread, on any grid") {
  test::token_batch const batch(10);
  test::token_numbers const logps(batch.view(), -40.0, 20.0, 6);
  std::vector<double> expected(8);
  sequence_sums<double>(logps.wide, batch.view(), expected);
  for (unsigned const blocks : {1u, 3u})
    for (launch_options const& options : engine::schedules({.blocks = blocks, .threads = 64})) {
      std::vector<double> sums(8, 9.0);
      engine::run(options, device::sequence_sums{logps.narrow.data(), batch.mask.data(), batch.offsets.data(), 8, sums.data()});
      for (std::size_t b = 0; b < 8; ++b) CHECK(sums[b] == doctest::Approx(expected[b]).epsilon(1e-15));
    }
}

TEST_CASE("sequence_sums: what float would swallow is in the sum") {
  std::vector<float> values(4096, 1.0f);
  values[1] = 1e8f;
  values[4095] = -1e8f;
  std::vector<std::uint8_t> mask(4096, 1);
  mask[0] = 0;
  std::vector<std::size_t> const offsets{0, 4096};
  double sum = 0.0;
  engine::run({.threads = 32}, device::sequence_sums{values.data(), mask.data(), offsets.data(), 1, &sum});
  CHECK(sum == 4093.0);
}
