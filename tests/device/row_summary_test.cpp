// SPDX-License-Identifier: MIT
#include <attune/device/row_summary.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/storage.hpp>

#include "support/engine_checks.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using engine::launch_options;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr device::row_terms all_terms{.plain = true, .products = true, .squares = true};

/// What a summary says of a row, in double by the definition.
struct expected_row {
  double log_sum, entropy, collision, plain;  // log_sum is relative to the maximum

  explicit expected_row(std::vector<double> const& x) : log_sum(nan), entropy(nan), collision(nan), plain(0.0) {
    double highest = -std::numeric_limits<double>::infinity(), sum = 0.0, squares = 0.0;
    for (double const a : x) {
      plain += a;
      highest = std::max(highest, a);
    }
    for (double const a : x) sum += std::exp(a - highest);  // NaN where all are -inf, where one is NaN and beside +inf
    if (!(sum > 0.0)) return;
    log_sum = std::log(sum);
    entropy = 0.0;
    for (double const a : x) {
      double const logp = a - highest - log_sum, p = std::exp(logp);
      if (p > 0.0) entropy -= p * logp;
      squares += p * p;
    }
    collision = std::log(squares);
  }
};

// Sums of floats that the engine's exp has put off by 2 units in the last place, once for the element and once whenever
// the maximum rises under it: with its own pack, in the warp and in the block, or a few times more in a long row.
constexpr double relative = 2e-6;

void check_summary(device::row_summary const& s, expected_row const& e) {
  CHECK(far_apart(s.log_sum(), e.log_sum) <= relative);
  CHECK(far_apart(s.entropy(), e.entropy) <= 2.0 * relative * (1.0 + std::abs(e.entropy)));
  CHECK(far_apart(s.collision(), e.collision) <= 4.0 * relative);
  if (std::isfinite(e.plain)) CHECK(far_apart(s.plain, e.plain) <= 1e-12 * (1.0 + std::abs(e.plain)));
}

}  // namespace

TEST_CASE("row_summary: rises to any maximum, from nothing too, and keeps what it has seen") {
  device::row_summary empty, two, risen, drowned;
  engine::run({.threads = 32}, [&](auto const& block) {
    if (block.thread() != 0) return;
    device::row_summary s;
    s.rise_to(block, -infinity);
    s.rise_to(block, 3.0f);
    empty = s;
    float const alike[2] = {3.0f, 3.0f};
    s.add(block, alike, all_terms);
    two = s;
    s.rise_to(block, 4.0f);
    risen = s;
    float const above[1] = {500.0f};  // what was there underflows
    s.add(block, above, all_terms);
    drowned = s;
  });
  CHECK(empty.maximum == 3.0f);
  CHECK(empty.sum == 0.0);
  CHECK(two.sum == 2.0);
  CHECK(two.plain == 6.0);
  CHECK(two.products == 0.0);
  CHECK(two.squares == 2.0);
  double const e = std::exp(-1.0);
  CHECK(risen.maximum == 4.0f);
  CHECK(std::abs(risen.sum - 2.0 * e) <= relative * e);
  CHECK(std::abs(risen.products + 2.0 * e) <= relative * e);
  CHECK(std::abs(risen.squares - 2.0 * e * e) <= 2.0 * relative * e * e);
  CHECK(risen.plain == 6.0);
  CHECK(drowned.sum == 1.0);
  CHECK(drowned.squares == 1.0);
  CHECK(drowned.log_sum() == 0.0);
}

TEST_CASE("row_summary: lanes of a warp merge to one, the same in every lane; lanes without elements count for nothing") {
  for (std::size_t const lanes : {std::size_t{1}, std::size_t{7}, std::size_t{31}, std::size_t{32}})
    for (launch_options const& options : engine::schedules({.threads = 32})) {
      logit_rows<float> x(1, 3 * lanes, 0, 0, lanes);
      std::vector<device::row_summary> merged(32);
      engine::run(options, [&](auto const& block) {
        device::row_summary own;
        if (block.thread() < lanes) {
          float const* const its = x.data() + 3 * block.thread();
          float const values[3] = {block.load(its), block.load(its + 1), block.load(its + 2)};
          own.add(block, values, all_terms);
        }
        merged[block.thread()] = device::merge_in_warp(block, own, all_terms);
      });
      expected_row const e(x.wide);
      for (device::row_summary const& s : merged) {
        CHECK(s.maximum == *std::max_element(x.data(), x.data() + x.cols));
        CHECK(s.sum == merged[0].sum);
        check_summary(s, e);
      }
    }
}

