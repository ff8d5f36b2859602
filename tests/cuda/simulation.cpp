// SPDX-License-Identifier: MIT
//
// The cases over the stand-in: what a launch would run on a device, the engine runs, found by the kernel's name. And what
// only the stand-in can see: which launches an operation makes, that it waits for nothing and allocates nothing, and what
// the bodies moved.
#include <cstdlib>
#include <cxxabi.h>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <typeinfo>
#include <vector>

#include <doctest/doctest.h>

#include <attune/core/contract.hpp>
#include <attune/core/storage.hpp>
#include <attune/device/adamw.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/gae.hpp>
#include <attune/device/kept_rows.hpp>
#include <attune/device/next_targets.hpp>
#include <attune/device/pair_losses.hpp>
#include <attune/device/pair_token_losses.hpp>
#include <attune/device/sample_tokens.hpp>
#include <attune/device/segments.hpp>
#include <attune/device/sequence_losses.hpp>
#include <attune/device/sequence_sums.hpp>
#include <attune/device/sft_losses.hpp>
#include <attune/device/squared_norm.hpp>
#include <attune/device/token_kl.hpp>
#include <attune/device/token_kl_adjoint.hpp>
#include <attune/device/token_logps.hpp>
#include <attune/device/token_logps_adjoint.hpp>
#include <attune/device/token_losses.hpp>
#include <attune/device/token_weights.hpp>
#include <attune/device/vocabulary_shards.hpp>
#include <attune/device/whiten.hpp>

#include "device_array.hpp"
#include "executed_on.hpp"
#include "kernels.hpp"
#include "probe.hpp"
#include "stand_in.hpp"
#include "support/cuda_evidence.hpp"
#include "support/engine_checks.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using kernels::operations;

char const* const executed_on = "simulation";

namespace {

std::vector<engine::report> reports;

template <class Body>
void simulate(unsigned threads) {
  std::unique_ptr<char, void (*)(void*)> const name(abi::__cxa_demangle(typeid(Body).name(), nullptr, nullptr, nullptr),
                                                    std::free);
  stand_in::simulate(name.get(), threads, [](unsigned blocks, unsigned width, void const* argument) {
    reports.push_back(engine::run({.blocks = blocks, .threads = width, .order = engine::schedule::shuffled, .seed = 3},
                                  *static_cast<Body const*>(argument)));
  });
}

template <class S>
void simulate_storage() {
  simulate<device::token_logps<S>>(256);
  simulate<device::token_logps_adjoint<S>>(256);
  simulate<device::token_logps_adjoint<float, S>>(256);
  simulate<device::kept_rows<S>>(256);
  simulate<device::token_kl<S>>(256);
  simulate<device::token_kl_adjoint<S>>(256);
  simulate<device::summarize_shard<S>>(256);
  simulate<device::sample_tokens<S>>(256);
  simulate<device::squared_norm<S>>(256);
  simulate<device::adamw<S>>(256);
}

[[maybe_unused]] bool const simulated = [] {
  simulate<probe>(probe::width);
  simulate<device::segment_sum>(256);
  simulate<device::segment_broadcast>(256);
  simulate<device::sum_partials>(256);
  simulate<device::combine_shards>(256);
  simulate<device::pair_losses<dpo_options>>(256);
  simulate<device::bradley_terry_losses>(256);
  simulate<device::token_losses<ppo_options>>(256);
  simulate<device::gae>(256);
  simulate<device::next_targets>(256);
  simulate<device::token_weights>(256);
  simulate<device::sequence_sums>(256);
  simulate<device::sft_losses>(256);
  simulate<device::pair_token_losses<dpo_options>>(256);
  simulate<device::pair_token_losses<simpo_options>>(256);
  simulate<device::sequence_losses<gspo_options>>(256);
  simulate<device::whiten>(1024);
  simulate_storage<float>();
  simulate_storage<bf16>();
  simulate_storage<f16>();
  return true;
}();

/// What is there once for each row, every thread of its block asks for, which on a device is one access a warp: it is told
/// apart from the matrices, whose bytes are to be the fewest that can be.
void say_traffic(std::string const& kernel, std::string const& shape, engine::report const& r, std::size_t least) {
  std::size_t const matrices = 16 * (r.loads.accesses[16] + r.stores.accesses[16]);
  say_cuda_evidence("{\"kernel\": \"" + kernel + "\", \"shape\": \"" + shape + "\", \"bytes\": " + std::to_string(matrices) +
                    ", \"least_bytes\": " + std::to_string(least) + ", \"times_least\": " +
                    std::to_string(static_cast<double>(matrices) / static_cast<double>(least)) +
                    ", \"bytes_of_row_numbers\": " + std::to_string(r.loads.bytes + r.stores.bytes - matrices) + "}");
}

}  // namespace

