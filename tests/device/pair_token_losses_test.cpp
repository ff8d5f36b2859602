// SPDX-License-Identifier: MIT
#include <attune/device/pair_token_losses.hpp>

#include <cmath>
#include <cstddef>
#include <vector>

#include <doctest/doctest.h>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/objective/pairwise/ipo.hpp>
#include <attune/objective/pairwise/orpo.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/pairwise/simpo.hpp>

#include "support/engine_checks.hpp"
#include "support/token_numbers.hpp"

using namespace attune;
using engine::launch_options;

namespace {

constexpr std::size_t pairs = 4;

template <class O>
void check(O const& options, pair_ratios ratios = {}) {
  test::token_batch const batch(10);
  sequences_view const view = batch.view();
  test::token_numbers const logps(view, -2.0, 1.0, 1);
  std::vector<double> ref{-61.0, -3.0, -170.5, -9.0, -40.0, -55.0, -80.0, -8.0};
  bool const referred = options.reads().reference && !ratios.reference_free;
  pair_totals const totals{.pairs = 6, .chosen_tokens = 300};
  std::vector<double> expected(view.total_tokens());
  double const loss = pairs_on_tokens<O>(referred ? ref : std::vector<double>{}, options, totals, ratios)(
      view, std::span<double const>(logps.wide), std::span<double>(expected));
  for (unsigned const blocks : {1u, 2u})
    for (launch_options const& launch : engine::schedules({.blocks = blocks, .threads = 64})) {
      std::vector<float> slopes = logps.narrow;  // in place
      std::vector<double> partials(2);
      engine::run(launch, device::pair_token_losses<O>{.options = options,
                                                       .total = options.reads().per_chosen_token ? 300.0 : 6.0,
                                                       .logps = slopes.data(),
                                                       .mask = batch.mask.data(),
                                                       .offsets = batch.offsets.data(),
                                                       .pairs = pairs,
                                                       .ref_logps = referred ? ref.data() : nullptr,
                                                       .slopes = slopes.data(),
                                                       .partials = partials.data(),
                                                       .divergence = ratios.divergence});
      CHECK(partials[0] + partials[1] == doctest::Approx(loss).epsilon(1e-12));
      for (std::size_t t = 0; t < slopes.size(); ++t) {
        INFO("token ", t);
        CHECK(static_cast<double>(slopes[t]) == doctest::Approx(expected[t]).epsilon(1e-7));
      }
    }
}

}  // namespace

TEST_CASE("pair_token_losses: loss and slopes of pairs_on_tokens, over the log-probabilities themselves") {
  check(dpo_options{});
  check(dpo_options{.beta = 0.3, .label_smoothing = 0.1, .smoothing = dpo_smoothing::robust});
  check(dpo_options{}, {.divergence = {.type = f_divergence_type::js_divergence}});
  check(dpo_options{}, {.reference_free = true});
  check(ipo_options{});
  check(simpo_options{});
  check(orpo_options{});
}

TEST_CASE("pair_token_losses: a response without a token makes the loss NaN") {
  test::token_batch batch(10);
  batch.mask[41] = 0;
  std::vector<float> const logps(batch.tokens.size(), -1.0f);
  std::vector<float> slopes(logps.size());
  double loss = 0.0;
  engine::run({.threads = 32}, device::pair_token_losses<dpo_options>{.options = {},
                                                                      .total = 4.0,
                                                                      .logps = logps.data(),
                                                                      .mask = batch.mask.data(),
                                                                      .offsets = batch.offsets.data(),
                                                                      .pairs = pairs,
                                                                      .slopes = slopes.data(),
                                                                      .partials = &loss});
  CHECK(std::isnan(loss));
}
