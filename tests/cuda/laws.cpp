// SPDX-License-Identifier: MIT
//
// The laws of concepts/backend.hpp on the CUDA adapter, for each storage, and what they do not ask: the linear head in
// detail, targets that are not there, the Gemm concept. Over the stand-in or on a device, as cases.cpp.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <attune/backend/reference.hpp>
#include <attune/core/random.hpp>
#include <attune/testing/backend_laws.hpp>

#include "copied_backend.hpp"
#include "device_array.hpp"
#include "executed_on.hpp"
#include "kernels.hpp"
#include "support/cuda_evidence.hpp"
#include "support/logit_rows.hpp"

using namespace attune;
using kernels::operations;

namespace {

bool no_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return false;
  MESSAGE("skipped: no device");
  return true;
}

template <class S>
constexpr char const* dtype = std::is_same_v<S, float> ? "f32" : std::is_same_v<S, bf16> ? "bf16" : "f16";

/// Half a unit in the last place, relative.
template <class S>
constexpr double rounding = std::is_same_v<S, float> ? 0x1p-24 : std::is_same_v<S, bf16> ? 0x1p-8 : 0x1p-11;

std::string number(double x) {
  if (!std::isfinite(x)) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.3e", x);
  return text;
}

template <class T>
double largest(std::vector<T> const& seen, std::vector<double> const& expected) {
  REQUIRE(seen.size() == expected.size());
  double off = 0.0;
  for (std::size_t i = 0; i < seen.size(); ++i)
    off = std::fmax(off, far_apart(static_cast<double>(static_cast<float>(seen[i])), expected[i]));
  return off;
}

}  // namespace

TEST_CASE_TEMPLATE("laws: the adapter keeps those of the backend concept, with and without a workspace for products", S, float,
                   bf16, f16) {
  if (no_device()) return;
  struct setting {
    kernels::chunks of;
    std::size_t product_workspace;
    char const* name;
  };
  for (setting const& with : {setting{{256}, 0, "cuda"}, setting{{7}, 4096, "cuda, chunks of 7"}}) {
    copied_backend<S> backend(with.of, with.product_workspace);
    for (testing::tried_law const& law : testing::try_backend_laws(backend)) {
      CHECK_MESSAGE(law.holds(), with.name, ", ", dtype<S>, ": ", law.name, ": ", law.evidence);
      say_cuda_evidence(std::string("{\"backend\": \"") + with.name + "\", \"executed_on\": \"" + executed_on +
                        "\", \"dtype\": \"" + dtype<S> + "\", \"operation\": \"law: " + law.name + "\", \"passed\": " +
                        (law.holds() ? "true" : "false") + ", \"comparisons\": " + std::to_string(law.comparisons) +
                        ", \"worst_error\": " + number(law.error) + ", \"bound\": " + number(law.bound) + "}");
    }
  }
}

TEST_CASE_TEMPLATE("laws: gradients of logits that are rounded to bf16 break those of the linear head and only those, f16 none", S,
                   bf16, f16) {
  if (no_device()) return;
  copied_backend<S> backend({.rows = 256, .gradients = cuda::logit_gradients::rounded});
  auto const broken = testing::check_backend_laws(backend);
  CHECK(testing::breaks(broken, "linear adjoint") == std::is_same_v<S, bf16>);
  for (testing::broken_law const& law : broken)
    CHECK_MESSAGE((law.name == "linear adjoint" || law.name == "entropy adjoint" || law.name == "normalizer adjoint"), law.name,
                  ": ", law.evidence);
}

