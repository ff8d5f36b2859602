// SPDX-License-Identifier: MIT
#include <attune/device/sft_losses.hpp>

#include <cstddef>
#include <vector>

#include <doctest/doctest.h>
#include <attune/device/token_weights.hpp>

#include "support/engine_checks.hpp"
#include "support/token_numbers.hpp"

using namespace attune;
using engine::launch_options;

namespace {

void check(sft_options const& options) {
  test::token_batch const batch(10);
  sequences_view const view = batch.view();
  std::size_t const n = view.total_tokens();
  bool const smoothed = options.label_smoothing > 0.0, with_z = options.z_loss_coef > 0.0;
  bool const by_sequence = options.normalization == sft_normalization::sequence;
  test::token_numbers const logps(view, -3.0, 1.0, 1), means(view, -9.0, 1.0, 2), normalizers(view, 4.0, 2.0, 3);
  sft_totals const totals{.tokens = 400, .sequences = 10};
  std::vector<double> slopes(n), mean_slopes(n), normalizer_slopes(n);
  double const loss = sft_loss<double>({logps.wide, means.wide, normalizers.wide}, view, {slopes, mean_slopes, normalizer_slopes},
                                       totals, options);
  std::vector<float> weights(n);
  engine::run({.threads = 32},
              device::token_weights{loss_aggregation::sequence_mean, {.sequences = totals.sequences}, batch.mask.data(),
                                    batch.offsets.data(), view.size(), weights.data()});
  for (launch_options const& launch : engine::schedules({.blocks = 3, .threads = 64})) {
    std::vector<float> on_logps = logps.narrow, on_means = means.narrow, on_normalizers = normalizers.narrow;  // in place
    std::vector<double> partials(3);
    device::sft_losses const body{.options = options,
                                  .tokens = n,
                                  .logps = on_logps.data(),
                                  .mean_logps = smoothed ? on_means.data() : nullptr,
                                  .log_normalizers = with_z ? on_normalizers.data() : nullptr,
                                  .mask = batch.mask.data(),
                                  .weight = 1.0 / static_cast<double>(totals.tokens),
                                  .weights = by_sequence ? weights.data() : nullptr,
                                  .slopes = on_logps.data(),
                                  .mean_slopes = smoothed ? on_means.data() : nullptr,
                                  .log_normalizer_slopes = with_z ? on_normalizers.data() : nullptr,
                                  .partials = partials.data()};
    engine::run(launch, body);
    CHECK(partials[0] + partials[1] + partials[2] == doctest::Approx(loss).epsilon(1e-7));
    for (std::size_t t = 0; t < n; ++t) {
      CHECK(static_cast<double>(on_logps[t]) == doctest::Approx(slopes[t]).epsilon(2e-7));
      if (smoothed) CHECK(static_cast<double>(on_means[t]) == doctest::Approx(mean_slopes[t]).epsilon(2e-7));
      if (with_z) CHECK(static_cast<double>(on_normalizers[t]) == doctest::Approx(normalizer_slopes[t]).epsilon(2e-7));
    }
  }
}

}  // namespace

TEST_CASE("sft_losses: the host's loss and slopes with every option, over the numbers themselves") {
  check({});
  check({.label_smoothing = 0.1});
  check({.label_smoothing = 0.1, .normalization = sft_normalization::sequence, .z_loss_coef = 1e-3});
  check({.loss_type = sft_loss_type::dft});
  check({.normalization = sft_normalization::sequence});
  check({.z_loss_coef = 1e-2});
}