TEST_CASE("stand-in: what an operation launches, on the stream it was given; it waits for nothing and allocates nothing") {
  device_stream const one, other;
  logit_rows<bf16> rows(5, 64);
  device_array<bf16> const memory(std::vector<bf16>(rows.data(), rows.data() + 5 * 64));
  matrix_view<bf16> const logits{memory.data(), 5, 64, 64};
  device_array<token_id> const targets(rows.targets);
  device_array<float> const logps(5, 0.0f), normalizers(5, 0.0f), slopes(5, 1.0f);
  stand_in::forget();
  operations<bf16>::token_logps(logits, targets.view(), {logps.span(), normalizers.span()}, other);
  operations<bf16>::token_logps_adjoint(logits, targets.view(), normalizers.view(), {slopes.view()}, logits, one);
  CHECK(stand_in::waits() == 0);
  CHECK(stand_in::allocations() == 0);
  REQUIRE(stand_in::launches().size() == 2);
  auto const& first = stand_in::launches()[0];
  CHECK(first.kernel.starts_with("void attune::cuda::kernel<attune::device::token_logps<attune::bf16>, 256u>("));
  CHECK(first.blocks == 5);
  CHECK(first.threads == 256);
  CHECK(first.shared_bytes == 0);
  CHECK(first.stream == static_cast<cudaStream_t>(other));
  auto const& second = stand_in::launches()[1];
  CHECK(second.kernel.starts_with("void attune::cuda::kernel<attune::device::token_logps_adjoint<attune::bf16, attune::bf16>, 256u>("));
  CHECK(second.stream == static_cast<cudaStream_t>(one));
}

TEST_CASE_TEMPLATE("stand-in: the linear head is products and kernels a chunk, on the stream it was given", S, float, bf16) {
  device_stream const stream;
  kernels::products by;
  REQUIRE(cublasLtCreate(&by.handle) == CUBLAS_STATUS_SUCCESS);
  device_array<S> const hidden(5 * 4, S(0.5f)), head(8 * 4, S(0.25f)), dhidden(5 * 4, S(0.0f));
  device_array<float> const row(5, 0.0f), other(5, 0.0f), dhead(8 * 4, 0.0f);
  device_array<token_id> const targets(5, 3);
  matrix_view<S> const h{hidden.data(), 5, 4, 4}, w{head.data(), 8, 4, 4};
  for (auto const gradients : {cuda::logit_gradients::split, cuda::logit_gradients::rounded}) {
    bool const halves = sizeof(S) == 2 && gradients == cuda::logit_gradients::split;
    kernels::chunks const of{2, gradients};
    std::size_t const bytes = operations<S>::workspace_bytes(of, 5, 8, 4);
    CHECK(bytes == 2u * (8 * 4 + (sizeof(S) == 4 ? 0 : halves ? 32 : 16) + 16));
    device_array<std::byte> const workspace(bytes, std::byte{255});
    stand_in::forget();
    operations<S>::linear_token_logps(of, h, w, targets.view(), {row.span(), other.span()}, workspace.span(), by, stream);
    operations<S>::linear_token_logps_adjoint(of, h, w, targets.view(), other.view(), {row.view()}, {dhidden.data(), 5, 4, 4},
                                              {dhead.data(), 8, 4, 4}, workspace.span(), by, stream);
    CHECK(stand_in::launches().size() == 3u * 2 + 3 * (halves ? 7 : 5));
    CHECK(stand_in::waits() == 0);
    CHECK(stand_in::allocations() == 0);
    for (auto const& l : stand_in::launches()) CHECK(l.stream == static_cast<cudaStream_t>(stream));
    CHECK_THROWS_WITH_AS(operations<S>::linear_token_logps(of, h, w, targets.view(), {row.span(), other.span()},
                                                           workspace.span(), {}, stream),
                         "cublasLtMatmulAlgoGetHeuristic: CUBLAS_STATUS_OF_THE_STAND_IN (1): said by the stand-in cuBLASLt",
                         std::runtime_error);
  }
}

