// SPDX-License-Identifier: MIT
//
// cuda/loss_on_logits.cuh from end to end, against objective/loss_on_logits.hpp in double: every family of objectives, every
// storage; and a step of DPO whose reference lies on the device too.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <attune/backend/reference.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/sequence_sums.hpp>

#include "cases.hpp"
#include "device_array.hpp"
#include "kernels.hpp"
#include "support/cuda_evidence.hpp"
#include "support/logit_rows.hpp"
#include "support/token_numbers.hpp"

using namespace attune;
using kernels::losses;

namespace {

constexpr std::size_t vocabulary = 131;

/// A batch, a number per token of each kind, and both once more on the device.
template <class S>
struct setting {
  test::token_batch batch{vocabulary};
  sequences_view host = batch.view();
  std::size_t tokens = host.total_tokens();
  logit_rows<S> logits{tokens, vocabulary, 0, 0, 5, 3.0};
  std::vector<double> logps, ref_sums;
  test::token_numbers old_logps{host, 0.0, 1.0, 1}, advantages{host, 0.0, 1.0, 2}, ref_logps{host, 0.0, 1.0, 3};

  device_array<token_id> on_tokens{batch.tokens};
  device_array<std::size_t> on_offsets{batch.offsets};
  device_array<std::uint8_t> on_mask{batch.mask};
  sequences_view on_device{.tokens = on_tokens.view(), .offsets = on_offsets.view(), .mask = on_mask.view()};
  device_stream stream;

  /// ratio: deviation of the old policy's log-probabilities from the policy's.
  explicit setting(double ratio) : logps(tokens), ref_sums(host.size()) {
    reference_backend<double> backend;
    loss_workspace<double> workspace;
    logps_on_logits(backend, logits.wide_view(), host, std::span<double>(logps), workspace);
    sequence_sums<double>(logps, host, ref_sums);
    for (std::size_t b = 0; b < ref_sums.size(); ++b) ref_sums[b] += std::sin(3.0 * static_cast<double>(b));
    for (auto [numbers, deviation] : {std::pair{&old_logps, ratio}, std::pair{&ref_logps, 0.5}})
      for (std::size_t t = 0; t < tokens; ++t) {
        numbers->narrow[t] = static_cast<float>(logps[t] + deviation * numbers->wide[t]);
        numbers->wide[t] = static_cast<double>(numbers->narrow[t]);
      }
  }

  /// The device's loss and gradient, in place, against the host's.
  template <class Objective>
  void check(std::string const& name, Objective&& objective, kernels::question const& ask) {
    INFO(name, ", bytes ", sizeof(S));
    reference_backend<double> backend;
    loss_workspace<double> of_host;
    std::vector<double> gradient(tokens * vocabulary);
    double const expected = loss_on_logits(backend, objective, logits.wide_view(), host,
                                           as_matrix(gradient.data(), tokens, vocabulary), of_host);
    device_array<S> const memory(std::vector<S>(logits.data(), logits.data() + tokens * vocabulary));
    device_array<double> const loss(1, -1.0);
    device_array<std::byte> const workspace(losses<S>::on_logits_bytes(ask, tokens, host.size()), std::byte{0xff});
    matrix_view<S> const m{memory.data(), tokens, vocabulary, vocabulary};
    losses<S>::on_logits(ask, m, on_device, m, loss.data(), workspace.span(), stream);
    double const loss_error = std::abs(loss.values()[0] - expected) / (1.0 + std::abs(expected));
    CHECK(loss_error <= 1e-6);
    std::vector<S> const seen = memory.values();
    double const least = std::is_same_v<S, f16> ? 0x1p-25 : 0.0;  // half of the smallest number that f16 has
    double largest = 0.0, worst = 0.0;
    for (double const g : gradient) largest = std::max(largest, std::abs(g));
    for (std::size_t i = 0; i < seen.size(); ++i) {
      double const off = std::abs(static_cast<double>(static_cast<float>(seen[i])) - gradient[i]);
      worst = std::max(worst, (off - std::max(least, rounding<S> * std::abs(gradient[i]))) / largest);
    }
    CHECK(worst <= 2e-6);
    CHECK(largest > 0.0);
    say_cuda_evidence("{\"objective\": \"" + name + "\", \"storage_bytes\": " + std::to_string(sizeof(S)) +
                      ", \"loss_error\": " + std::to_string(loss_error) + ", \"gradient_error\": " + std::to_string(worst) + "}");
  }
};

}  // namespace

