// SPDX-License-Identifier: MIT
#include <attune/device/sequence_losses.hpp>

#include <cstddef>
#include <vector>

#include <doctest/doctest.h>
#include <attune/objective/gspo.hpp>

#include "support/engine_checks.hpp"
#include "support/token_numbers.hpp"

using namespace attune;
using engine::launch_options;

namespace {

void check(gspo_options const& options, loss_aggregation aggregation, kl_loss_options const& kl) {
  test::token_batch const batch(10);
  sequences_view const view = batch.view();
  std::size_t const n = view.total_tokens();
  test::token_numbers const logps(view, -3.0, 1.0, 1), advantages(view, 0.0, 1.0, 3);
  test::token_numbers old_logps(view, 0.0, 3e-3, 2), ref_logps(view, 0.0, 0.5, 4);
  for (std::size_t t = 0; t < n; ++t)
    for (test::token_numbers* const other : {&old_logps, &ref_logps}) {
      other->narrow[t] += logps.narrow[t];
      other->wide[t] = static_cast<double>(other->narrow[t]);
    }
  bool const with_kl = kl.kl_loss_coef > 0.0;
  aggregation_totals const totals{.tokens = 500, .sequences = 9, .constant_length = 64.0};
  policy_gradient_tokens<double> of{.logps = logps.wide, .old_logps = old_logps.wide, .advantages = advantages.wide};
  if (with_kl) of.ref_logps = ref_logps.wide;
  std::vector<double> expected(n);
  policy_gradient_statistics statistics;
  double const loss = policy_gradient_loss<double>(of, view, expected, totals, aggregation, options, &statistics, kl);
  CHECK(statistics.clipfrac.sum > 0.0);
  CHECK(statistics.clipfrac.sum < statistics.clipfrac.weight);
  for (unsigned const blocks : {1u, 2u})
    for (launch_options const& launch : engine::schedules({.blocks = blocks, .threads = 64})) {
      std::vector<float> slopes = logps.narrow;  // in place
      std::vector<double> partials(2 * 8), sums(8);
      engine::run(launch, device::sequence_losses<gspo_options>{.options = options,
                                                                .aggregation = aggregation,
                                                                .totals = totals,
                                                                .logps = slopes.data(),
                                                                .old_logps = old_logps.narrow.data(),
                                                                .advantages = advantages.narrow.data(),
                                                                .ref_logps = with_kl ? ref_logps.narrow.data() : nullptr,
                                                                .mask = batch.mask.data(),
                                                                .offsets = batch.offsets.data(),
                                                                .sequences = view.size(),
                                                                .slopes = slopes.data(),
                                                                .partials = partials.data(),
                                                                .kl_loss = kl});
      engine::run({.threads = 32}, device::sum_partials{partials.data(), 2, sums.data(), 8});
      for (std::size_t t = 0; t < n; ++t) {
        INFO("token ", t);
        CHECK(static_cast<double>(slopes[t]) == doctest::Approx(expected[t]).epsilon(2e-7));
      }
      CHECK(sums[0] == doctest::Approx(loss).epsilon(1e-12));
      CHECK(sums[1] == doctest::Approx(statistics.approxkl.sum).epsilon(1e-12));
      CHECK(sums[2] == statistics.clipfrac.sum);
      CHECK(sums[4] == doctest::Approx(statistics.ratio.sum).epsilon(1e-12));
      CHECK(sums[5] == doctest::Approx(statistics.ratio_squared.sum).epsilon(1e-12));
      CHECK(sums[6] == doctest::Approx(statistics.kl.sum).epsilon(1e-12));
      CHECK(sums[7] == statistics.ratio.weight);
    }
}

}  // namespace

TEST_CASE("sequence_losses: GSPO's slopes, loss and statistics as the host has them; a response's ratio, a token's, KL") {
  check({}, loss_aggregation::sequence_mean, {});
  check({}, loss_aggregation::token_mean, {.kl_loss_coef = 0.1});
  check({.token_advantages = true}, loss_aggregation::sequence_sum, {});
  check({.token_advantages = true}, loss_aggregation::constant, {.kl_loss_coef = 0.1, .bias_correction = true});
  check({}, loss_aggregation::sequence_mean,
        {.kl_loss_coef = 0.1, .kl_loss_estimator = kl_estimator::k3, .bias_correction = true});
}
