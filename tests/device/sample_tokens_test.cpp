// SPDX-License-Identifier: MIT
#include <attune/device/sample_tokens.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/storage.hpp>

#include "support/engine_checks.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using engine::launch_options;

namespace {

/// The same draw in double, from random_stream's numbers.
template <class S>
token_id draw(logit_rows<S> const& rows, std::size_t i, double temperature, std::uint64_t seed, std::uint64_t stream,
              std::uint32_t position, double& lead) {
  double best = -std::numeric_limits<double>::infinity(), second = best;
  token_id token = no_target;
  for (std::size_t v = 0; v < rows.cols; ++v) {
    std::uint64_t const at = ((v / 4 + 1) << 32) + position;
    auto const bits = philox({static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at >> 32),
                              static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                             {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
    if (v % 4 == 0) CHECK(((std::uint64_t{bits[1]} << 32) | bits[0]) == random_stream(seed, stream, at)());
    double const u = (static_cast<double>(bits[v % 4]) + 0.5) * 0x1p-32;
    double const score = rows.wide[i * rows.cols + v] / temperature - std::log(-std::log1p(-u));
    if (score > best) {
      second = best;
      best = score;
      token = static_cast<token_id>(v);
    } else if (score > second) {
      second = score;
    }
  }
  lead = best - second;
  return token;
}

}  // namespace

TEST_CASE_TEMPLATE("sample_tokens: the same draw as in double, whatever the alignment, block and schedule", S, float, bf16) {
  for (std::size_t const cols : {1u, 5u, 997u})
    for (std::size_t const shift : {0u, 3u}) {
      logit_rows<S> rows(5, cols, 2, shift, 11);
      std::vector<std::uint64_t> const streams{4, 0, 1ull << 40, 9, 9};
      for (launch_options const& options : engine::schedules({.blocks = 2, .threads = 64})) {
        std::vector<token_id> out(5, 77);
        engine::run(options, device::sample_tokens<S>{rows.view(), 0.7f, 1ull << 33 | 5, streams.data(), 3, out.data()});
        for (std::size_t i = 0; i < 5; ++i) {
          double lead = 0.0;
          token_id const expected = draw(rows, i, static_cast<double>(0.7f), 1ull << 33 | 5, streams[i], 3, lead);
          INFO("row ", i, " of width ", cols);
          if (lead > 1e-4) CHECK(out[i] == expected);
          CHECK(static_cast<std::size_t>(out[i]) < cols);
        }
      }
    }
}

TEST_CASE("sample_tokens: draws as often as the distribution has it") {
  constexpr std::size_t draws = 4000;
  logit_rows<float> one(1, 6, 0, 0, 2, 1.0);
  std::vector<std::uint64_t> streams(draws);
  std::iota(streams.begin(), streams.end(), std::uint64_t{0});
  std::vector<token_id> out(draws);
  engine::run({.blocks = engine::finds_races() ? 2u : 8u, .threads = 32},  // all rows are the same row
              device::sample_tokens<float>{{one.data(), draws, 6, 0}, 2.0f, 12, streams.data(), 0, out.data()});
  double total = 0.0, chi_squared = 0.0;
  for (double const x : one.wide) total += std::exp(x / 2.0);
  for (std::size_t v = 0; v < 6; ++v) {
    double const expected = draws * std::exp(one.wide[v] / 2.0) / total;
    auto const count = static_cast<double>(std::count(out.begin(), out.end(), static_cast<token_id>(v)));
    chi_squared += (count - expected) * (count - expected) / expected;
  }
  CHECK(chi_squared < 20.5);  // 0.1 % with five degrees of freedom
}

TEST_CASE("sample_tokens: greedy, masked entries, rows without a distribution") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  logit_rows<float> rows(5, 70);
  for (std::size_t c = 0; c < 70; ++c) {
    rows.set(0, c, c == 40 || c == 66 ? 3.0f : 1.0f);
    rows.set(1, c, c == 69 ? -100.0f : -inf);
    rows.set(2, c, -inf);
  }
  rows.set(3, 68, std::numeric_limits<float>::quiet_NaN());
  rows.set(4, 0, inf);
  std::vector<std::uint64_t> const streams(5, 1);
  for (float const temperature : {0.0f, 1.0f})
    for (launch_options const& options : engine::schedules({.blocks = 1, .threads = 64})) {
      std::vector<token_id> out(5, 77);
      engine::run(options, device::sample_tokens<float>{rows.view(), temperature, 5, streams.data(), 0, out.data()});
      if (temperature == 0.0f) CHECK(out[0] == 40);
      CHECK(out[1] == 69);
      CHECK(out[2] == no_target);
      CHECK(out[3] == no_target);
      CHECK(out[4] == no_target);
    }
}

TEST_CASE("sample_tokens: both barriers are needed") {
  logit_rows<float> rows(4, 300);
  std::vector<std::uint64_t> const streams(4, 1);
  std::vector<token_id> out(4);
  engine::check_barriers_needed({.threads = 96}, device::sample_tokens<float>{rows.view(), 1.0f, 5, streams.data(), 0, out.data()}, 2);
}