TEST_CASE_TEMPLATE("device: loss_on_logits: SFT with all that it reads", S, float, bf16, f16) {
  if (no_device()) return;
  setting<S> with(0.1);
  sft_totals const totals{.tokens = 300, .sequences = 8};
  for (sft_options const& options :
       {sft_options{}, sft_options{.label_smoothing = 0.1, .z_loss_coef = 1e-2}, sft_options{.loss_type = sft_loss_type::dft},
        sft_options{.normalization = sft_normalization::sequence}})
    with.check("sft", sft_on_tokens{options, totals}, kernels::sft_question{options, totals});
}

TEST_CASE_TEMPLATE("device: loss_on_logits: pairs, with a reference and without", S, float, bf16, f16) {
  if (no_device()) return;
  setting<S> with(0.1);
  device_array<double> const reference(with.ref_sums);
  dpo_options const dpo{.beta = 0.2, .label_smoothing = 0.05};
  with.check("dpo", dpo_on_tokens(with.ref_sums, dpo), kernels::pairs_question<dpo_options>{reference.view(), dpo});
  pair_ratios const bent{.divergence = {.type = f_divergence_type::js_divergence}};
  with.check("dpo, Jensen-Shannon", dpo_on_tokens(with.ref_sums, {}, {.pairs = 7}, bent),
             kernels::pairs_question<dpo_options>{reference.view(), {}, {.pairs = 7}, bent});
  with.check("simpo", pairs_on_tokens<simpo_options>({}), kernels::pairs_question<simpo_options>{});
}

TEST_CASE_TEMPLATE("device: loss_on_logits: PPO and GSPO, with a KL and every aggregation", S, float, bf16, f16) {
  if (no_device()) return;
  {
    setting<S> with(0.3);
    device_array<float> const old(with.old_logps.narrow), advantages(with.advantages.narrow), ref(with.ref_logps.narrow);
    for (loss_aggregation const aggregation : {loss_aggregation::token_mean, loss_aggregation::sequence_mean}) {
      aggregation_totals const totals{.tokens = 300, .sequences = 8};
      kl_loss_options const kl{.kl_loss_coef = 0.1};
      policy_gradient_on_tokens<double, ppo_options> const objective{
          .old_logps = with.old_logps.wide, .advantages = with.advantages.wide, .ref_logps = with.ref_logps.wide, .totals = totals,
          .aggregation = aggregation, .kl_loss = kl};
      device_array<double> const sums(8, -1.0);
      with.check("ppo", objective,
                 kernels::policy_question<ppo_options>{.old_logps = old.view(), .advantages = advantages.view(),
                                                       .ref_logps = ref.view(), .totals = totals, .aggregation = aggregation,
                                                       .statistics = sums.data(), .kl_loss = kl});
      CHECK(sums.values()[7] == static_cast<double>(completion_tokens(with.batch.mask)));
    }
  }
  setting<S> with(2e-3);
  device_array<float> const old(with.old_logps.narrow), advantages(with.advantages.narrow);
  gspo_options const wide{.cliprange = 0.2, .cliprange_high = 0.2};  // which rounding does not take a ratio across
  policy_gradient_on_tokens<double, gspo_options> const objective{
      .old_logps = with.old_logps.wide, .advantages = with.advantages.wide, .options = wide};
  with.check("gspo", objective,
             kernels::policy_question<gspo_options>{.old_logps = old.view(), .advantages = advantages.view(), .options = wide});
}