TEST_CASE("stand-in: no rows are no launch; a refused launch throws and leaves no error behind") {
  device_stream const stream;
  stand_in::forget();
  operations<float>::token_logps({}, {}, {}, stream);
  kernels::run_probe({}, 0, stream);
  CHECK(stand_in::launches().empty());
  stand_in::refuse_next_launch(cudaErrorInvalidConfiguration);
  CHECK_THROWS_WITH_AS(kernels::run_probe({}, 1, stream),
                       "probe: cudaErrorInvalidConfiguration (9): said by the stand-in runtime", std::runtime_error);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK_THROWS_AS(kernels::run_probe({}, std::size_t{1} << 31, stream), contract_violation);
}

TEST_CASE("stand-in: a loss from logits to their gradient is a few launches on one stream, without a wait or an allocation") {
  device_stream const stream;
  device_array<float> const logits(4 * 8, 0.5f), numbers(4, 0.0f);
  device_array<token_id> const tokens(4, 3);
  device_array<std::size_t> const offsets(std::vector<std::size_t>{0, 2, 4});
  device_array<std::uint8_t> const mask(std::vector<std::uint8_t>{0, 1, 0, 1});
  device_array<double> const loss(1, 0.0), reference(2, -1.0);
  matrix_view<float> const m{logits.data(), 4, 8, 8};
  sequences_view const batch{.tokens = tokens.view(), .offsets = offsets.view(), .mask = mask.view()};
  kernels::policy_question<ppo_options> const ppo{.old_logps = numbers.view(), .advantages = numbers.view(), .totals = {.tokens = 2}};
  kernels::policy_question<ppo_options> const by_sequence{.old_logps = numbers.view(), .advantages = numbers.view(),
                                                          .aggregation = loss_aggregation::sequence_mean};
  kernels::policy_question<gspo_options> const gspo{.old_logps = numbers.view(), .advantages = numbers.view()};
  struct {
    kernels::question ask;
    std::vector<std::string> between;
  } const each[] = {
      {kernels::sft_question{.totals = {.tokens = 2}}, {"sft_losses,", "sum_partials,"}},
      {kernels::sft_question{.options = {.normalization = sft_normalization::sequence}}, {"token_weights,", "sft_losses,", "sum_partials,"}},
      {kernels::pairs_question<dpo_options>{.ref_logps = reference.view()}, {"pair_token_losses<attune::dpo_options>,", "sum_partials,"}},
      {ppo, {"token_losses<attune::ppo_options>,", "sum_partials,", "sum_partials,"}},
      {by_sequence, {"token_weights,", "token_losses<attune::ppo_options>,", "sum_partials,", "sum_partials,"}},
      {gspo, {"sequence_losses<attune::gspo_options>,", "sum_partials,", "sum_partials,"}}};
  using f = kernels::losses<float>;
  for (auto const& one : each) {
    std::size_t const bytes = f::on_logits_bytes(one.ask, 4, 2);
    device_array<std::byte> const workspace(bytes, std::byte{0x7f});
    stand_in::forget();
    f::on_logits(one.ask, m, batch, m, loss.data(), workspace.span(), stream);
    CHECK(stand_in::waits() == 0);
    CHECK(stand_in::allocations() == 0);
    std::vector<std::string> expected{"next_targets,", "token_logps<float>,"};
    expected.insert(expected.end(), one.between.begin(), one.between.end());
    expected.push_back("token_logps_adjoint<float, float>,");
    REQUIRE(stand_in::launches().size() == expected.size());
    for (std::size_t k = 0; k < expected.size(); ++k) {
      CHECK_MESSAGE(stand_in::launches()[k].kernel.starts_with("void attune::cuda::kernel<attune::device::" + expected[k]),
                    stand_in::launches()[k].kernel);
      CHECK(stand_in::launches()[k].stream == static_cast<cudaStream_t>(stream));
    }
    CHECK_THROWS_AS(f::on_logits(one.ask, m, batch, m, loss.data(), workspace.span().first(bytes - 16), stream), contract_violation);
    CHECK_THROWS_AS(f::on_logits(one.ask, m, batch, m, loss.data(), workspace.span().subspan(8), stream), contract_violation);
  }
  device_array<std::byte> const workspace(4096, std::byte{});
  auto const refused = [&](kernels::question const& ask, matrix_view<float> from, sequences_view of, matrix_view<float> to,
                           double* where) {
    stand_in::forget();
    CHECK_THROWS_AS(f::on_logits(ask, from, of, to, where, workspace.span(), stream), contract_violation);
  };
  kernels::sft_question const sft{.totals = {.tokens = 2}};
  matrix_view<float> const three{logits.data(), 3, 8, 8}, narrow{logits.data(), 4, 7, 8};
  refused(sft, three, batch, three, loss.data());
  refused(sft, m, batch, three, loss.data());
  refused(sft, m, batch, narrow, loss.data());
  refused(sft, m, batch, m, nullptr);
  refused(sft, m, {.tokens = tokens.view(), .offsets = offsets.view(), .mask = mask.view().first(3)}, m, loss.data());
  refused(kernels::sft_question{}, m, batch, m, loss.data());  // how many tokens the step has
  refused(kernels::sft_question{.options = {.normalization = sft_normalization::sequence}, .totals = {.sequences = 1}}, m, batch, m,
          loss.data());
  refused(kernels::sft_question{.options = {.label_smoothing = 2.0}, .totals = {.tokens = 2}}, m, batch, m, loss.data());
  refused(kernels::pairs_question<dpo_options>{}, m, batch, m, loss.data());
  refused(kernels::pairs_question<dpo_options>{.ref_logps = reference.view(), .options = {.beta = 0.0}}, m, batch, m, loss.data());
  device_array<std::size_t> const one_sequence(std::vector<std::size_t>{0, 4});
  refused(kernels::pairs_question<simpo_options>{}, m, {.tokens = tokens.view(), .offsets = one_sequence.view(), .mask = mask.view()}, m,
          loss.data());
  refused(kernels::policy_question<ppo_options>{.old_logps = numbers.view(), .advantages = numbers.view()}, m, batch, m, loss.data());
  refused(kernels::policy_question<ppo_options>{.old_logps = numbers.view(), .totals = {.tokens = 2}}, m, batch, m, loss.data());
  refused(kernels::policy_question<gspo_options>{.advantages = numbers.view()}, m, batch, m, loss.data());
  refused(kernels::policy_question<gspo_options>{.old_logps = numbers.view(), .advantages = numbers.view(), .kl_loss = {.kl_loss_coef = 0.1}},
          m, batch, m, loss.data());
  refused(kernels::policy_question<gspo_options>{.old_logps = numbers.view(), .advantages = numbers.view(),
                                                 .aggregation = loss_aggregation::constant}, m, batch, m, loss.data());
  refused(kernels::policy_question<gspo_options>{.old_logps = numbers.view(), .advantages = numbers.view(),
                                                 .totals = {.constant_length = std::numeric_limits<double>::infinity()},
                                                 .aggregation = loss_aggregation::constant}, m, batch, m, loss.data());
  CHECK_THROWS_AS(f::logps(three, batch, numbers.span(), workspace.span(), stream), contract_violation);
  CHECK_THROWS_AS(f::logps(m, batch, numbers.span().first(3), workspace.span(), stream), contract_violation);
  CHECK_THROWS_AS(f::logps(m, batch, numbers.span(), workspace.span().first(16), stream), contract_violation);
  device_array<double> const sums(2, 0.0);
  CHECK_THROWS_AS(kernels::sequence_sums(numbers.view().first(3), batch, sums.span(), stream), contract_violation);
  CHECK_THROWS_AS(kernels::sequence_sums(numbers.view(), batch, sums.span().first(1), stream), contract_violation);
}

