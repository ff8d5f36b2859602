// SPDX-License-Identifier: MIT
//
// The adapter's operations from end to end, against plain loops in double: memory is copied to the device, nvcc's object
// queues the work, results are copied back. Linked to the stand-in these run anywhere; linked to NVIDIA's runtime they run
// where there is a device, and say that they were skipped where there is none.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <attune/backend/reference.hpp>
#include <attune/core/random.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/pairwise/pair_loss.hpp>

#include "cases.hpp"
#include "device_array.hpp"
#include "kernels.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using kernels::operations;

namespace {

struct row_results {
  std::vector<double> logps, log_normalizers, mean_logps, entropies, collisions;

  explicit row_results(std::size_t n) : logps(n), log_normalizers(n), mean_logps(n), entropies(n), collisions(n) {}
  row_logps<double> view() { return {logps, log_normalizers, mean_logps, entropies, collisions}; }
};

}  // namespace

TEST_CASE("device: a launch's grid, block and every argument") {
  if (no_device()) return;
  device_stream const stream;
  device_array<float> const values({1.5f, -2.0f, 0.25f, 8.0f, 3.0f});
  constexpr unsigned blocks = 3;
  device_array<probe::entry> const seen(blocks * probe::width, probe::entry{});
  kernels::run_probe({seen.data(), 'm', 0.5, values.data(), 5}, blocks, stream);
  auto const entries = seen.values();
  for (unsigned i = 0; i < entries.size(); ++i) {
    probe::entry const& e = entries[i];
    CHECK(e.thread == i % probe::width);
    CHECK(e.threads == probe::width);
    CHECK(e.block == i / probe::width);
    CHECK(e.blocks == blocks);
    CHECK(e.mark == 'm');
    float const expected[] = {0.75f, -1.0f, 0.125f, 4.0f, 1.5f};
    CHECK(e.scaled == (i < 5 ? expected[i] : 0.0f));
  }
}

TEST_CASE_TEMPLATE("device: token_logps and its adjoint, over the logits themselves", S, float, bf16, f16) {
  if (no_device()) return;
  device_stream const stream;
  for (std::size_t const cols : {5u, 1003u, 4096u})
    for (std::size_t const shift : {0u, 1u}) {
      INFO("cols ", cols, ", shift ", shift, ", bytes ", sizeof(S));
      constexpr std::size_t n = 4;
      logit_rows<S> rows(n, cols, shift, 0, cols + shift);
      rows.targets[1] = no_target;
      std::vector<S> const host(rows.data(), rows.data() + n * rows.stride);
      device_array<S> const memory(host, shift);
      matrix_view<S> const logits{memory.data(), n, cols, rows.stride};
      device_array<token_id> const targets(rows.targets);
      device_array<float> const logps(n, 9.0f), normalizers(n, 9.0f), means(n, 9.0f), entropies(n, 9.0f), collisions(n, 9.0f);
      operations<S>::token_logps(logits, targets.view(),
                                 {logps.span(), normalizers.span(), means.span(), entropies.span(), collisions.span()}, stream);
      row_results expected(n);
      reference_backend<double>().token_logps(rows.wide_view(), rows.targets, expected.view());
      check_close("logp", logps.values(), expected.logps, 5e-7);
      check_close("log_normalizer", normalizers.values(), expected.log_normalizers, 5e-7);
      check_close("mean_logp", means.values(), expected.mean_logps, 5e-7);
      check_close("entropy", entropies.values(), expected.entropies, 5e-7);
      check_close("collision", collisions.values(), expected.collisions, 5e-7);

      std::vector<float> const slopes{-0.5f, 0.7f, 2.0f, -0.125f}, bent{0.25f, 0.0f, -0.5f, 0.0f}, level{0.0f, 0.5f, 0.5f, -1.0f};
      std::vector<float> const rise{-0.25f, 1.0f, 0.0f, 0.5f};
      device_array<float> const on_logps(slopes), on_entropies(bent), on_means(level), on_normalizers(rise);
      operations<S>::token_logps_adjoint(
          logits, targets.view(), normalizers.view(),
          {on_logps.view(), on_means.view(), entropies.view(), on_entropies.view(), on_normalizers.view()}, logits, stream);
      std::vector<double> const w_slopes(slopes.begin(), slopes.end()), w_bent(bent.begin(), bent.end()),
          w_level(level.begin(), level.end()), w_rise(rise.begin(), rise.end());
      std::vector<double> gradient(n * cols);
      reference_backend<double>().token_logps_adjoint(rows.wide_view(), rows.targets, expected.log_normalizers,
                                                      {w_slopes, w_level, expected.entropies, w_bent, w_rise},
                                                      as_matrix(gradient.data(), n, cols));
      std::vector<S> const seen = memory.values();
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t v = 0; v < rows.stride; ++v) {
          double const at = static_cast<double>(static_cast<float>(seen[i * rows.stride + v]));
          if (v >= cols)
            CHECK(at == static_cast<double>(logit_rows<S>::around));
          else
            CHECK(std::abs(at - gradient[i * cols + v]) <= 2e-6 + rounding<S> * std::abs(gradient[i * cols + v]));
        }
    }
}