TEST_CASE_TEMPLATE("device: loss_on_hidden: what the host makes of hidden states and a head, in chunks", S, float, bf16, f16) {
  if (no_device()) return;
  setting<S> with(0.3);
  constexpr std::size_t width = 7, chunk = 50;
  std::size_t const n = with.tokens;
  logit_rows<S> hidden(n, width, 0, 0, 8, 1.0), head(vocabulary, width, 0, 0, 9, 1.0);
  auto const memory_of = [](logit_rows<S>& of) { return std::vector<S>(of.data(), of.data() + of.rows * of.cols); };
  device_array<S> const on_hidden(memory_of(hidden)), on_head(memory_of(head)), dhidden(n * width, S(9.0f));
  reference_backend<double> backend;
  loss_workspace<double> of_host;
  logps_on_hidden(backend, hidden.wide_view(), head.wide_view(), with.host, std::span<double>(with.logps), of_host);
  for (std::size_t t = 0; t < n; ++t) {
    with.old_logps.narrow[t] = static_cast<float>(with.logps[t] + 0.3 * std::sin(static_cast<double>(t)));
    with.old_logps.wide[t] = static_cast<double>(with.old_logps.narrow[t]);
  }
  device_array<float> const dhead(vocabulary * width, 0.5f), old(with.old_logps.narrow), advantages(with.advantages.narrow);
  device_array<double> const reference(with.ref_sums), loss(1, -1.0);
  cublasLtHandle_t cublas = nullptr;
  REQUIRE(cublasLtCreate(&cublas) == CUBLAS_STATUS_SUCCESS);
  std::vector<double> dh(n * width), dw(vocabulary * width), added(vocabulary * width, 0.5);
  auto const check = [&](char const* name, auto objective, kernels::question const& ask) {
    INFO(std::string(name), ", bytes ", sizeof(S));
    std::fill(dw.begin(), dw.end(), 0.0);
    double const expected = loss_on_hidden(backend, objective, hidden.wide_view(), head.wide_view(), with.host,
                                           as_matrix(dh.data(), n, width), as_matrix(dw.data(), vocabulary, width), of_host);
    device_array<std::byte> const workspace(losses<S>::on_hidden_bytes(chunk, ask, n, 8, vocabulary, width), std::byte{0xff});
    losses<S>::on_hidden(chunk, ask, {on_hidden.data(), n, width, width}, {on_head.data(), vocabulary, width, width}, with.on_device,
                         {dhidden.data(), n, width, width}, {dhead.data(), vocabulary, width, width}, loss.data(), workspace.span(),
                         cublas, with.stream);
    CHECK(std::abs(loss.values()[0] - expected) <= 1e-6 * (1.0 + std::abs(expected)));
    for (std::size_t i = 0; i < dw.size(); ++i) added[i] += dw[i];
    check_close("dhidden", widened(dhidden.values()), dh, 1e-6 + rounding<S>);
    check_close("dhead", dhead.values(), added, sizeof(S) == 4 ? 2e-6 : 2e-5);
  };
  check("sft", sft_on_tokens{{.label_smoothing = 0.1}, {.tokens = 300, .sequences = 8}},
        kernels::sft_question{{.label_smoothing = 0.1}, {.tokens = 300, .sequences = 8}});
  check("dpo", dpo_on_tokens(with.ref_sums, {.beta = 0.1}), kernels::pairs_question<dpo_options>{reference.view(), {.beta = 0.1}});
  aggregation_totals const totals{.tokens = 300};
  check("ppo", policy_gradient_on_tokens<double, ppo_options>{.old_logps = with.old_logps.wide, .advantages = with.advantages.wide,
                                                              .totals = totals},
        kernels::policy_question<ppo_options>{.old_logps = old.view(), .advantages = advantages.view(), .totals = totals});
  CHECK(cublasLtDestroy(cublas) == CUBLAS_STATUS_SUCCESS);
}

TEST_CASE_TEMPLATE("device: logps_on_logits and their sums: a reference that never leaves the device", S, float, bf16, f16) {
  if (no_device()) return;
  setting<S> with(0.1);
  device_array<S> const memory(std::vector<S>(with.logits.data(), with.logits.data() + with.tokens * vocabulary));
  device_array<float> const logps(with.tokens, 9.0f);
  device_array<double> const sums(8, 9.0);
  device_array<std::byte> const workspace(losses<S>::logps_bytes(with.tokens), std::byte{0xff});
  losses<S>::logps({memory.data(), with.tokens, vocabulary, vocabulary}, with.on_device, logps.span(), workspace.span(), with.stream);
  kernels::sequence_sums(logps.view(), with.on_device, sums.span(), with.stream);
  check_close("logp", logps.values(), with.logps, 5e-7);
  std::vector<double> expected(8);
  sequence_sums<double>(with.logps, with.host, expected);
  for (std::size_t b = 0; b < 8; ++b) CHECK(sums.values()[b] == doctest::Approx(expected[b]).epsilon(1e-6));
}
