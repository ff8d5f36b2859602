// SPDX-License-Identifier: MIT
#include <attune/device/token_kl_adjoint.hpp>

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

/// Two rows, what the forward pass says of them, a gradient to add to, and the sum in double.
template <class S>
struct problem {
  logit_rows<S> policy, reference, before;
  std::vector<float> kl, log_normalizers, ref_log_normalizers, slopes;

  problem(std::size_t n, std::size_t v, std::size_t between, std::size_t shift, std::size_t ref_shift, std::size_t out_shift)
      : policy(n, v, between, shift, 3), reference(n, v, 0, ref_shift, 4), before(n, v, 0, out_shift, 5), kl(n),
        log_normalizers(n), ref_log_normalizers(n) {
    random_stream random(6);
    for (std::size_t i = 0; i < n; ++i) slopes.push_back(static_cast<float>(random.normal()));
  }

  void forward(kl_direction direction) {
    std::vector<double> d(policy.rows), z(d), w(d);
    reference_backend<double>().token_kl(policy.wide_view(), reference.wide_view(), policy.targets, direction, {d, z, w});
    kl.assign(d.begin(), d.end());
    log_normalizers.assign(z.begin(), z.end());
    ref_log_normalizers.assign(w.begin(), w.end());
  }

  device::token_kl_adjoint<S> body(kl_direction direction, matrix_view<S> out) {
    return {.logits = policy.view(), .ref_logits = reference.view(), .targets = policy.targets.data(), .direction = direction,
            .kl = kl.data(), .log_normalizers = log_normalizers.data(), .ref_log_normalizers = ref_log_normalizers.data(),
            .slopes = slopes.data(), .dlogits = out};
  }

  std::vector<double> truth(kl_direction direction) const {
    auto const wide = [](std::vector<float> const& x) { return std::vector<double>(x.begin(), x.end()); };
    auto const d = wide(kl), z = wide(log_normalizers), w = wide(ref_log_normalizers), s = wide(slopes);
    std::vector<double> out = before.wide;
    reference_backend<double>().token_kl_adjoint(policy.wide_view(), reference.wide_view(), policy.targets, direction,
                                                 {d, z, w}, s, as_matrix(out.data(), policy.rows, policy.cols));
    return out;
  }

  void check(launch_options const& options) {
    double const unit = sizeof(S) == 4 ? 0x1p-24 : static_cast<float>(S(1.0f + 0x1p-9f)) == 1.0f ? 0x1p-8 : 0x1p-11;
    for (kl_direction const direction : both) {
      forward(direction);
      std::vector<double> const expected = truth(direction);
      logit_rows<S> out = before;
      engine::run(options, body(direction, out.view()));
      for (std::size_t i = 0; i < policy.rows; ++i)
        for (std::size_t v = 0; v < policy.cols; ++v) {
          double const to = expected[i * policy.cols + v], was = static_cast<double>(static_cast<float>(out.view()(i, v)));
          if (far_apart(was, to) <= unit * (std::isfinite(to) ? std::abs(to) : 0.0) + 5e-6) continue;
          INFO("row ", i, ", element ", v, " of ", policy.cols, ": ", was, " for ", to);
          CHECK(false);
        }
      CHECK(out.surroundings_untouched());
    }
  }
};

}  // namespace

TEST_CASE_TEMPLATE("token_kl_adjoint: any width, stride, alignment, block and schedule, both directions", S, float, bf16, f16) {
  for (std::size_t const cols : {1u, 3u, 9u, 257u, 1003u})
    for (std::size_t const shift : {0u, 1u, 5u})
      for (std::size_t const moved : {0u, 1u, 2u}) {  // neither, the reference, the gradient
        INFO("cols ", cols, ", shift ", shift, ", moved ", moved);
        problem<S> p(4, cols, shift == 5 ? 16 / sizeof(S) : 0, shift, shift + (moved == 1), shift + (moved == 2));
        p.policy.targets[1] = no_target;
        for (unsigned const threads : {32u, 256u}) {
          if (engine::finds_races() && (threads == 256) != (cols > 257)) continue;
          for (launch_options const& options : engine::schedules({.blocks = 2, .threads = threads})) p.check(options);
        }
      }
}

TEST_CASE("token_kl_adjoint: masked entries get nothing, rows without a number NaN, rows without a target are left alone") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr std::size_t v = 70;
  enum : std::size_t { masked, none, off_policy, off_reference, steep, rows };
  problem<float> p(rows, v, 0, 0, 0, 0);
  for (std::size_t c = 0; c < v; ++c) {
    if (c % 2 == 0) p.policy.set(masked, c, -inf), p.reference.set(masked, c, -inf);
    p.policy.set(none, c, nan);
  }
  p.policy.targets[none] = no_target;
  p.policy.set(off_policy, 40, -inf);
  p.reference.set(off_reference, 69, -inf);
  p.slopes[steep] = inf;
  for (launch_options const& options : engine::schedules({.blocks = 2, .threads = 64})) p.check(options);
  for (kl_direction const direction : both) {
    bool const reverse = direction == kl_direction::reverse;
    p.forward(direction);
    logit_rows<float> out = p.before;
    engine::run({.blocks = 2, .threads = 64}, p.body(direction, out.view()));
    for (std::size_t c = 0; c < v; ++c) {
      if (c % 2 == 0) CHECK(out.view()(masked, c) == p.before.view()(masked, c));
      CHECK(out.view()(none, c) == p.before.view()(none, c));
      CHECK(std::isnan(out.view()(off_policy, c)) == !reverse);
      CHECK(std::isnan(out.view()(off_reference, c)) == reverse);
      CHECK(std::isnan(out.view()(steep, c)));
    }
  }
}

TEST_CASE("token_kl_adjoint: one reading of three rows and one writing, in packs; no barrier") {
  problem<bf16> p(3, 2048, 0, 0, 0, 0);
  p.forward(kl_direction::reverse);
  logit_rows<bf16> out = p.before;
  auto const r = engine::run({.blocks = 3, .threads = 128}, p.body(kl_direction::reverse, out.view()));
  CHECK(r.loads.accesses[16] * 16 == 3 * 3 * 2048 * 2);
  CHECK(r.loads.accesses[2] == 0);
  CHECK(r.loads.bytes == 3 * (3 * 2048 * 2 + 128 * (sizeof(token_id) + 4 * sizeof(float))));
  CHECK(r.stores.bytes == 3 * 2048 * 2);
  CHECK(r.stores.accesses[16] * 16 == r.stores.bytes);
  CHECK(r.barriers.empty());
}
