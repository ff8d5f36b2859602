// SPDX-License-Identifier: MIT
#include <attune/device/token_logps_adjoint.hpp>

#include <initializer_list>
#include <limits>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>
#include <attune/core/storage.hpp>

#include "support/engine_checks.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using engine::launch_options;

namespace {

/// Logits with slopes of all kinds, and the gradient in double.
template <class S>
struct problem {
  logit_rows<S> logits;
  std::vector<float> log_normalizers, entropies, slopes, mean_slopes, entropy_slopes, normalizer_slopes;

  problem(std::size_t n, std::size_t v, std::size_t between, std::size_t shift, std::uint64_t seed = 3)
      : logits(n, v, between, shift, seed), log_normalizers(n), entropies(n) {
    random_stream random(seed + 1);
    for (auto* const some : {&slopes, &mean_slopes, &entropy_slopes, &normalizer_slopes})
      for (std::size_t i = 0; i < n; ++i) some->push_back(static_cast<float>(random.normal()));
  }

  void forward() {
    std::vector<double> logps(logits.rows), z(logits.rows), h(logits.rows);
    reference_backend<double>().token_logps(logits.wide_view(), logits.targets,
                                            {.logps = logps, .log_normalizers = z, .entropies = h});
    log_normalizers.assign(z.begin(), z.end());
    entropies.assign(h.begin(), h.end());
  }

  device::token_logps_adjoint<S> body(matrix_view<S> out, bool all = true) {
    device::token_logps_adjoint<S> b{.logits = logits.view(),
                                     .targets = logits.targets.data(),
                                     .log_normalizers = log_normalizers.data(),
                                     .slopes = slopes.data(),
                                     .dlogits = out};
    if (all) {
      b.mean_slopes = mean_slopes.data();
      b.entropies = entropies.data();
      b.entropy_slopes = entropy_slopes.data();
      b.log_normalizer_slopes = normalizer_slopes.data();
    }
    return b;
  }

  std::vector<double> truth(bool all = true) const {
    auto const wide = [](std::vector<float> const& x) { return std::vector<double>(x.begin(), x.end()); };
    auto const z = wide(log_normalizers), h = wide(entropies), s = wide(slopes), m = wide(mean_slopes),
               e = wide(entropy_slopes), l = wide(normalizer_slopes);
    std::vector<double> out(logits.wide.size());
    row_slopes<double> of{.logps = s};
    if (all) of = {.logps = s, .mean_logps = m, .entropies = h, .entropy_slopes = e, .log_normalizers = l};
    reference_backend<double>().token_logps_adjoint(logits.wide_view(), logits.targets, z, of,
                                                    as_matrix(out.data(), logits.rows, logits.cols));
    return out;
  }

  /// Rounded once to the storage, and before that off by what float's exp and x - log_normalizer are.
  void check(matrix_view<S> seen, std::vector<double> const& expected) {
    double const unit = sizeof(S) == 4 ? 1e-6 : sizeof(S) == 2 && static_cast<float>(S(1.0f + 0x1p-9f)) == 1.0f ? 0x1p-8 : 0x1p-10;
    for (std::size_t i = 0; i < logits.rows; ++i)
      for (std::size_t v = 0; v < logits.cols; ++v) {
        double const to = expected[i * logits.cols + v], was = static_cast<double>(static_cast<float>(seen(i, v)));
        if (far_apart(was, to) <= unit * (std::isfinite(to) ? std::abs(to) : 0.0) + 2e-6) continue;
        INFO("row ", i, ", element ", v, " of ", logits.cols, ": ", was, " for ", to);
        CHECK(false);
      }
  }
};

}  // namespace

TEST_CASE_TEMPLATE("token_logps_adjoint: any width, stride, alignment, block and schedule; in place and not", S, float, bf16,
                   f16) {
  for (std::size_t const cols : {1u, 3u, 9u, 257u, 1003u})
    for (std::size_t const shift : {0u, 1u, 5u}) {
      problem<S> p(4, cols, shift == 5 ? 3 : 0, shift);
      p.logits.targets[1] = no_target;
      p.forward();
      std::vector<double> const expected = p.truth();
      for (unsigned const threads : {32u, 256u}) {
        if (engine::finds_races() && (threads == 256) != (cols > 257)) continue;
        for (launch_options const& options : engine::schedules({.blocks = 2, .threads = threads})) {
          INFO("cols ", cols, ", shift ", shift, ", threads ", threads);
          for (std::size_t const out_shift : {shift, shift + 2}) {
            logit_rows<S> out(4, cols, 1, out_shift);
            engine::run(options, p.body(out.view()));
            p.check(out.view(), expected);
            CHECK(out.surroundings_untouched());
          }
          problem<S> in_place = p;
          engine::run(options, in_place.body(in_place.logits.view()));
          p.check(in_place.logits.view(), expected);
          CHECK(in_place.logits.surroundings_untouched());
        }
      }
    }
}

TEST_CASE("token_logps_adjoint: masked entries, NaN, certain targets, slopes alone") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  problem<float> p(8, 70, 0, 0);
  for (std::size_t c = 0; c < 70; ++c) {
    if (c % 2 == 0) p.logits.set(0, c, -inf);
    p.logits.set(1, c, -inf);
    p.logits.set(3, c, c == 0 ? 0.0f : -30.0f);
    p.logits.set(6, c, c == 0 ? 0.0f : -200.0f);
    p.logits.set(7, c, nan);
  }
  p.logits.set(2, 69, nan);
  p.logits.targets[0] = 2;  // masked
  p.logits.targets[3] = 0;
  p.logits.targets[7] = no_target;
  p.forward();
  p.slopes[4] = nan;
  p.entropies[5] = nan;
  for (bool const all : {true, false}) {
    logit_rows<float> out(8, 70);
    engine::run({.blocks = 2, .threads = 64}, p.body(out.view(), all));
    p.check(out.view(), p.truth(all));
    CHECK(out.view()(0, 2) == 0.0f);
    CHECK(std::isnan(out.view()(4, 3)));
    CHECK(std::isnan(out.view()(5, 3)) == all);
    CHECK(out.view()(7, 69) == 0.0f);
    if (!all) CHECK(static_cast<double>(out.view()(3, 0)) == doctest::Approx(static_cast<double>(p.slopes[3]) * 69 * 9.357622968840175e-14).epsilon(1e-3));
  }
}