TEST_CASE_TEMPLATE("device: the linear head in chunks, and its adjoint; a row without a target may hold anything", S, float, bf16,
                   f16) {
  if (no_device()) return;
  device_stream const stream;
  device_array<std::byte> const of_products(1 << 16, std::byte{});
  kernels::products by{nullptr, of_products.data(), 1 << 16};
  REQUIRE(cublasLtCreate(&by.handle) == CUBLAS_STATUS_SUCCESS);
  constexpr std::size_t n = 7, v = 43, d = 6;
  logit_rows<S> hidden(n, d, 0, 0, 3, 1.0), head(v, d, 0, 0, 4, 1.0);
  std::vector<token_id> const ids{0, 42, 7, no_target, 19, 1, no_target};
  auto const storage = [](logit_rows<S>& from) { return std::vector<S>(from.data(), from.data() + from.rows * from.cols); };
  std::vector<S> dirty = storage(hidden);
  for (std::size_t const i : {3u, 6u})
    for (std::size_t k = 0; k < d; ++k)
      dirty[i * d + k] = S(i == 3 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity());
  device_array<S> const hidden_memory(dirty), head_memory(storage(head));
  matrix_view<S const> const h{hidden_memory.data(), n, d, d}, w{head_memory.data(), v, d, d};
  device_array<token_id> const targets(ids);
  reference_backend<double> const oracle;
  std::vector<double> logps(n), normalizers(n), scratch(oracle.linear_workspace(n, v, d));
  oracle.linear_token_logps(hidden.wide_view(), head.wide_view(), ids, {logps, normalizers}, scratch);
  std::vector<float> const slopes{-0.5f, 0.5f, 1.0f, 0.75f, -0.25f, 0.125f, -1.0f};
  std::vector<double> const wide_slopes(slopes.begin(), slopes.end());
  std::vector<double> dh(n * d), dw(v * d, 0.5);
  oracle.linear_token_logps_adjoint(hidden.wide_view(), head.wide_view(), ids, normalizers, {wide_slopes},
                                    as_matrix(dh.data(), n, d), as_matrix(dw.data(), v, d), scratch);
  for (auto const gradients : {cuda::logit_gradients::split, cuda::logit_gradients::rounded}) {
    kernels::chunks const of{3, gradients};
    device_array<S> const dhidden(n * d, S(9.0f));
    device_array<float> const on_logps(n, 9.0f), on_normalizers(n, 9.0f), dhead(v * d, 0.5f), on_slopes(slopes);
    device_array<std::byte> const workspace(operations<S>::workspace_bytes(of, n, v, d), std::byte{255});
    operations<S>::linear_token_logps(of, h, w, targets.view(), {on_logps.span(), on_normalizers.span()}, workspace.span(), by,
                                      stream);
    operations<S>::linear_token_logps_adjoint(of, h, w, targets.view(), on_normalizers.view(), {on_slopes.view()},
                                              {dhidden.data(), n, d, d}, {dhead.data(), v, d, d}, workspace.span(), by, stream);
    CHECK(largest(on_logps.values(), logps) <= 4e-6);  // whatever S is
    CHECK(largest(on_normalizers.values(), normalizers) <= 4e-6);
    double const stored = gradients == cuda::logit_gradients::rounded ? 4.0 * rounding<S> : 0.0;
    CHECK(largest(dhidden.values(), dh) <= 1e-5 + rounding<S> * 2.0 + stored);
    CHECK(largest(dhead.values(), dw) <= 1e-5 + stored);
  }
  CHECK(cublasLtDestroy(by.handle) == CUBLAS_STATUS_SUCCESS);
}

TEST_CASE_TEMPLATE("device: a target that is no entry of the vocabulary makes its row NaN, gradient and all", S, float, bf16) {
  if (no_device()) return;
  device_stream const stream;
  constexpr std::size_t n = 5, v = 9;
  logit_rows<S> rows(n, v);
  std::vector<token_id> const ids{9, 3, -2, no_target, std::numeric_limits<token_id>::max()};
  device_array<S> const memory(std::vector<S>(rows.data(), rows.data() + n * v)), gradient(n * v, S(9.0f));
  matrix_view<S> const logits{memory.data(), n, v, v};
  device_array<token_id> const targets(ids);
  device_array<float> const logps(n, 9.0f), normalizers(n, 9.0f), slopes(n, 1.0f);
  device_array<device::shard_summary> const parts(2 * n, device::shard_summary{});
  for (bool const in_shards : {false, true}) {
    if (in_shards) {
      operations<S>::summarize_shard({logits.data, n, 4, v}, 0, targets.view(), {}, parts.span().first(n), stream);
      operations<S>::summarize_shard({logits.data + 4, n, 5, v}, 4, targets.view(), {}, parts.span().last(n), stream);
      operations<S>::combine_shards(parts.view(), 2, v, targets.view(), {logps.span(), normalizers.span()}, stream);
    } else {
      operations<S>::token_logps(logits, targets.view(), {logps.span(), normalizers.span()}, stream);
    }
    operations<S>::token_logps_adjoint(logits, targets.view(), normalizers.view(), {slopes.view()}, {gradient.data(), n, v, v},
                                       stream);
    auto const seen = logps.values();
    auto const grown = gradient.values();
    for (std::size_t i = 0; i < n; ++i) {
      bool const there = i == 1 || i == 3;
      CHECK(std::isnan(seen[i]) == !there);
      for (std::size_t k = 0; k < v; ++k) CHECK(std::isnan(static_cast<float>(grown[i * v + k])) == !there);
    }
    CHECK(seen[3] == 0.0f);
  }
}

