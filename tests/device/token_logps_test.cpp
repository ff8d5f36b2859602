// SPDX-License-Identifier: MIT
#include <attune/device/token_logps.hpp>

#include <cstring>
#include <initializer_list>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>
#include <attune/core/storage.hpp>

#if !defined(__SANITIZE_THREAD__)
#include <attune/backend/eigen.hpp>
#endif

#include "support/engine_checks.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using engine::launch_options;

namespace {

template <class T>
struct results {
  std::vector<T> logps, log_normalizers, mean_logps, entropies, collisions;

  explicit results(std::size_t n) : logps(n, T(5)), log_normalizers(logps), mean_logps(logps), entropies(logps), collisions(logps) {}
  row_logps<T> view() { return {logps, log_normalizers, mean_logps, entropies, collisions}; }
};

template <class S>
device::token_logps<S> body_of(logit_rows<S>& rows, results<float>& out, bool all = true) {
  device::token_logps<S> body{.logits = rows.view(), .targets = rows.targets.data(), .logps = out.logps.data(),
                              .log_normalizers = out.log_normalizers.data()};
  if (all) {
    body.mean_logps = out.mean_logps.data();
    body.entropies = out.entropies.data();
    body.collisions = out.collisions.data();
  }
  return body;
}

template <class S>
results<double> truth(logit_rows<S> const& rows) {
  results<double> out(rows.rows);
  reference_backend<double>().token_logps(rows.wide_view(), rows.targets, out.view());
  return out;
}

/// A few units in the last place of float: the results are rounded once, and exp and log are off by two and one.
void check_close(results<float> const& seen, results<double> const& expected) {
  auto const close = [](char const* what, std::vector<float> const& a, std::vector<double> const& b) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      INFO(what, " of row ", i, ": ", a[i], " for ", b[i]);
      CHECK(far_apart(static_cast<double>(a[i]), b[i]) <= 4e-7 * (1.0 + (std::isfinite(b[i]) ? std::abs(b[i]) : 0.0)));
    }
  };
  close("logp", seen.logps, expected.logps);
  close("log_normalizer", seen.log_normalizers, expected.log_normalizers);
  close("mean_logp", seen.mean_logps, expected.mean_logps);
  close("entropy", seen.entropies, expected.entropies);
  close("collision", seen.collisions, expected.collisions);
}

template <class S>
void check_rows(logit_rows<S>& rows, launch_options const& options) {
  INFO("rows ", rows.rows, ", cols ", rows.cols, ", stride ", rows.stride, ", shift ", rows.shift, ", bytes ", sizeof(S));
  results<float> out(rows.rows);
  engine::run(options, body_of(rows, out));
  check_close(out, truth(rows));
}

}  // namespace

TEST_CASE_TEMPLATE("token_logps: any width, stride, alignment, block and schedule, against double", S, float, bf16, f16) {
  for (std::size_t const cols : {1u, 3u, 8u, 31u, 257u, 1003u})
    for (std::size_t const shift : {0u, 1u, 3u, 7u}) {
      logit_rows<S> rows(5, cols, shift == 3 ? 2 : 0, shift, cols + shift);
      rows.targets[2] = no_target;
      for (unsigned const threads : {32u, 64u, 256u}) {
        if (engine::finds_races() && (threads == 256) != (cols > 257)) continue;
        for (launch_options const& options : engine::schedules({.blocks = 2, .threads = threads})) check_rows(rows, options);
      }
    }
}

TEST_CASE("token_logps: vocabularies of real models; 1024 threads") {
  logit_rows<bf16> small(2, 32000, 0, 4, 5, 2.0);
  check_rows(small, {.blocks = 1, .threads = 1024, .order = engine::schedule::shuffled});
  logit_rows<float> large(1, 128256, 0, 1, 6, 2.0);
  check_rows(large, {.blocks = 3, .threads = 512, .order = engine::schedule::reverse});
}

