// SPDX-License-Identifier: MIT
#include <attune/device/token_kl.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>
#include <attune/core/storage.hpp>

#include "support/engine_checks.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using engine::launch_options;

namespace {

constexpr kl_direction both[] = {kl_direction::reverse, kl_direction::forward};

template <class T>
struct results {
  std::vector<T> kl, log_normalizers, ref_log_normalizers;

  explicit results(std::size_t n) : kl(n, T(5)), log_normalizers(kl), ref_log_normalizers(kl) {}
  row_kl<T> view() { return {kl, log_normalizers, ref_log_normalizers}; }
};

template <class S>
struct problem {
  logit_rows<S> policy, reference;

  problem(std::size_t n, std::size_t v, std::size_t between, std::size_t shift, std::size_t ref_shift, std::uint64_t seed = 3,
          double spread = 3.0)
      : policy(n, v, between, shift, seed, spread), reference(n, v, 0, ref_shift, seed + 1, spread) {}

  device::token_kl<S> body(kl_direction direction, results<float>& out) {
    return {.logits = policy.view(), .ref_logits = reference.view(), .targets = policy.targets.data(), .direction = direction,
            .kl = out.kl.data(), .log_normalizers = out.log_normalizers.data(),
            .ref_log_normalizers = out.ref_log_normalizers.data()};
  }

  results<double> truth(kl_direction direction) const {
    results<double> out(policy.rows);
    reference_backend<double>().token_kl(policy.wide_view(), reference.wide_view(), policy.targets, direction, out.view());
    return out;
  }

  void check(launch_options const& options) {
    for (kl_direction const direction : both) {
      results<float> out(policy.rows);
      engine::run(options, body(direction, out));
      check_close(out, truth(direction));
    }
  }

