// SPDX-License-Identifier: MIT
#include <attune/device/token_weights.hpp>

#include <cstddef>
#include <vector>

#include <doctest/doctest.h>

#include "support/engine_checks.hpp"
#include "support/token_numbers.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE("token_weights: token_weight of each sequence, 0 in one without a masked-in token") {
  test::token_batch batch(10);
  batch.mask[41] = 0;  // sequence 1 has nothing left
  sequences_view const view = batch.view();
  aggregation_totals const totals{.tokens = 900, .sequences = 12, .constant_length = 64.0};
  for (loss_aggregation const aggregation : {loss_aggregation::sequence_mean, loss_aggregation::constant})
    for (launch_options const& options : engine::schedules({.blocks = 2, .threads = 64})) {
      std::vector<float> weights(view.total_tokens(), 9.0f);
      engine::run(options, device::token_weights{aggregation, totals, batch.mask.data(), batch.offsets.data(), view.size(),
                                                 weights.data()});
      for (std::size_t b = 0; b < view.size(); ++b) {
        std::size_t const length = completion_tokens(view.sequence_mask(b));
        float const expected = length == 0 ? 0.0f : static_cast<float>(token_weight(aggregation, totals, length));
        for (std::size_t t = view.offsets[b]; t < view.offsets[b + 1]; ++t) CHECK(weights[t] == expected);
      }
    }
}