TEST_CASE_TEMPLATE("device: a vocabulary in two shards gives what the whole gives, the adjoint too", S, float, bf16) {
  if (no_device()) return;
  device_stream const stream;
  constexpr std::size_t n = 3, cols = 1000, cut = 401;
  logit_rows<S> rows(n, cols, 0, 0, 8);
  rows.targets = {400, 401, no_target};
  device_array<S> const memory(std::vector<S>(rows.data(), rows.data() + n * cols)), gradient(n * cols, S(9.0f)),
      expected_gradient(n * cols, S(9.0f));
  matrix_view<S> const all{memory.data(), n, cols, cols};
  matrix_view<S> const left{memory.data(), n, cut, cols}, right{memory.data() + cut, n, cols - cut, cols};
  device_array<token_id> const targets(rows.targets);
  device_array<device::shard_summary> const parts(2 * n, device::shard_summary{});
  device_array<float> const logps(n, 9.0f), normalizers(n, 9.0f), entropies(n, 9.0f), slopes(std::vector<float>{-1.0f, 0.5f, 2.0f});
  operations<S>::summarize_shard(left, 0, targets.view(), {.products = true}, parts.span().first(n), stream);
  operations<S>::summarize_shard(right, cut, targets.view(), {.products = true}, parts.span().last(n), stream);
  operations<S>::combine_shards(parts.view(), 2, cols, targets.view(), {logps.span(), normalizers.span(), {}, entropies.span()},
                                stream);
  row_results expected(n);
  reference_backend<double>().token_logps(rows.wide_view(), rows.targets, expected.view());
  check_close("logp", logps.values(), expected.logps, 5e-7);
  check_close("log_normalizer", normalizers.values(), expected.log_normalizers, 5e-7);
  check_close("entropy", entropies.values(), expected.entropies, 5e-7);
  operations<S>::token_logps_adjoint(all, targets.view(), normalizers.view(), {slopes.view()},
                                     {expected_gradient.data(), n, cols, cols}, stream);
  operations<S>::shard_adjoint(left, 0, cols, targets.view(), normalizers.view(), {slopes.view()},
                               {gradient.data(), n, cut, cols}, stream);
  operations<S>::shard_adjoint(right, cut, cols, targets.view(), normalizers.view(), {slopes.view()},
                               {gradient.data() + cut, n, cols - cut, cols}, stream);
  CHECK(widened(gradient.values()) == widened(expected_gradient.values()));
}

