// SPDX-License-Identifier: MIT
#include <attune/device/segments.hpp>

#include <cstddef>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>
#include <attune/core/random.hpp>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE("segment_sum and segment_broadcast: ragged, empty ones too, any grid, as the reference backend") {
  std::vector<std::size_t> const offsets{0, 0, 1, 34, 34, 1034, 1066, 1066};
  std::size_t const segments = offsets.size() - 1;
  std::vector<float> values(offsets.back());
  random_stream random(4);
  for (float& x : values) x = static_cast<float>(1e3 * random.normal());
  std::vector<float> sums(segments), broadcast(values.size());
  reference_backend<float>().segment_sum(values, offsets, sums);
  reference_backend<float>().segment_broadcast(sums, offsets, broadcast);
  for (unsigned const blocks : {1u, 2u, 5u})
    for (launch_options const& options : engine::schedules({.blocks = blocks, .threads = 64})) {
      std::vector<float> out(segments, 9.0f), spread(values.size(), 9.0f);
      engine::run(options, device::segment_sum{values.data(), offsets.data(), segments, out.data()});
      for (std::size_t b = 0; b < segments; ++b) CHECK(out[b] == doctest::Approx(sums[b]).epsilon(1e-7));
      CHECK(out[0] == 0.0f);
      auto const r = engine::run(options, device::segment_broadcast{sums.data(), offsets.data(), segments, spread.data()});
      CHECK(spread == broadcast);
      CHECK(r.stores.bytes == values.size() * sizeof(float));
    }
}

TEST_CASE("segment_sum: in double") {
  std::vector<float> values(4096, 1.0f);
  values[0] = 1e8f;
  values[4095] = -1e8f;
  std::vector<std::size_t> const offsets{0, 4096};
  float out = 0.0f;
  engine::run({.threads = 32}, device::segment_sum{values.data(), offsets.data(), 1, &out});
  CHECK(out == 4094.0f);
}
