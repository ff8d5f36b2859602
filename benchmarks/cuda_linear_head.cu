// SPDX-License-Identifier: MIT
//
// How near the linear head comes to what the card's products can do. For each storage: linear_token_logps, which is one
// product and a pass over its logits, and its adjoint, which is three, and five where gradients of logits are kept in two of
// the storage; in operations that the mathematics asks for per second of device time. Beside them the product alone, by the
// same library in the same chunks, which is the most that anything here can reach. A few log-probabilities are held against
// plain loops in double before anything is timed.
//
//   cuda_linear_head_benchmark [tokens] [vocabulary] [width] [rounds] [JSON file]       8192 128256 4096 10
//
// Where there is no device it says so and exits with 77.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <attune/core/random.hpp>
#include <attune/cuda/backend.cuh>
#include <attune/cuda/cublaslt_gemm.cuh>

#include "cuda_timing.cuh"

namespace {

using namespace attune;
using timing::device_array;
using timing::quickest;

struct sizes {
  std::size_t tokens, vocabulary, width;
  int rounds;
};

template <class S>
double plain_logp(std::vector<S> const& hidden, std::vector<S> const& head, std::size_t row, std::size_t target,
                  sizes const& n) {
  std::vector<double> logits(n.vocabulary, 0.0);
  for (std::size_t v = 0; v < n.vocabulary; ++v)
    for (std::size_t d = 0; d < n.width; ++d)
      logits[v] += static_cast<double>(static_cast<float>(hidden[row * n.width + d])) *
                   static_cast<double>(static_cast<float>(head[v * n.width + d]));
  double const maximum = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (double const x : logits) sum += std::exp(x - maximum);
  return logits[target] - maximum - std::log(sum);
}

template <class S>
void measure(char const* storage, sizes const& n, cublasLtHandle_t cublas, timing::json_list& json, cudaStream_t stream) {
  constexpr std::size_t product_workspace = std::size_t{32} << 20;
  random_stream random(1);
  std::vector<S> hidden(n.tokens * n.width), head(n.vocabulary * n.width);
  // Noise that repeats, so that logits are of a size of some units and the host is done soon.
  std::vector<S> noise(std::size_t{1} << 16);
  for (S& x : noise) x = S(static_cast<float>(random.normal() * 3.0 / std::sqrt(static_cast<double>(n.width))));
  for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] = S(static_cast<float>(noise[(7 * i) % noise.size()]) * 10.0f);
  for (std::size_t i = 0; i < head.size(); ++i) head[i] = noise[(i + i / 65521) % noise.size()];
  std::vector<token_id> ids(n.tokens);
  for (token_id& id : ids) id = static_cast<token_id>(random.below(n.vocabulary));
  std::vector<float> const tiny(n.tokens, 1e-4f);

  device_array<S> on_hidden(hidden.size()), on_head(head.size()), dhidden(hidden.size());
  device_array<token_id> targets(n.tokens);
  device_array<float> logps(n.tokens), normalizers(n.tokens), slopes(n.tokens), dhead(head.size());
  device_array<std::byte> of_products(product_workspace);
  on_hidden.fill(hidden.data(), 0, hidden.size());
  on_head.fill(head.data(), 0, head.size());
  targets.fill(ids.data(), 0, n.tokens);
  slopes.fill(tiny.data(), 0, n.tokens);
  cuda::check("cudaMemset", cudaMemset(dhead.span().data(), 0, dhead.span().size_bytes()));
  cuda::cublaslt_gemm const gemm(cublas, of_products.span().data(), product_workspace);
  matrix_view<S const> const h = as_matrix<S const>(on_hidden.view().data(), n.tokens, n.width),
                             w = as_matrix<S const>(on_head.view().data(), n.vocabulary, n.width);
  double const once = 2.0 * static_cast<double>(n.tokens) * static_cast<double>(n.vocabulary) * static_cast<double>(n.width);