TEST_CASE("stand-in: shapes that disagree are refused before any launch") {
  device_stream const stream;
  device_array<float> const logits(12, 0.0f), rows(3, 0.0f);
  device_array<std::byte> const workspace(256, std::byte{});
  device_array<token_id> const targets(3, 0);
  matrix_view<float> const m{logits.data(), 3, 4, 4};
  auto const three = rows.span();
  auto const ids = targets.view();
  stand_in::forget();
  using f = operations<float>;
  CHECK_THROWS_AS(f::token_logps(m, ids.first(2), {three, three}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps(m, ids, {three.first(2), three}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps(m, ids, {three, three.first(2)}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps(m, ids, {three, three, three.first(1)}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps(m, ids, {three, three, {}, three.first(1)}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps(m, ids, {three, three, {}, {}, three.first(1)}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps({logits.data(), 3, 4, 3}, ids, {three, three}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps({nullptr, 3, 4, 4}, ids, {three, three}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps({logits.data(), 3, 0, 4}, ids, {three, three}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps_adjoint(m, ids, three.first(2), {three}, m, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps_adjoint(m, ids, three, {three.first(2)}, m, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps_adjoint(m, ids, three, {three, three.first(2)}, m, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps_adjoint(m, ids, three, {three, {}, three}, m, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps_adjoint(m, ids, three, {three, {}, {}, three}, m, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps_adjoint(m, ids, three, {three, {}, {}, {}, three.first(1)}, m, stream), contract_violation);
  CHECK_THROWS_AS(f::token_logps_adjoint(m, ids, three, {three}, {logits.data(), 2, 4, 4}, stream), contract_violation);
  matrix_view<float> const narrow{logits.data(), 2, 3, 3};
  row_kl<float> const three_kl{three, three, three};
  auto const reverse = kl_direction::reverse;
  matrix_view<float> const two_rows{logits.data(), 2, 4, 4};
  CHECK_THROWS_AS(f::token_kl(m, two_rows, ids, reverse, three_kl, stream), contract_violation);
  CHECK_THROWS_AS(f::token_kl(m, m, ids.first(2), reverse, three_kl, stream), contract_violation);
  CHECK_THROWS_AS(f::token_kl(m, m, ids, reverse, {three.first(2), three, three}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_kl(m, m, ids, reverse, {three, three.first(2), three}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_kl(m, m, ids, reverse, {three, three, {}}, stream), contract_violation);
  CHECK_THROWS_AS(f::token_kl_adjoint(m, m, ids, reverse, {three, three, three}, three.first(2), m, stream), contract_violation);
  CHECK_THROWS_AS(f::token_kl_adjoint(m, m, ids, reverse, {three, {}, three}, three, m, stream), contract_violation);
  CHECK_THROWS_AS(f::token_kl_adjoint(m, m, ids, reverse, {three, three, three}, three, two_rows, stream), contract_violation);
  auto const room = workspace.span();
  CHECK_THROWS_AS(f::linear_token_logps({2}, m, narrow, ids, {three, three}, room, {}, stream), contract_violation);
  CHECK_THROWS_AS(f::linear_token_logps({2}, m, m, ids, {three, three}, room.first(63), {}, stream), contract_violation);
  CHECK_THROWS_AS(f::linear_token_logps({2}, m, m, ids, {three, three}, room.subspan(4), {}, stream), contract_violation);
  CHECK_THROWS_AS(f::linear_token_logps({2}, m, m, ids, {three, three}, room, {nullptr, room.data() + 16, 64}, stream),
                  contract_violation);
  CHECK_THROWS_AS(f::linear_token_logps({2}, m, m, ids, {three, three}, room, {nullptr, nullptr, 64}, stream),
                  contract_violation);
  CHECK_THROWS_AS(f::linear_token_logps_adjoint({2}, m, m, ids, three, {three}, narrow, m, room, {}, stream),
                  contract_violation);
  CHECK_THROWS_AS(f::linear_token_logps_adjoint({2}, m, m, ids, three, {three}, m, narrow, room, {}, stream),
                  contract_violation);
  device_array<std::size_t> const offsets(3, 0);
  device_array<double> const partials(2, 0.0);
  CHECK_THROWS_AS(kernels::segment_sum(three, offsets.view(), three, stream), contract_violation);
  CHECK_THROWS_AS(kernels::segment_broadcast(three, offsets.view(), three, stream), contract_violation);
  CHECK_THROWS_AS(f::squared_norm(three, partials.data(), partials.span().first(0), stream), contract_violation);
  CHECK_THROWS_AS(f::squared_norm(three, nullptr, partials.span(), stream), contract_violation);
  CHECK_THROWS_AS(f::adamw({}, three, three.first(2), three, three, {}, stream), contract_violation);
  CHECK_THROWS_AS(f::adamw({}, three, three, three.first(2), three, {}, stream), contract_violation);
  CHECK_THROWS_AS(f::adamw({}, three, three, three, three.first(2), {}, stream), contract_violation);
  CHECK_THROWS_AS(f::adamw({}, three, three, three, three, three.first(2), stream), contract_violation);
  auto const two = partials.span();
  device_array<device::shard_summary> const parts(3, device::shard_summary{});
  device_array<std::uint64_t> const streams(3, 0);
  device_array<token_id> const drawn(3, 0);
  CHECK_THROWS_AS(f::summarize_shard(m, 0, ids, {}, parts.span().first(2), stream), contract_violation);
  CHECK_THROWS_AS(f::combine_shards(parts.view(), 2, 8, ids, {three, three}, stream), contract_violation);
  CHECK_THROWS_AS(f::combine_shards(parts.view(), 1, 0, ids, {three, three}, stream), contract_violation);
  CHECK_THROWS_AS(f::combine_shards(parts.view(), 1, 4, ids, {three.first(1), three}, stream), contract_violation);
  CHECK_THROWS_AS(f::shard_adjoint(m, 2, 5, ids, three, {three}, m, stream), contract_violation);
  CHECK_THROWS_AS(f::sample_tokens(m, -1.0f, 0, streams.view(), 0, drawn.span(), stream), contract_violation);
  CHECK_THROWS_AS(f::sample_tokens(m, 1.0f, 0, streams.view().first(2), 0, drawn.span(), stream), contract_violation);
  CHECK_THROWS_AS(f::sample_tokens(m, 1.0f, 0, streams.view(), 0, drawn.span().first(2), stream), contract_violation);
  device_array<std::uint8_t> const bytes(3, 1);
  auto const mask = bytes.view();
  CHECK_THROWS_AS(kernels::dpo_loss({}, {}, {}, 0, two.data(), two, stream), contract_violation);
  CHECK_THROWS_AS(kernels::dpo_loss({three, three.first(2), three, three}, {three, three}, {}, 0, two.data(), two, stream),
                  contract_violation);
  CHECK_THROWS_AS(kernels::dpo_loss({three, three}, {three, three}, {}, 0, two.data(), two, stream), contract_violation);
  CHECK_THROWS_AS(kernels::dpo_loss({three, three, three}, {three, three}, {}, 0, two.data(), two, stream), contract_violation);
  CHECK_THROWS_AS(kernels::dpo_loss({three, three, three, three}, {three, {}}, {}, 0, two.data(), two, stream), contract_violation);
  CHECK_THROWS_AS(kernels::dpo_loss({three, three, three, three}, {three, three}, {}, 2, two.data(), two, stream),
                  contract_violation);
  CHECK_THROWS_AS(kernels::dpo_loss({three, three, three, three}, {three, three}, {}, 0, nullptr, two, stream), contract_violation);
  CHECK_THROWS_AS(kernels::dpo_loss({three, three, three, three}, {three, three}, {}, 0, two.data(), {}, stream),
                  contract_violation);
  CHECK_THROWS_AS(kernels::dpo_loss({three, three, three, three}, {three, three}, {.beta = -1.0}, 0, two.data(), two, stream),
                  contract_violation);
  CHECK_THROWS_AS(kernels::bradley_terry_loss({three, three.first(1)}, {three, three}, {}, 0, two.data(), two, stream),
                  contract_violation);
  CHECK_THROWS_AS(kernels::bradley_terry_loss({three, three, two}, {three, three}, {}, 0, two.data(), two, stream),
                  contract_violation);
  CHECK_THROWS_AS(kernels::bradley_terry_loss({three, three}, {three, three}, {}, 1, two.data(), two, stream), contract_violation);
  CHECK_THROWS_AS(kernels::ppo_loss({three, three.first(2), three}, mask, three, 1.0, {}, {}, two.data(), two, stream),
                  contract_violation);
  CHECK_THROWS_AS(kernels::ppo_loss({three, three, three}, mask.first(1), three, 1.0, {}, {}, two.data(), two, stream),
                  contract_violation);
  CHECK_THROWS_AS(kernels::ppo_loss({three, three, three}, mask, three, 1.0, three.first(2), {}, two.data(), two, stream),
                  contract_violation);
  CHECK_THROWS_AS(kernels::ppo_loss({three, three, three}, mask, three, 1.0, {}, {}, two.data(), two, stream), contract_violation);
  device_array<double> const enough(8, 0.0);
  CHECK_THROWS_AS(kernels::ppo_loss({three, three, three}, mask, three, 1.0, {}, {}, enough.data(), enough.span(), stream,
                                    {.kl_loss_coef = 0.1}), contract_violation);
  CHECK_THROWS_AS(kernels::gae({three, three.first(2)}, mask, offsets.view(), {three, three}, {}, stream), contract_violation);
  CHECK_THROWS_AS(kernels::gae({three, three}, mask, {}, {three, three}, {}, stream), contract_violation);
  CHECK_THROWS_AS(kernels::gae({three, three}, mask, offsets.view(), {three, three}, {.gamma = 2.0}, stream), contract_violation);
  CHECK_THROWS_AS(kernels::whiten(three, mask.first(2), three, {}, stream), contract_violation);
  CHECK_THROWS_AS(kernels::whiten(three, mask, three.first(2), {}, stream), contract_violation);
  CHECK_THROWS_AS(f::workspace_bytes({0}, 1, 1, 1), contract_violation);
  CHECK(stand_in::launches().empty());
}

TEST_CASE_TEMPLATE("stand-in: bytes moved are the fewest that can be", S, float, bf16, f16) {
  device_stream const stream;
  constexpr std::size_t n = 2, v = 32000;
  logit_rows<S> rows(n, v);
  device_array<S> const memory(std::vector<S>(rows.data(), rows.data() + n * v));
  matrix_view<S> const logits{memory.data(), n, v, v};
  device_array<token_id> const targets(rows.targets);
  device_array<float> const logps(n, 0.0f), normalizers(n, 0.0f), slopes(n, 1.0f);
  std::string const storage = std::is_same_v<S, float> ? "float" : std::is_same_v<S, bf16> ? "bf16" : "f16";
  reports.clear();
  operations<S>::token_logps(logits, targets.view(), {logps.span(), normalizers.span()}, stream);
  operations<S>::token_logps_adjoint(logits, targets.view(), normalizers.view(), {slopes.view()}, logits, stream);
  REQUIRE(reports.size() == 2);
  constexpr std::size_t once = n * v * sizeof(S);
  CHECK(reports[0].loads.accesses[16] * 16 == once);
  CHECK(reports[1].loads.accesses[16] * 16 == once);
  CHECK(reports[1].stores.accesses[16] * 16 == once);
  CHECK(reports[1].stores.bytes == once);
  // Beside the logits: what there is of a row, which its threads may each read.
  CHECK(reports[0].loads.bytes - once <= n * 256 * 8);
  CHECK(reports[1].loads.bytes - once <= n * 256 * 24);
  std::string const shape = std::to_string(n) + " x " + std::to_string(v);

  constexpr std::size_t count = 1 << 16;
  device_array<float> const value(count, 1.0f), first(count, 0.0f), second(count, 1.0f);
  device_array<S> const gradient(count, S(1.0f)), copy(count, S(0.0f));
  device_array<double> const partials(operations<S>::squared_norm_workspace(count), 0.0), norm(1, 0.0);
  operations<S>::adamw({.beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1e-8f, .step_size = 1e-3f, .second_scale = 1.0f, .decay = 1.0f,
                        .gradient_scale = 1.0f},
                       value.span(), gradient.view(), first.span(), second.span(), copy.span(), stream);
  operations<S>::squared_norm(gradient.view(), norm.data(), partials.span(), stream);
  REQUIRE(reports.size() == 5);
  constexpr std::size_t moved = count * (6 * sizeof(float) + 2 * sizeof(S));
  CHECK(reports[2].loads.bytes + reports[2].stores.bytes == moved);
  CHECK(16 * (reports[2].loads.accesses[16] + reports[2].stores.accesses[16]) == moved);
  CHECK(reports[3].loads.bytes == count * sizeof(S));
  CHECK(reports[3].loads.accesses[16] * 16 == count * sizeof(S));
  say_traffic("adamw<" + storage + ">", std::to_string(count), reports[2], moved);
  say_traffic("squared_norm<" + storage + ">", std::to_string(count), reports[3], count * sizeof(S));
  say_traffic("token_logps<" + storage + ">", shape, reports[0], once);
  say_traffic("token_logps_adjoint<" + storage + ">", shape, reports[1], 2 * once);
}

TEST_CASE_TEMPLATE("stand-in: a divergence reads both rows twice; its adjoint reads three rows and writes one", S, float, bf16,
                   f16) {
  device_stream const stream;
  constexpr std::size_t n = 2, v = 32000;
  logit_rows<S> rows(n, v), ref_rows(n, v, 0, 0, 2);
  device_array<S> const memory(std::vector<S>(rows.data(), rows.data() + n * v)),
      ref_memory(std::vector<S>(ref_rows.data(), ref_rows.data() + n * v)), gradient(n * v, S(0.0f));
  matrix_view<S> const logits{memory.data(), n, v, v}, ref_logits{ref_memory.data(), n, v, v};
  device_array<token_id> const targets(rows.targets);
  device_array<float> const kl(n, 0.0f), z(n, 0.0f), ref_z(n, 0.0f), slopes(n, 1.0f);
  std::string const storage = std::is_same_v<S, float> ? "float" : std::is_same_v<S, bf16> ? "bf16" : "f16";
  reports.clear();
  stand_in::forget();
  operations<S>::token_kl(logits, ref_logits, targets.view(), kl_direction::reverse, {kl.span(), z.span(), ref_z.span()}, stream);
  operations<S>::token_kl_adjoint(logits, ref_logits, targets.view(), kl_direction::reverse, {kl.view(), z.view(), ref_z.view()},
                                  slopes.view(), {gradient.data(), n, v, v}, stream);
  CHECK(stand_in::waits() == 0);
  CHECK(stand_in::allocations() == 0);
  REQUIRE(reports.size() == 2);
  constexpr std::size_t once = n * v * sizeof(S);
  CHECK(reports[0].loads.accesses[16] * 16 == 4 * once);
  CHECK(reports[1].loads.accesses[16] * 16 == 3 * once);
  CHECK(reports[1].stores.bytes == once);
  std::string const shape = std::to_string(n) + " x " + std::to_string(v);
  say_traffic("token_kl<" + storage + ">", shape, reports[0], 2 * once);
  say_traffic("token_kl_adjoint<" + storage + ">", shape, reports[1], 4 * once);
}

TEST_CASE("stand-in: all that was allocated was freed") { CHECK(stand_in::live_allocations() == 0); }
