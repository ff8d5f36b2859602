// SPDX-License-Identifier: MIT
#include <attune/device/gae.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE("gae: ragged sequences, gaps in the mask, any grid, in place, against double") {
  std::vector<std::size_t> const offsets{0, 1, 1, 33, 65, 96, 97, 1200, 1300};
  std::size_t const n = offsets.back(), sequences = offsets.size() - 1;
  random_stream random(3);
  std::vector<double> rewards(n), values(n), advantages(n), returns(n);
  std::vector<std::uint8_t> mask(n, 1);
  std::vector<token_id> const tokens(n, 0);
  for (std::size_t t = 0; t < n; ++t) {
    rewards[t] = static_cast<double>(static_cast<float>(random.normal()));
    values[t] = static_cast<double>(static_cast<float>(random.normal()));
    mask[t] = t < 1200 && (t < 97 || random.below(4) != 0);  // the last sequence has none
  }
  for (std::size_t const start : offsets)
    if (start < n) mask[start] = 0;
  std::vector<float> plain_rewards(rewards.begin(), rewards.end()), plain_values(values.begin(), values.end());
  for (std::size_t t = 0; t < n; ++t)
    if (mask[t] == 0) plain_rewards[t] = plain_values[t] = std::numeric_limits<float>::quiet_NaN();
  for (gae_options const options : {gae_options{}, gae_options{.gamma = 0.99, .lam = 1.0}, gae_options{.gamma = 0.9, .lam = 0.0}}) {
    gae<double>({rewards, values}, {tokens, offsets, mask}, {advantages, returns}, options);
    for (launch_options const& launch : engine::schedules({.blocks = 2, .threads = 96})) {
      std::vector<float> r = plain_rewards, v = plain_values;
      engine::run(launch, device::gae{options, r.data(), v.data(), mask.data(), offsets.data(), sequences, r.data(), v.data()});
      for (std::size_t t = 0; t < n; ++t) {
        INFO("token ", t);
        CHECK(std::abs(static_cast<double>(r[t]) - advantages[t]) <= 1.3e-7 * (std::abs(advantages[t]) + 1e-3));
        CHECK(std::abs(static_cast<double>(v[t]) - returns[t]) <= 1.3e-7 * (std::abs(returns[t]) + 1e-3));
      }
    }
  }
}
