// SPDX-License-Identifier: MIT
#include <attune/device/whiten.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE("whiten: as the host has it, in place, whatever the mask leaves out") {
  random_stream random(3);
  for (std::size_t const count : {1u, 2u, 700u}) {
    std::vector<float> values(count);
    std::vector<std::uint8_t> mask(count, 1);
    for (std::size_t i = 0; i < count; ++i) {
      values[i] = static_cast<float>(100.0 + random.normal());
      if (i % 3 == 2) {
        mask[i] = 0;
        values[i] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    for (bool const shift : {true, false})
      for (bool const bessel : {true, false}) {
        whiten_options const options{.shift_mean = shift, .bessel_correction = bessel};
        std::vector<float> expected(count);
        whiten<float>(values, mask, expected, options);
        for (launch_options const& launch : engine::schedules({.blocks = 2, .threads = 128})) {
          std::vector<float> out = values;
          engine::run(launch, device::whiten{options, out.data(), mask.data(), count, out.data()});
          for (std::size_t i = 0; i < count; ++i) CHECK(out[i] == doctest::Approx(expected[i]).epsilon(1e-7));
        }
      }
  }
}

TEST_CASE("whiten: equal values are 0, or themselves") {
  std::vector<float> const values(1000, 0.1f);
  std::vector<std::uint8_t> const mask(1000, 1);
  std::vector<float> out(1000);
  engine::run({.threads = 64}, device::whiten{{}, values.data(), mask.data(), 1000, out.data()});
  CHECK(out == std::vector<float>(1000, 0.0f));
  engine::run({.threads = 64}, device::whiten{{.shift_mean = false}, values.data(), mask.data(), 1000, out.data()});
  CHECK(out == values);
}
