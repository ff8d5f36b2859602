// SPDX-License-Identifier: MIT
#include <attune/device/token_losses.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>
#include <attune/objective/cispo.hpp>
#include <attune/objective/ppo.hpp>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;

namespace {

template <class O>
void check(O const& options, kl_loss_options const& kl, bool by_sequence) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<std::size_t> const offsets{0, 3, 40, 300};
  std::size_t const n = offsets.back();
  random_stream random(5);
  std::vector<float> logps, old_logps, advantages, ref_logps, weights;
  std::vector<std::uint8_t> mask(n);
  std::vector<token_id> tokens(n, 1);
  for (std::size_t t = 0; t < n; ++t) {
    mask[t] = t != 0 && t != 3 && t != 40 && t % 5 != 0;
    logps.push_back(mask[t] ? static_cast<float>(-3.0 + random.normal()) : nan);
    old_logps.push_back(logps[t] + static_cast<float>(0.4 * random.normal()));
    ref_logps.push_back(logps[t] + static_cast<float>(random.normal()));
    advantages.push_back(mask[t] ? static_cast<float>(random.normal()) : nan);
  }
  logps[11] = 0.0f;
  old_logps[11] = -80.0f;  // a ratio beyond float
  auto const wide = [](std::vector<float> const& x) { return std::vector<double>(x.begin(), x.end()); };
  sequences_view const batch{.tokens = tokens, .offsets = offsets, .mask = mask};
  auto const totals = aggregation_totals_of(batch);
  auto const aggregation = by_sequence ? loss_aggregation::sequence_mean : loss_aggregation::token_mean;
  for (std::size_t b = 0; b < batch.size(); ++b)
    weights.resize(offsets[b + 1], static_cast<float>(token_weight(aggregation, totals, completion_tokens(batch.sequence_mask(b)))));
  auto const l = wide(logps), o = wide(old_logps), a = wide(advantages), r = wide(ref_logps);
  bool const with_kl = kl.kl_loss_coef > 0.0;
  policy_gradient_tokens<double> of{.logps = l, .old_logps = o, .advantages = a};
  if (with_kl) of.ref_logps = r;
  std::vector<double> expected(n);
  policy_gradient_statistics statistics;
  double const loss = policy_gradient_loss<double>(of, batch, expected, totals, aggregation, options, &statistics, kl);
  for (launch_options const& launch : engine::schedules({.blocks = 2, .threads = 64})) {
    std::vector<float> slopes = logps;
    std::vector<double> partials(2 * 8), sums(8);
    device::token_losses<O> body{.options = options,
                                 .tokens = n,
                                 .logps = slopes.data(),
                                 .old_logps = old_logps.data(),
                                 .advantages = advantages.data(),
                                 .ref_logps = with_kl ? ref_logps.data() : nullptr,
                                 .mask = mask.data(),
                                 .weight = token_weight(aggregation, totals, 1),
                                 .weights = by_sequence ? weights.data() : nullptr,
                                 .slopes = slopes.data(),
                                 .partials = partials.data(),
                                 .kl_loss = kl};
    engine::run(launch, body);
    engine::run({.threads = 32}, device::sum_partials{partials.data(), 2, sums.data(), 8});
    for (std::size_t t = 0; t < n; ++t) {
      float const s = saturate_cast<float>(expected[t]);
      CHECK(slopes[t] == doctest::Approx(s).epsilon(2e-7));
    }
    CHECK(slopes[0] == 0.0f);
    CHECK(sums[0] == doctest::Approx(loss).epsilon(1e-7));
    CHECK(sums[1] == doctest::Approx(statistics.approxkl.sum).epsilon(1e-12));
    CHECK(sums[2] == statistics.clipfrac.sum);
    CHECK(sums[3] == statistics.clipfrac_lower.sum);
    CHECK(sums[4] == doctest::Approx(statistics.ratio.sum).epsilon(1e-12));
    CHECK(sums[5] == doctest::Approx(statistics.ratio_squared.sum).epsilon(1e-12));
    CHECK(sums[6] == doctest::Approx(statistics.kl.sum).epsilon(1e-12));
    CHECK(sums[7] == static_cast<double>(completion_tokens(mask)));
  }
}

}  // namespace

TEST_CASE("token_losses: slopes, loss and statistics of the host; clips, KL, weights, masks") {
  check(ppo_options{}, {}, false);
  check(ppo_options{.cliprange_high = 0.28, .dual_clip = 3.0}, {.kl_loss_coef = 0.1}, true);
  check(ppo_options{}, {.kl_loss_coef = 0.1, .kl_loss_estimator = kl_estimator::k3, .bias_correction = true}, false);
  check(cispo_options{}, {.kl_loss_coef = 0.05, .kl_loss_estimator = kl_estimator::k3}, true);
}