TEST_CASE_TEMPLATE("device: tokens are drawn, one a row, or the largest taken", S, float, bf16, f16) {
  if (no_device()) return;
  device_stream const stream;
  constexpr std::size_t n = 4, cols = 300;
  logit_rows<S> rows(n, cols);
  for (std::size_t i = 0; i < n; ++i) rows.set(i, 7 * i + 3, 40.0f);  // beside which nothing else is ever drawn
  device_array<S> const memory(std::vector<S>(rows.data(), rows.data() + n * cols));
  matrix_view<S> const logits{memory.data(), n, cols, cols};
  device_array<std::uint64_t> const streams(std::vector<std::uint64_t>{0, 1, 2, 3});
  device_array<token_id> const out(n, 99), again(n, 99), next(n, 99);
  std::vector<token_id> const largest{3, 10, 17, 24};
  for (float const temperature : {0.0f, 1.0f}) {
    operations<S>::sample_tokens(logits, temperature, 5, streams.view(), 0, out.span(), stream);
    CHECK(out.values() == largest);
  }
  operations<S>::sample_tokens(logits, 1000.0f, 5, streams.view(), 0, out.span(), stream);  // all but uniform
  operations<S>::sample_tokens(logits, 1000.0f, 5, streams.view(), 0, again.span(), stream);
  operations<S>::sample_tokens(logits, 1000.0f, 5, streams.view(), 1, next.span(), stream);
  CHECK(out.values() == again.values());
  CHECK(out.values() != next.values());
  CHECK(out.values() != largest);
}

TEST_CASE("device: sums over segments, empty ones too, and their broadcast") {
  if (no_device()) return;
  device_stream const stream;
  std::vector<std::size_t> offsets{0};
  for (std::size_t b = 0; b < 21; ++b) offsets.push_back(offsets.back() + (b % 5 == 3 ? 0 : 7 * b + 1));
  std::size_t const total = offsets.back(), segments = offsets.size() - 1;
  std::vector<float> values(total);
  for (std::size_t t = 0; t < total; ++t) values[t] = static_cast<float>(std::sin(static_cast<double>(t)));
  device_array<float> const in(values), sums(segments, 9.0f), spread(total, 9.0f);
  device_array<std::size_t> const bounds(offsets);
  kernels::segment_sum(in.view(), bounds.view(), sums.span(), stream);
  kernels::segment_broadcast(sums.view(), bounds.view(), spread.span(), stream);
  std::vector<float> const seen = sums.values();
  for (std::size_t b = 0; b < segments; ++b) {
    double expected = 0.0;
    for (std::size_t t = offsets[b]; t < offsets[b + 1]; ++t) expected += static_cast<double>(values[t]);
    CHECK(std::abs(static_cast<double>(seen[b]) - expected) <= 1e-7 * (1.0 + std::abs(expected)));
  }
  std::vector<float> expected(total);
  reference_backend<float>().segment_broadcast(seen, offsets, expected);
  CHECK(spread.values() == expected);
}

TEST_CASE_TEMPLATE("device: the squared norm of none, of few and of many", S, float, bf16, f16) {
  if (no_device()) return;
  device_stream const stream;
  for (std::size_t const count : {0u, 5u, 4096u, 100003u})
    for (std::size_t const shift : {0u, 3u}) {
      std::vector<S> values(count, S(0.0f));
      double expected = 0.0;
      for (std::size_t i = 0; i < count; ++i) {
        values[i] = S(static_cast<float>(std::cos(static_cast<double>(i)) + 0.5));
        double const wide = static_cast<double>(static_cast<float>(values[i]));
        expected += wide * wide;
      }
      device_array<S> const memory(values, shift);
      device_array<double> const out(1, -1.0), workspace(operations<S>::squared_norm_workspace(count) + 1, 9.0);
      operations<S>::squared_norm(memory.view(), out.data(), workspace.span(), stream);
      CHECK(std::abs(out.values()[0] - expected) <= 1e-12 * (1.0 + expected));
      CHECK(workspace.values().back() == 9.0);
    }
}