  double alone = 0.0;
  {
    std::size_t const chunk = (std::min)(n.tokens, cuda::cuda_backend<S>::default_chunk);
    device_array<float> logits(chunk * n.vocabulary);
    alone = once / quickest(n.rounds, stream, [&] {
              for (std::size_t first = 0; first < n.tokens; first += chunk) {
                std::size_t const rows = (std::min)(chunk, n.tokens - first);
                gemm(plan_gemm<S, float>(transpose::no, h.middle_rows(first, rows), transpose::yes, w,
                                         as_matrix(logits.span().data(), rows, n.vocabulary)),
                     1.0f, 0.0f, stream);
              }
            });
  }
  auto const report = [&](char const* what, double operations, double seconds) {
    double const rate = operations / seconds;
    std::printf("%-6s %-34s %9.3f ms %8.1f TFLOP/s   %5.1f %% of the product alone\n", storage, what, seconds * 1e3,
                rate * 1e-12, 100.0 * rate / alone);
    json.add("\"storage\": \"" + std::string(storage) + "\", \"operation\": \"" + what + "\", \"seconds\": " +
             std::to_string(seconds) + ", \"flops_per_second\": " + std::to_string(rate) + ", \"of_the_product_alone\": " +
             std::to_string(rate / alone));
  };
  report("product alone", once, once / alone);
  for (cuda::logit_gradients const gradients : {cuda::logit_gradients::rounded, cuda::logit_gradients::split}) {
    bool const split = gradients == cuda::logit_gradients::split;
    if (split && sizeof(S) == sizeof(float)) continue;
    cuda::cuda_backend<S> const backend(cuda::cuda_backend<S>::default_chunk, gradients);
    device_array<std::byte> workspace(backend.workspace_bytes(n.tokens, n.vocabulary, n.width));
    auto const forward = [&] {
      backend.linear_token_logps(h, w, targets.view(), {logps.span(), normalizers.span()}, workspace.span(), gemm, stream);
    };
    forward();
    std::vector<float> seen(n.tokens);
    cuda::check("cudaStreamSynchronize", cudaStreamSynchronize(stream));
    cuda::check("cudaMemcpy",
                cudaMemcpy(seen.data(), logps.view().data(), n.tokens * sizeof(float), cudaMemcpyDeviceToHost));
    for (std::size_t const i : {std::size_t{0}, n.tokens - 1}) {
      double const expected = plain_logp(hidden, head, i, static_cast<std::size_t>(ids[i]), n);
      if (!(std::abs(static_cast<double>(seen[i]) - expected) <= 1e-4 * (1.0 + std::abs(expected))))
        throw std::runtime_error(std::string(storage) + ": log-probability " + std::to_string(i) + " is " +
                                 std::to_string(seen[i]) + " for " + std::to_string(expected) + ": nothing is timed");
    }
    if (!split) report("linear_token_logps", once, quickest(n.rounds, stream, forward));
    report(split ? "linear_token_logps_adjoint, split" : "linear_token_logps_adjoint", 3.0 * once,
           quickest(n.rounds, stream, [&] {
             backend.linear_token_logps_adjoint(h, w, targets.view(), normalizers.view(), {slopes.view()},
                                                as_matrix(dhidden.span().data(), n.tokens, n.width),
                                                as_matrix(dhead.span().data(), n.vocabulary, n.width), workspace.span(), gemm,
                                                stream);
           }));
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (timing::no_device()) return 77;
  sizes const n{timing::argument(argc, argv, 1, 8192), timing::argument(argc, argv, 2, 128256),
                timing::argument(argc, argv, 3, 4096), static_cast<int>(timing::argument(argc, argv, 4, 10))};
  if (n.tokens == 0 || n.vocabulary == 0 || n.width == 0 || n.rounds == 0) {
    std::fputs("usage: cuda_linear_head_benchmark [tokens >= 1] [vocabulary >= 1] [width >= 1] [rounds >= 1] [JSON file]\n",
               stderr);
    return 2;
  }
  timing::json_list json(argc > 5 ? argv[5] : nullptr);
  cudaDeviceProp device{};
  cuda::check("cudaGetDeviceProperties", cudaGetDeviceProperties(&device, 0));
  std::printf("%s, %zu tokens, vocabulary %zu, width %zu\n", device.name, n.tokens, n.vocabulary, n.width);
  cudaStream_t stream = nullptr;
  cuda::check("cudaStreamCreate", cudaStreamCreate(&stream));
  cublasLtHandle_t cublas = nullptr;
  if (cublasStatus_t const status = cublasLtCreate(&cublas); status != CUBLAS_STATUS_SUCCESS)
    throw cuda::cuda_error("cublasLtCreate", cublasLtGetStatusName(status), status, cublasLtGetStatusString(status));
  measure<bf16>("bf16", n, cublas, json, stream);
  measure<f16>("f16", n, cublas, json, stream);
  measure<float>("float", n, cublas, json, stream);
  (void)cublasLtDestroy(cublas);
  cuda::check("cudaStreamDestroy", cudaStreamDestroy(stream));
  if (!json.write()) throw std::runtime_error("cannot write " + std::string(argv[5]));
} catch (std::exception const& e) {
  std::fprintf(stderr, "cuda_linear_head_benchmark: %s\n", e.what());
  return 1;
}