TEST_CASE("token_logps: masked entries, rows without a distribution, certain targets, extremes") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr std::size_t v = 77;
  logit_rows<float> rows(12, v, 0, 0, 9);
  for (std::size_t c = 0; c < v; ++c) {
    if (c != 40) rows.set(0, c, -inf);           // one entry is left
    if (c % 3 != 0) rows.set(1, c, -inf);
    rows.set(2, c, -inf);                        // none
    rows.set(5, c, c == 0 ? 0.0f : -110.0f);     // all but certain, others underflow
    rows.set(6, c, c == 0 ? 0.0f : -30.0f);      // 1 - p is 7e-12
    rows.set(7, c, 3e38f);
    rows.set(8, c, c < 32 ? -inf : -3e38f);      // whole threads see nothing but -inf
    rows.set(9, c, static_cast<float>(c));       // each thread's maximum rises
    rows.set(10, c, c < 33 ? nan : -inf);        // NaN where no maximum is
  }
  rows.targets[0] = 40;
  rows.targets[1] = 1;  // a masked target
  rows.set(3, 50, nan);
  rows.set(4, 5, inf);
  rows.targets[5] = rows.targets[6] = 0;
  rows.targets[8] = 60;
  for (launch_options const& options : engine::schedules({.blocks = 4, .threads = 64})) check_rows(rows, options);

  results<float> out(rows.rows);
  engine::run({.blocks = 1, .threads = 32}, body_of(rows, out));
  CHECK(out.logps[0] == 0.0f);
  CHECK(out.entropies[0] == 0.0f);
  CHECK(out.logps[1] == -inf);
  CHECK(std::isnan(out.logps[2]));
  CHECK(std::isnan(out.logps[3]));
  CHECK(std::isnan(out.logps[4]));
  CHECK(out.logps[6] == doctest::Approx(-76 * 9.357622968840175e-14).epsilon(1e-6));  // not lost beside 1
  CHECK(std::isnan(out.logps[10]));
  CHECK(std::isfinite(out.logps[11]));
}

TEST_CASE("token_logps: outputs that are not asked for change nothing; rows without a target are not read") {
  logit_rows<float> rows(3, 65, 1, 2);
  rows.targets = {no_target, 64, no_target};
  for (std::size_t c = 0; c < rows.cols; ++c) rows.set(0, c, std::numeric_limits<float>::quiet_NaN());
  results<float> all(3), two(3);
  engine::run({.blocks = 2, .threads = 64}, body_of(rows, all));
  engine::run({.blocks = 2, .threads = 64}, body_of(rows, two, false));
  CHECK(all.logps == two.logps);
  CHECK(all.log_normalizers == two.log_normalizers);
  CHECK(two.entropies == std::vector<float>(3, 5.0f));
  CHECK(all.entropies[0] == 0.0f);
  CHECK(all.collisions[2] == 0.0f);
  CHECK(rows.surroundings_untouched());
}

TEST_CASE("token_logps: a target that is no entry of the vocabulary makes its row NaN and is not read") {
  logit_rows<float> rows(5, 65, 1, 2);
  rows.targets = {65, 64, -2, std::numeric_limits<token_id>::max(), no_target};
  results<float> out(5);
  auto const r = engine::run({.blocks = 2, .threads = 64}, body_of(rows, out));
  for (auto const* const one : {&out.logps, &out.log_normalizers, &out.mean_logps, &out.entropies, &out.collisions})
    for (std::size_t i = 0; i < 5; ++i) CHECK(std::isnan((*one)[i]) == (i != 1 && i != 4));
  CHECK(r.loads.bytes == 65 * sizeof(float) + sizeof(float) + 5 * 64 * sizeof(token_id));
}

TEST_CASE("token_logps: bits do not depend on schedule or grid") {
  logit_rows<f16> rows(6, 515, 3, 1);
  results<float> first(6);
  engine::run({.blocks = 1, .threads = 128}, body_of(rows, first));
  for (launch_options options : engine::schedules({.blocks = 4, .threads = 128})) {
    options.seed = 0;
    results<float> again(6);
    engine::run(options, body_of(rows, again));
    CHECK(first.logps == again.logps);
    CHECK(first.entropies == again.entropies);
  }
}

TEST_CASE_TEMPLATE("token_logps: logits are read once, in packs", S, float, bf16) {
  logit_rows<S> rows(4, 4096);
  results<float> out(4);
  auto const r = engine::run({.blocks = 4, .threads = 256}, body_of(rows, out));
  std::size_t const of_rows = 4 * (4096 * sizeof(S));
  CHECK(r.loads.accesses[16] * 16 == of_rows);
  CHECK(r.loads.bytes == of_rows + 4 * (sizeof(S) + 256 * sizeof(token_id)));  // the target's logit; who the target is
  CHECK(r.stores.bytes == 4 * 5 * sizeof(float));
}

TEST_CASE("token_logps: both barriers are needed") {
  logit_rows<float> rows(4, 300);
  results<float> out(4);
  engine::check_barriers_needed({.blocks = 1, .threads = 128}, body_of(rows, out), 2);
}

#if !defined(__SANITIZE_THREAD__)
TEST_CASE("token_logps: as the Eigen backend has it") {
  logit_rows<float> rows(7, 997);
  rows.targets[3] = no_target;
  results<float> seen(7), expected(7);
  eigen_backend<float>().token_logps(rows.view(), rows.targets, expected.view());
  engine::run({.blocks = 3, .threads = 128}, body_of(rows, seen));
  for (std::size_t i = 0; i < 7; ++i) {
    CHECK(std::abs(seen.logps[i] - expected.logps[i]) <= 1e-6f * (1.0f + std::abs(expected.logps[i])));
    CHECK(std::abs(seen.entropies[i] - expected.entropies[i]) <= 2e-6f);
  }
}
#endif