TEST_CASE("token_logps_adjoint: a vocabulary of 128256 in place") {
  problem<bf16> p(1, 128256, 0, 3);
  p.forward();
  std::vector<double> const expected = p.truth();
  engine::run({.blocks = 1, .threads = 1024, .order = engine::schedule::reverse}, p.body(p.logits.view()));
  p.check(p.logits.view(), expected);
}

TEST_CASE("token_logps_adjoint: one reading and one writing, in packs; no barrier") {
  problem<bf16> p(3, 2048, 0, 0);
  p.forward();
  auto const r = engine::run({.blocks = 3, .threads = 128}, p.body(p.logits.view()));
  CHECK(r.loads.accesses[16] * 16 == 3 * 2048 * 2);
  CHECK(r.loads.accesses[2] == 0);
  CHECK(r.loads.bytes == 3 * (2048 * 2 + 128 * (sizeof(token_id) + 6 * sizeof(float))));  // slopes and what they go with
  CHECK(r.stores.bytes == 3 * 2048 * 2);
  CHECK(r.stores.accesses[16] * 16 == r.stores.bytes);
  CHECK(r.barriers.empty());
}

TEST_CASE_TEMPLATE("token_logps_adjoint: float logits to gradients of 16 bits, rounded once, with and without what is left", D,
                   bf16, f16) {
  constexpr double places = std::is_same_v<D, bf16> ? 0x1p-8 : 0x1p-11, least = std::is_same_v<D, bf16> ? 0.0 : 0x1p-25;
  for (std::size_t const cols : {1u, 5u, 8u, 257u, 1003u})
    for (std::size_t const shift : {0u, 1u, 3u})
      for (bool const with_rests : {false, true}) {
        INFO("cols ", cols, ", shift ", shift, ", rests ", with_rests);
        problem<float> p(4, cols, shift == 3 ? 2 : 0, shift);
        p.logits.targets[1] = no_target;
        p.forward();
        p.slopes[3] = std::numeric_limits<float>::quiet_NaN();
        std::vector<double> const expected = p.truth();
        for (unsigned const threads : {32u, 256u}) {
          if (engine::finds_races() && (threads == 256) != (cols > 257)) continue;
          for (launch_options const& options : engine::schedules({.blocks = 2, .threads = threads}))
            for (std::size_t const out_shift : {shift, shift + 1}) {
              logit_rows<D> out(4, cols, 4, out_shift), rests(4, cols, 4, shift);
              auto const same = p.body(p.logits.view());
              engine::run(options, device::token_logps_adjoint<float, D>{.logits = same.logits,
                                                                         .targets = same.targets,
                                                                         .log_normalizers = same.log_normalizers,
                                                                         .slopes = same.slopes,
                                                                         .dlogits = out.view(),
                                                                         .mean_slopes = same.mean_slopes,
                                                                         .entropies = same.entropies,
                                                                         .entropy_slopes = same.entropy_slopes,
                                                                         .log_normalizer_slopes = same.log_normalizer_slopes,
                                                                         .rests = with_rests ? rests.data() : nullptr});
              for (std::size_t i = 0; i < 4; ++i)
                for (std::size_t v = 0; v < cols; ++v) {
                  double const to = expected[i * cols + v], size = std::isnan(to) ? 0.0 : std::abs(to);
                  double const stored = static_cast<double>(static_cast<float>(out.view()(i, v)));
                  double const left = with_rests ? static_cast<double>(static_cast<float>(rests.view()(i, v))) : 0.0;
                  double const allowed = 2e-6 + least + size * (with_rests ? places * places : places);
                  if (far_apart(stored + left, to) <= allowed && far_apart(stored, to) <= 2e-6 + least + places * size) continue;
                  INFO("row ", i, ", element ", v, ": ", stored, " + ", left, " for ", to);
                  CHECK(false);
                }
              CHECK(out.surroundings_untouched());
              CHECK(rests.surroundings_untouched());
            }
        }
      }
}

TEST_CASE("token_logps_adjoint: a gradient beyond f16 is infinite and leaves nothing; packs of both types") {
  problem<float> p(1, 2048, 0, 0);
  p.forward();
  p.slopes[0] = 1e6f;
  logit_rows<f16> out(1, 2048), rests(1, 2048);
  auto const r = engine::run({.blocks = 1, .threads = 128},
                             device::token_logps_adjoint<float, f16>{.logits = p.logits.view(),
                                                                     .targets = p.logits.targets.data(),
                                                                     .log_normalizers = p.log_normalizers.data(),
                                                                     .slopes = p.slopes.data(),
                                                                     .dlogits = out.view(),
                                                                     .rests = rests.data()});
  std::size_t const target = static_cast<std::size_t>(p.logits.targets[0]);
  CHECK(static_cast<float>(out.view()(0, target)) == std::numeric_limits<float>::infinity());
  CHECK(static_cast<float>(rests.view()(0, target)) == 0.0f);
  CHECK(r.loads.accesses[16] * 16 == 2048 * 4);
  CHECK(r.stores.accesses[16] * 16 == 2 * 2048 * 2);
  CHECK(r.stores.bytes == 2 * 2048 * 2);
}
