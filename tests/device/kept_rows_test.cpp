// SPDX-License-Identifier: MIT
#include <attune/device/kept_rows.hpp>

#include <cstddef>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/storage.hpp>

#include "support/engine_checks.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE_TEMPLATE("kept_rows: copies of rows with a target, zeros for those without, whatever they hold", S, float, bf16, f16) {
  for (std::size_t const cols : {1u, 3u, 8u, 257u, 1003u})
    for (std::size_t const shift : {0u, 1u, 5u}) {
      INFO("cols ", cols, ", shift ", shift);
      logit_rows<S> rows(4, cols, shift, shift);
      rows.targets = {3, no_target, 0, no_target};
      for (std::size_t c = 0; c < cols; ++c) rows.set(1, c, std::numeric_limits<float>::quiet_NaN());
      rows.set(2, cols - 1, -std::numeric_limits<float>::infinity());
      for (launch_options const& options : engine::schedules({.blocks = 3, .threads = 64}))
        for (std::size_t const out_shift : {shift, std::size_t{0}, shift + 1}) {
          logit_rows<S> out(4, cols, 2, out_shift, 9);
          engine::run(options, device::kept_rows<S>{rows.view(), rows.targets.data(), out.view()});
          for (std::size_t i = 0; i < 4; ++i)
            for (std::size_t c = 0; c < cols; ++c) {
              float const expected = i % 2 == 1 ? 0.0f : static_cast<float>(rows.view()(i, c));
              if (static_cast<float>(out.view()(i, c)) != expected) CHECK_MESSAGE(false, "row ", i, ", column ", c);
            }
          CHECK(out.surroundings_untouched());
        }
    }
}

TEST_CASE("kept_rows: one reading and one writing, in packs; rows without a target are not read; no barrier") {
  logit_rows<bf16> rows(3, 2048), out(3, 2048);
  rows.targets[1] = no_target;
  auto const r = engine::run({.blocks = 3, .threads = 128}, device::kept_rows<bf16>{rows.view(), rows.targets.data(), out.view()});
  CHECK(r.loads.accesses[16] * 16 == 2 * 2048 * 2);
  CHECK(r.loads.bytes == 2 * 2048 * 2 + 3 * 128 * sizeof(token_id));
  CHECK(r.stores.accesses[16] * 16 == 3 * 2048 * 2);
  CHECK(r.stores.bytes == 3 * 2048 * 2);
  CHECK(r.barriers.empty());
}
