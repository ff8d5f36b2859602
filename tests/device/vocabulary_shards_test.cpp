// SPDX-License-Identifier: MIT
#include <attune/device/vocabulary_shards.hpp>

#include <cstddef>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>
#include <attune/device/token_logps_adjoint.hpp>

#include "support/engine_checks.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE("vocabulary_shards: shards of any width give what the whole vocabulary does, forward and backward") {
  constexpr std::size_t rows = 6, cols = 301;
  constexpr float inf = std::numeric_limits<float>::infinity();
  logit_rows<float> whole(rows, cols, 0, 0, 8);
  whole.targets = {0, 99, 100, 300, no_target, 7};
  for (std::size_t c = 0; c < 100; ++c) whole.set(3, c, -inf);  // nothing in the first shard
  whole.set(5, 200, std::numeric_limits<float>::quiet_NaN());
  std::vector<double> logps(rows), z(rows), mean(rows), entropy(rows), collision(rows);
  reference_backend<double>().token_logps(whole.wide_view(), whole.targets, {logps, z, mean, entropy, collision});

  std::vector<std::size_t> const bounds{0, 100, 101, 300, cols};
  std::size_t const shards = bounds.size() - 1;
  std::vector<device::shard_summary> parts(shards * rows);
  auto const shard = [&](std::size_t k) {
    return matrix_view<float>{whole.data() + bounds[k], rows, bounds[k + 1] - bounds[k], whole.stride};
  };
  for (launch_options const& options : engine::schedules({.blocks = 2, .threads = 64})) {
    for (std::size_t k = 0; k < shards; ++k)
      engine::run(options, device::summarize_shard<float>{.logits = shard(k), .first = bounds[k], .targets = whole.targets.data(),
                                                          .with = {true, true, true}, .out = parts.data() + k * rows});
    std::vector<float> out[5];
    for (auto& o : out) o.assign(rows, 5.0f);
    engine::run(options, device::combine_shards{parts.data(), shards, rows, cols, whole.targets.data(), out[0].data(), out[1].data(),
                                                out[2].data(), out[3].data(), out[4].data()});
    std::vector<double> const* const expected[5] = {&logps, &z, &mean, &entropy, &collision};
    for (std::size_t k = 0; k < 5; ++k)
      for (std::size_t i = 0; i < rows; ++i) {
        double const to = (*expected[k])[i];
        INFO("output ", k, " of row ", i, ": ", out[k][i], " for ", to);
        CHECK(far_apart(static_cast<double>(out[k][i]), to) <= 4e-7 * (1.0 + (std::isfinite(to) ? std::abs(to) : 0.0)));
      }

    std::vector<float> const slopes{1.0f, -2.0f, 0.5f, 3.0f, 1.0f, 1.0f}, means{0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f};
    std::vector<double> const wide_slopes(slopes.begin(), slopes.end()), wide_means(means.begin(), means.end());
    std::vector<double> const seen(out[1].begin(), out[1].end());
    std::vector<double> gradient(rows * cols);
    reference_backend<double>().token_logps_adjoint(whole.wide_view(), whole.targets, seen,
                                                    {.logps = wide_slopes, .mean_logps = wide_means},
                                                    as_matrix(gradient.data(), rows, cols));
    std::vector<float> dlogits(rows * cols, 9.0f);
    for (std::size_t k = 0; k < shards; ++k)
      engine::run(options, device::token_logps_adjoint<float>{
                               .logits = shard(k), .targets = whole.targets.data(), .log_normalizers = out[1].data(),
                               .slopes = slopes.data(),
                               .dlogits = {dlogits.data() + bounds[k], rows, bounds[k + 1] - bounds[k], cols},
                               .mean_slopes = means.data(), .first = bounds[k], .vocabulary = cols});
    for (std::size_t e = 0; e < gradient.size(); ++e) CHECK(far_apart(static_cast<double>(dlogits[e]), gradient[e]) <= 3e-6);
  }
}

TEST_CASE("combine_shards: a target that is no entry of any shard makes its row NaN") {
  logit_rows<float> rows(4, 40);
  rows.targets = {40, 39, -2, no_target};
  std::vector<device::shard_summary> parts(8);
  for (std::size_t k = 0; k < 2; ++k)
    engine::run({.threads = 64}, device::summarize_shard<float>{.logits = {rows.data() + 20 * k, 4, 20, 40}, .first = 20 * k,
                                                                .targets = rows.targets.data(), .with = {true, true, true},
                                                                .out = parts.data() + 4 * k});
  std::vector<float> out[5];
  for (auto& o : out) o.assign(4, 5.0f);
  engine::run({.threads = 64}, device::combine_shards{parts.data(), 2, 4, 40, rows.targets.data(), out[0].data(), out[1].data(),
                                                      out[2].data(), out[3].data(), out[4].data()});
  for (auto const& o : out) {
    for (std::size_t i = 0; i < 4; ++i) CHECK(std::isnan(o[i]) == (i % 2 == 0));
    CHECK(o[3] == 0.0f);
  }
}

TEST_CASE("summarize_shard: both barriers are needed") {
  logit_rows<float> rows(4, 300);
  std::vector<device::shard_summary> out(4);
  engine::check_barriers_needed(
      {.threads = 96}, device::summarize_shard<float>{rows.view(), 0, rows.targets.data(), {}, out.data()}, 2);
}