TEST_CASE_TEMPLATE("device: adamw, with and without a copy of the weights, aligned or not", S, float, bf16, f16) {
  if (no_device()) return;
  device_stream const stream;
  adamw_update<double> const wide{0.9, 0.99, 1e-8, 1e-2, 1.25, 0.999, 0.5};
  adamw_update<float> const update{0.9f, 0.99f, 1e-8f, 1e-2f, 1.25f, 0.999f, 0.5f};
  for (std::size_t const count : {3u, 5000u})
    for (std::size_t const shift : {0u, 1u})
      for (bool const with_copy : {false, true}) {
        std::vector<float> value(count), first(count), second(count);
        std::vector<S> gradient(count, S(0.0f));
        for (std::size_t i = 0; i < count; ++i) {
          double const x = static_cast<double>(i);
          value[i] = static_cast<float>(std::sin(x));
          gradient[i] = S(static_cast<float>(std::cos(3.0 * x)));
          first[i] = static_cast<float>(0.1 * std::cos(x));
          second[i] = static_cast<float>(0.01 + 0.005 * std::sin(2.0 * x));
        }
        device_array<float> const v(value, shift), m(first), s(second);
        device_array<S> const g(gradient), copy(count, S(9.0f));
        operations<S>::adamw(update, v.span(), g.view(), m.span(), s.span(), with_copy ? copy.span() : std::span<S>{}, stream);
        auto const new_v = v.values(), new_m = m.values(), new_s = s.values();
        std::vector<S> const copied = copy.values();
        bool close = true, copies = true;
        for (std::size_t i = 0; i < count; ++i) {
          double ev = static_cast<double>(value[i]), em = static_cast<double>(first[i]), es = static_cast<double>(second[i]);
          wide(ev, static_cast<double>(static_cast<float>(gradient[i])), em, es);
          close &= std::abs(static_cast<double>(new_v[i]) - ev) <= 2e-7 * (1.0 + std::abs(ev)) &&
                   std::abs(static_cast<double>(new_m[i]) - em) <= 1e-7 && std::abs(static_cast<double>(new_s[i]) - es) <= 1e-7;
          copies &= static_cast<float>(copied[i]) == (with_copy ? static_cast<float>(S(new_v[i])) : 9.0f);
        }
        CHECK(close);
        CHECK(copies);
      }
}

TEST_CASE("device: losses of pairs have the host's slopes, over the log-probabilities themselves, and its loss") {
  if (no_device()) return;
  device_stream const stream;
  constexpr std::size_t pairs = 700;
  std::vector<float> of[4];
  std::vector<double> weights;
  random_stream random(2);
  for (auto& some : of)
    for (std::size_t i = 0; i < pairs; ++i) some.push_back(static_cast<float>(-50.0 + 10.0 * random.normal()));
  for (std::size_t i = 0; i < pairs; ++i) weights.push_back(random.uniform());
  std::vector<float> c(pairs), r(pairs);
  dpo_options const options{.beta = 0.2, .label_smoothing = 0.1};
  float const expected = pair_loss<float>({.chosen = of[0], .rejected = of[1], .ref_chosen = of[2], .ref_rejected = of[3],
                                           .weights = weights},
                                          {.chosen = c, .rejected = r}, options, {.pairs = 1000});
  device_array<float> const chosen(of[0]), rejected(of[1]), ref_chosen(of[2]), ref_rejected(of[3]);
  device_array<double> const on_weights(weights), loss(1, -1.0), workspace(3, 9.0);
  kernels::dpo_loss({.chosen = chosen.view(), .rejected = rejected.view(), .ref_chosen = ref_chosen.view(),
                     .ref_rejected = ref_rejected.view(), .weights = on_weights.view()},
                    {.chosen = chosen.span(), .rejected = rejected.span()}, options, 1000, loss.data(), workspace.span(), stream);
  check_close("loss", {static_cast<float>(loss.values()[0])}, {static_cast<double>(expected)}, 2e-7);
  check_close("chosen", chosen.values(), {c.begin(), c.end()}, 1e-9);
  check_close("rejected", rejected.values(), {r.begin(), r.end()}, 1e-9);

  float const of_scores = bradley_terry_loss<float>({.chosen = of[0], .rejected = of[1], .margin = weights},
                                                    {.chosen = c, .rejected = r}, {.center_rewards_coefficient = 0.01});
  device_array<float> const high(of[0]), low(of[1]), on_high(pairs, 9.0f), on_low(pairs, 9.0f);
  kernels::bradley_terry_loss({.chosen = high.view(), .rejected = low.view(), .margin = on_weights.view()},
                              {.chosen = on_high.span(), .rejected = on_low.span()}, {.center_rewards_coefficient = 0.01}, 0,
                              loss.data(), workspace.span(), stream);
  check_close("loss", {static_cast<float>(loss.values()[0])}, {static_cast<double>(of_scores)}, 2e-7);
  check_close("chosen", on_high.values(), {c.begin(), c.end()}, 1e-9);
  check_close("rejected", on_low.values(), {r.begin(), r.end()}, 1e-9);
}