TEST_CASE("device: a product is what the Gemm concept says: transposed or not, over rows, added to, and of no size") {
  if (no_device()) return;
  device_stream const stream;
  kernels::products by;
  REQUIRE(cublasLtCreate(&by.handle) == CUBLAS_STATUS_SUCCESS);
  constexpr std::size_t m = 5, n = 7, k = 3;
  logit_rows<float> a(m, k, 1, 0, 2), at(k, m, 2, 0, 3), b(k, n, 0, 0, 4), bt(n, k, 3, 0, 5);
  for (auto const a_op : {transpose::no, transpose::yes})
    for (auto const b_op : {transpose::no, transpose::yes})
      for (float const beta : {0.0f, 1.0f, -0.5f}) {
        logit_rows<float>& first = a_op == transpose::no ? a : at;
        logit_rows<float>& second = b_op == transpose::no ? b : bt;
        auto const memory = [](logit_rows<float>& of) { return std::vector<float>(of.data(), of.data() + of.rows * of.stride); };
        // As no address of the three is alike, so is what the algorithm may expect of them.
        device_array<float> const x(memory(first), 1), y(memory(second), 4);
        device_array<float> const out(std::vector<float>(m * (n + 2), 3.0f), 2);
        kernels::product(plan_gemm<float, float>(a_op, {x.data(), first.rows, first.cols, first.stride}, b_op,
                                                 {y.data(), second.rows, second.cols, second.stride},
                                                 matrix_view<float>{out.data(), m, n, n + 2}),
                         2.0f, beta, by, stream);
        auto const seen = out.values();
        for (std::size_t i = 0; i < m; ++i)
          for (std::size_t j = 0; j < n + 2; ++j) {
            double sum = 0.0;
            for (std::size_t l = 0; l < k && j < n; ++l)
              sum += static_cast<double>(a_op == transpose::no ? a.view()(i, l) : at.view()(l, i)) *
                     static_cast<double>(b_op == transpose::no ? b.view()(l, j) : bt.view()(j, l));
            double const expected = j < n ? 2.0 * sum + 3.0 * static_cast<double>(beta) : 3.0;
            CHECK(std::abs(static_cast<double>(seen[i * (n + 2) + j]) - expected) <= 1e-4);
          }
      }
  device_array<float> const out(12, 3.0f);
  auto const none = [&](float beta) {
    kernels::product(plan_gemm<float, float>(transpose::no, {out.data(), 3, 0, 0}, transpose::yes, {out.data(), 2, 0, 0},
                                             matrix_view<float>{out.data(), 3, 2, 4}),
                     1.0f, beta, by, stream);
  };
  kernels::product(plan_gemm<float, float>(transpose::no, {out.data(), 0, 3, 3}, transpose::no, {out.data(), 3, 2, 2},
                                           matrix_view<float>{out.data(), 0, 2, 2}),
                   1.0f, 0.0f, by, stream);
  none(1.0f);
  CHECK(out.values() == std::vector<float>(12, 3.0f));
  CHECK_THROWS_AS(none(0.5f), contract_violation);
  none(0.0f);
  CHECK(out.values() == std::vector<float>{0, 0, 3, 3, 0, 0, 3, 3, 0, 0, 3, 3});
  CHECK(cublasLtDestroy(by.handle) == CUBLAS_STATUS_SUCCESS);
}
