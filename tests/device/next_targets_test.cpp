// SPDX-License-Identifier: MIT
#include <attune/device/next_targets.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>
#include <attune/objective/loss_on_logits.hpp>

#include "support/engine_checks.hpp"
#include "support/token_numbers.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE("next_targets: the targets that loss_on_logits prepares on the host, on any grid") {
  test::token_batch const batch(500);
  loss_workspace<float> expected;
  expected.prepare(batch.view(), {});
  for (unsigned const blocks : {1u, 2u, 5u})
    for (launch_options const& options : engine::schedules({.blocks = blocks, .threads = 64})) {
      std::vector<token_id> targets(batch.tokens.size(), 77);
      engine::run(options, device::next_targets{batch.tokens.data(), batch.mask.data(), batch.offsets.data(), 8, targets.data()});
      CHECK(targets == expected.targets);
    }
}

TEST_CASE("next_targets: a masked-in token that reads as no target is one that no vocabulary has, and not none") {
  std::vector<std::size_t> const offsets{0, 4};
  std::vector<token_id> const tokens{4, no_target, 7, no_target};
  std::vector<std::uint8_t> const mask{0, 1, 1, 0};
  std::vector<token_id> targets(4, 77);
  engine::run({.threads = 32}, device::next_targets{tokens.data(), mask.data(), offsets.data(), 1, targets.data()});
  CHECK(targets == std::vector<token_id>{device::next_targets::nowhere, 7, no_target, no_target});
  CHECK(device::next_targets::nowhere < no_target);
}

TEST_CASE("next_targets: sequences without tokens have none") {
  std::vector<std::size_t> const offsets{0, 0, 3, 3};
  std::vector<token_id> const tokens{4, 5, 6};
  std::vector<std::uint8_t> const mask{0, 1, 1};
  std::vector<token_id> targets(3, 77);
  engine::run({.threads = 32}, device::next_targets{tokens.data(), mask.data(), offsets.data(), 3, targets.data()});
  CHECK(targets == std::vector<token_id>{5, 6, no_target});
}