TEST_CASE("device: PPO's tokens: whitened advantages from rewards and values, their loss, its slopes and statistics") {
  if (no_device()) return;
  device_stream const stream;
  std::vector<std::size_t> const offsets{0, 5, 41, 300};
  std::size_t const n = offsets.back();
  std::vector<float> rewards(n), values(n), logps(n), old_logps(n), ref_logps(n);
  std::vector<std::uint8_t> mask(n);
  std::vector<token_id> const ids(n, 1);
  random_stream random(3);
  for (std::size_t t = 0; t < n; ++t) {
    mask[t] = t != 0 && t != 5 && t != 41 && t % 7 != 0;
    for (auto* const one : {&rewards, &values}) (*one)[t] = static_cast<float>(random.normal());
    logps[t] = static_cast<float>(-3.0 + random.normal());
    old_logps[t] = logps[t] + static_cast<float>(0.3 * random.normal());
    ref_logps[t] = logps[t] + static_cast<float>(0.3 * random.normal());
  }
  sequences_view const batch{.tokens = ids, .offsets = offsets, .mask = mask};
  gae_options const discount{.gamma = 0.99, .lam = 0.9};
  std::vector<float> advantages(n), returns(n), whitened(n), slopes(n);
  gae<float>({rewards, values}, batch, {advantages, returns}, discount);
  device_array<float> const on_rewards(rewards), on_values(values), on_advantages(n, 9.0f), on_returns(n, 9.0f);
  device_array<std::uint8_t> const on_mask(mask);
  device_array<std::size_t> const on_offsets(offsets);
  kernels::gae({on_rewards.view(), on_values.view()}, on_mask.view(), on_offsets.view(), {on_advantages.span(), on_returns.span()},
               discount, stream);
  check_close("advantage", on_advantages.values(), {advantages.begin(), advantages.end()}, 1e-6);
  check_close("return", on_returns.values(), {returns.begin(), returns.end()}, 1e-6);
  whiten<float>(advantages, mask, whitened);
  kernels::whiten(on_advantages.view(), on_mask.view(), on_advantages.span(), {}, stream);
  check_close("whitened", on_advantages.values(), {whitened.begin(), whitened.end()}, 1e-6);

  aggregation_totals const totals = aggregation_totals_of(batch);
  kl_loss_options const kl{.kl_loss_coef = 0.05};
  policy_gradient_statistics statistics;
  std::vector<double> w[5];
  std::size_t at = 0;
  for (auto const* from : {&logps, &old_logps, &whitened, &ref_logps}) w[at++].assign(from->begin(), from->end());
  w[4].resize(n);
  double const loss = policy_gradient_loss<double>({w[0], w[1], w[2], w[3]}, batch, w[4], totals, loss_aggregation::token_mean,
                                                   ppo_options{}, &statistics, kl);
  device_array<float> const on_logps(logps), on_old(old_logps), on_ref(ref_logps), on_white(whitened);
  device_array<double> const sums(8, -1.0), workspace(16, 9.0);
  kernels::ppo_loss({on_logps.view(), on_old.view(), on_white.view(), on_ref.view()}, on_mask.view(), on_logps.span(),
                    token_weight(loss_aggregation::token_mean, totals, 1), {}, {}, sums.data(), workspace.span(), stream, kl);
  std::vector<double> const s = sums.values();
  double const tokens = static_cast<double>(completion_tokens(mask));
  CHECK(s[0] == doctest::Approx(loss).epsilon(1e-9));
  CHECK(s[1] / tokens == doctest::Approx(statistics.approxkl.mean()).epsilon(1e-9));
  CHECK(s[2] / tokens == doctest::Approx(statistics.clipfrac.mean()).epsilon(1e-9));
  CHECK(s[4] / tokens == doctest::Approx(statistics.ratio.mean()).epsilon(1e-9));
  CHECK(s[6] / tokens == doctest::Approx(statistics.kl.mean()).epsilon(1e-9));
  CHECK(s[7] == tokens);
  check_close("slope", on_logps.values(), w[4], 1e-9);
}