TEST_CASE_TEMPLATE("row_summary: a row of any length, alignment, block and schedule, against double", S, float, bf16, f16) {
  for (std::size_t const count : {1u, 2u, 7u, 8u, 31u, 33u, 70u, 300u, 1025u})
    for (std::size_t const shift : {0u, 1u, 3u})
      for (unsigned const threads : {32u, 96u})
        for (launch_options const& options : engine::schedules({.threads = threads})) {
          logit_rows<S> x(1, count, 0, shift, count + shift);
          std::vector<device::row_summary> seen(threads);
          engine::run(options, [&](auto const& block) {
            seen[block.thread()] = device::summarize_row(block, static_cast<S const*>(x.data()), count, all_terms);
          });
          INFO("count ", count, ", shift ", shift, ", threads ", threads);
          expected_row const e(x.wide);
          for (std::size_t lane = 0; lane < 32; ++lane) check_summary(seen[lane], e);
        }
}

TEST_CASE("row_summary: masked elements count for nothing; NaN, +inf and a row of -inf have no distribution") {
  constexpr std::size_t count = 70;
  auto const summary_of = [](logit_rows<float>& x) {
    device::row_summary first;
    engine::run({.threads = 64, .order = engine::schedule::reverse}, [&](auto const& block) {
      device::row_summary const s = device::summarize_row(block, static_cast<float const*>(x.data()), count, all_terms);
      if (block.thread() == 0) first = s;
    });
    return first;
  };
  for (std::size_t const at : {0u, 1u, 35u, 69u}) {  // before the packs, in the first, in the middle, behind them
    INFO("at ", at);
    logit_rows<float> x(1, count, 0, 1, 5);
    x.set(0, at, -infinity);
    device::row_summary const masked = summary_of(x);
    CHECK(masked.plain == -std::numeric_limits<double>::infinity());
    check_summary(masked, expected_row(x.wide));
    CHECK(std::isfinite(masked.entropy()));

    for (float const bad : {std::numeric_limits<float>::quiet_NaN(), infinity}) {
      x.set(0, at, bad);
      device::row_summary const s = summary_of(x);
      CHECK(std::isnan(s.log_sum()));
      CHECK(std::isnan(s.entropy()));
      CHECK(std::isnan(s.collision()));
    }

    for (std::size_t c = 0; c < count; ++c) x.set(0, c, -infinity);
    device::row_summary const none = summary_of(x);
    CHECK(none.maximum == -infinity);
    CHECK(none.sum == 0.0);
    CHECK(std::isnan(none.log_sum()));
    CHECK(std::isnan(none.entropy()));
    CHECK(std::isnan(none.collision()));

    x.set(0, at, -4.0f);  // all of the distribution
    device::row_summary const certain = summary_of(x);
    CHECK(certain.maximum == -4.0f);
    CHECK(certain.sum == 1.0);
    CHECK(certain.entropy() == 0.0);
    CHECK(certain.collision() == 0.0);
  }
}

TEST_CASE("row_summary: again and again, and both barriers are needed") {
  logit_rows<float> x(3, 300, 1, 2);
  std::vector<device::row_summary> out(3);
  auto const rows = [&](auto const& block) {
    for (std::size_t i = 0; i < 3; ++i) {
      device::row_summary const s = device::summarize_row(block, static_cast<float const*>(x.view().row(i)), x.cols, all_terms);
      if (block.thread() == 0) out[i] = s;
    }
  };
  for (launch_options const& options : engine::schedules({.threads = 96})) {
    engine::run(options, rows);
    for (std::size_t i = 0; i < 3; ++i)
      check_summary(out[i], expected_row({x.wide.begin() + static_cast<std::ptrdiff_t>(i * x.cols),
                                          x.wide.begin() + static_cast<std::ptrdiff_t>((i + 1) * x.cols)}));
  }
  engine::check_barriers_needed({.threads = 96}, rows, 2);
}