  /// A few units in the last place of float of the logits that count.
  static void check_close(results<float> const& seen, results<double> const& expected) {
    auto const close = [](char const* what, std::vector<float> const& a, std::vector<double> const& b) {
      for (std::size_t i = 0; i < a.size(); ++i) {
        INFO(what, " of row ", i, ": ", a[i], " for ", b[i]);
        CHECK(far_apart(static_cast<double>(a[i]), b[i]) <= 2e-6 * (1.0 + (std::isfinite(b[i]) ? std::abs(b[i]) : 0.0)));
      }
    };
    close("divergence", seen.kl, expected.kl);
    close("log_normalizer", seen.log_normalizers, expected.log_normalizers);
    close("ref_log_normalizer", seen.ref_log_normalizers, expected.ref_log_normalizers);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("token_kl: any width, stride, alignment, block and schedule, both directions, against double", S, float, bf16,
                   f16) {
  for (std::size_t const cols : {1u, 3u, 8u, 257u, 1003u})
    for (std::size_t const shift : {0u, 1u, 5u})
      for (std::size_t const ref_shift : {shift, shift + 2}) {
        INFO("cols ", cols, ", shifts ", shift, " and ", ref_shift);
        problem<S> p(5, cols, shift == 5 ? 16 / sizeof(S) : 0, shift, ref_shift, cols + shift);
        p.policy.targets[2] = no_target;
        for (unsigned const threads : {32u, 64u, 256u}) {
          if (engine::finds_races() && (threads == 256) != (cols > 257)) continue;
          for (launch_options const& options : engine::schedules({.blocks = 2, .threads = threads})) p.check(options);
        }
      }
}

TEST_CASE("token_kl: vocabularies of real models; 1024 threads") {
  problem<bf16> p(2, 32000, 0, 4, 4, 5, 2.0);
  p.check({.blocks = 1, .threads = 1024, .order = engine::schedule::shuffled});
  problem<float> q(1, 128256, 0, 1, 1, 6, 2.0);
  q.check({.blocks = 3, .threads = 512, .order = engine::schedule::reverse});
}

TEST_CASE("token_kl: masked entries, rows without a distribution, probabilities that underflow") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr std::size_t v = 77;
  enum : std::size_t { masked, off_policy, off_reference, nothing, ref_nothing, a_nan, infinite, ref_infinite, apart, rows };
  problem<float> p(rows, v, 0, 0, 0, 9);
  for (std::size_t c = 0; c < v; ++c) {
    if (c % 3 == 0) p.policy.set(masked, c, -inf), p.reference.set(masked, c, -inf);
    p.policy.set(nothing, c, -inf);
    p.reference.set(ref_nothing, c, -inf);
    p.policy.set(apart, c, c == 0 ? 0.0f : -30.0f);  // nearly certain, of another entry
    p.reference.set(apart, c, c == 70 ? 0.0f : -30.0f);
  }
  p.policy.set(off_policy, 40, -inf);       // reverse: 0; forward: +inf
  p.reference.set(off_reference, 76, -inf);  // the other way round
  p.reference.set(a_nan, 3, nan);
  p.policy.set(infinite, 50, inf);
  p.reference.set(ref_infinite, 50, inf);
  for (launch_options const& options : engine::schedules({.blocks = 4, .threads = 64})) p.check(options);
  for (kl_direction const direction : both) {
    bool const reverse = direction == kl_direction::reverse;
    results<float> out(rows);
    engine::run({.blocks = 1, .threads = 32}, p.body(direction, out));
    CHECK(std::isfinite(out.kl[masked]));
    CHECK(std::isinf(out.kl[off_policy]) == !reverse);
    CHECK(std::isinf(out.kl[off_reference]) == reverse);
    for (std::size_t const i : {nothing, ref_nothing, a_nan, infinite, ref_infinite}) CHECK(std::isnan(out.kl[i]));
    CHECK(out.kl[apart] == doctest::Approx(30.0).epsilon(1e-6));
  }
}

TEST_CASE_TEMPLATE("token_kl: exactly 0 between equal rows, aligned alike or not, and never below", S, float, bf16) {
  for (std::size_t const ref_shift : {0u, 1u})
    for (double const away : {0.0, 1e-4}) {
      problem<S> p(6, 515, 0, 0, ref_shift);
      for (std::size_t i = 0; i < 6; ++i)
        for (std::size_t c = 0; c < 515; ++c)
          p.reference.set(i, c, static_cast<float>(p.policy.view()(i, c)) + static_cast<float>(away) * static_cast<float>(c % 2));
      for (kl_direction const direction : both) {
        results<float> out(6);
        engine::run({.blocks = 2, .threads = 128}, p.body(direction, out));
        for (float const kl : out.kl) CHECK((away == 0.0 ? kl == 0.0f : kl >= 0.0f));
      }
    }
}

TEST_CASE("token_kl: rows without a target are not read and get 0") {
  problem<float> p(3, 65, 1, 2, 2);
  p.policy.targets = {no_target, 64, no_target};
  for (std::size_t c = 0; c < 65; ++c) p.policy.set(0, c, std::numeric_limits<float>::quiet_NaN());
  results<float> out(3);
  engine::run({.blocks = 2, .threads = 64}, p.body(kl_direction::reverse, out));
  CHECK(out.kl[0] == 0.0f);
  CHECK(out.log_normalizers[2] == 0.0f);
  CHECK(out.ref_log_normalizers[0] == 0.0f);
  CHECK(out.kl[1] > 0.0f);
}

TEST_CASE("token_kl: bits do not depend on schedule or grid") {
  problem<f16> p(6, 515, 0, 1, 1);
  results<float> first(6);
  engine::run({.blocks = 1, .threads = 128}, p.body(kl_direction::forward, first));
  for (launch_options options : engine::schedules({.blocks = 4, .threads = 128})) {
    options.seed = 0;
    results<float> again(6);
    engine::run(options, p.body(kl_direction::forward, again));
    CHECK(first.kl == again.kl);
    CHECK(first.ref_log_normalizers == again.ref_log_normalizers);
  }
}

TEST_CASE_TEMPLATE("token_kl: both rows are read twice, in packs", S, float, bf16) {
  problem<S> p(4, 4096, 0, 0, 0);
  results<float> out(4);
  auto const r = engine::run({.blocks = 4, .threads = 256}, p.body(kl_direction::reverse, out));
  std::size_t const once = 2 * 4 * 4096 * sizeof(S);
  CHECK(r.loads.accesses[16] * 16 == 2 * once);
  CHECK(r.loads.bytes == 2 * once + 4 * 256 * sizeof(token_id));
  CHECK(r.stores.bytes == 4 * 3 * sizeof(float));
}

TEST_CASE("token_kl: both barriers are needed") {
  problem<float> p(4, 300, 0, 0, 0);
  results<float> out(4);
  engine::check_barriers_needed({.blocks = 1, .threads = 128}, p.body(kl_direction::reverse, out), 2);
}
