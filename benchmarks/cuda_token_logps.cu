// SPDX-License-Identifier: MIT
//
// How near the passes over logits come to what the card's memory can do. For each storage: token_logps, which must read the
// logits once, and its adjoint in place, which must read and write them once, in bytes of logits per second of device time;
// beside them a copy on the device, the most that anything is likely to reach, and the bandwidth that clock and bus allow.
// Results are held against plain loops in double before anything is timed.
//
//   cuda_token_logps_benchmark [tokens] [vocabulary] [rounds] [JSON file]       8192 128256 20
//
// Where there is no device it says so and exits with 77.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include <attune/core/random.hpp>
#include <attune/cuda/backend.cuh>

#include "cuda_timing.cuh"

namespace {

using namespace attune;
using timing::device_array;
using timing::quickest;

template <class S>
double plain_logp(std::vector<S> const& row, std::size_t target) {
  double maximum = -INFINITY, sum = 0.0;
  for (S const x : row) maximum = (std::max)(maximum, static_cast<double>(static_cast<float>(x)));
  for (S const x : row) sum += std::exp(static_cast<double>(static_cast<float>(x)) - maximum);
  return static_cast<double>(static_cast<float>(row[target])) - maximum - std::log(sum);
}

template <class S>
void measure(char const* storage, std::size_t tokens, std::size_t vocabulary, int rounds, double copied, double peak,
             timing::json_list& json, cudaStream_t stream) {
  device_array<S> logits(tokens * vocabulary);
  device_array<token_id> targets(tokens);
  device_array<float> logps(tokens), normalizers(tokens), slopes(tokens);
  // A handful of rows of noise, one after the other.
  constexpr std::size_t different = 8;
  random_stream random(1);
  std::vector<std::vector<S>> rows(different, std::vector<S>(vocabulary));
  for (auto& row : rows)
    for (S& x : row) x = S(static_cast<float>(3.0 * random.normal()));
  std::vector<token_id> ids(tokens);
  for (token_id& id : ids) id = static_cast<token_id>(random.below(vocabulary));
  for (std::size_t i = 0; i < tokens; ++i) logits.fill(rows[i % different].data(), i * vocabulary, vocabulary);
  targets.fill(ids.data(), 0, tokens);
  std::vector<float> const tiny(tokens, 1e-30f);  // so that running in place again and again changes little
  slopes.fill(tiny.data(), 0, tokens);

  cuda::cuda_backend<S> const backend;
  matrix_view<S> const view = as_matrix(logits.span().data(), tokens, vocabulary);
  auto const forward = [&] { backend.token_logps(view, targets.view(), {logps.span(), normalizers.span()}, stream); };
  auto const adjoint = [&] {
    backend.token_logps_adjoint(view, targets.view(), normalizers.view(), {slopes.view()}, view, stream);
  };
  forward();
  std::vector<float> seen(tokens);
  cuda::check("cudaStreamSynchronize", cudaStreamSynchronize(stream));
  cuda::check("cudaMemcpy", cudaMemcpy(seen.data(), logps.view().data(), tokens * sizeof(float), cudaMemcpyDeviceToHost));
  double worst = 0.0;
  for (std::size_t i = 0; i < (std::min)(tokens, std::size_t{64}); ++i) {
    double const expected = plain_logp(rows[i % different], static_cast<std::size_t>(ids[i]));
    worst = (std::max)(worst, std::abs(static_cast<double>(seen[i]) - expected) / (1.0 + std::abs(expected)));
  }
  if (!(worst < 1e-6)) {
    std::printf("%s: a log-probability is off by %g: nothing is timed\n", storage, worst);
    std::exit(1);
  }
  double const bytes = static_cast<double>(tokens) * static_cast<double>(vocabulary) * sizeof(S);
  auto const report = [&](char const* what, double moved, double seconds) {
    double const rate = moved / seconds;
    std::printf("%-6s %-20s %9.3f ms %8.0f GB/s   %5.1f %% of a copy   %5.1f %% of the bus\n", storage, what, seconds * 1e3,
                rate * 1e-9, 100.0 * rate / copied, 100.0 * rate / peak);
    json.add("\"storage\": \"" + std::string(storage) + "\", \"operation\": \"" + what + "\", \"seconds\": " +
             std::to_string(seconds) + ", \"bytes_per_second\": " + std::to_string(rate) + ", \"of_a_copy\": " +
             std::to_string(rate / copied) + ", \"of_the_bus\": " + std::to_string(rate / peak));
  };
  report("token_logps", bytes, quickest(rounds, stream, forward));
  report("token_logps_adjoint", 2.0 * bytes, quickest(rounds, stream, adjoint));
}

}  // namespace

int main(int argc, char** argv) try {
  if (timing::no_device()) return 77;
  std::size_t const n = timing::argument(argc, argv, 1, 8192), v = timing::argument(argc, argv, 2, 128256),
                    rounds = timing::argument(argc, argv, 3, 20);
  if (n == 0 || v == 0 || rounds == 0) {
    std::fputs("usage: cuda_token_logps_benchmark [tokens >= 1] [vocabulary >= 1] [rounds >= 1] [JSON file]\n", stderr);
    return 2;
  }
  timing::json_list json(argc > 4 ? argv[4] : nullptr);
  cudaDeviceProp device{};
  int kilohertz = 0, bits = 0;
  cuda::check("cudaGetDeviceProperties", cudaGetDeviceProperties(&device, 0));
  cuda::check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, 0));
  cuda::check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, 0));
  double const peak = 2.0 * 1e3 * kilohertz * (bits / 8.0);  // two transfers a clock
  cudaStream_t stream = nullptr;
  cuda::check("cudaStreamCreate", cudaStreamCreate(&stream));
  double copied = 0.0;
  {
    std::size_t const bytes = std::size_t{1} << 30;
    device_array<char> from(bytes), to(bytes);
    double const seconds = quickest(static_cast<int>(rounds), stream, [&] {
      cuda::check("cudaMemcpyAsync",
                  cudaMemcpyAsync(to.span().data(), from.span().data(), bytes, cudaMemcpyDeviceToDevice, stream));
    });
    copied = 2.0 * static_cast<double>(bytes) / seconds;
  }
  std::printf("%s, %zu tokens, vocabulary %zu: the bus allows %.0f GB/s, a copy moves %.0f GB/s\n", device.name, n, v,
              peak * 1e-9, copied * 1e-9);
  measure<float>("float", n, v, static_cast<int>(rounds), copied, peak, json, stream);
  measure<bf16>("bf16", n, v, static_cast<int>(rounds), copied, peak, json, stream);
  measure<f16>("f16", n, v, static_cast<int>(rounds), copied, peak, json, stream);
  cuda::check("cudaStreamDestroy", cudaStreamDestroy(stream));
  if (!json.write()) throw std::runtime_error("cannot write " + std::string(argv[4]));
} catch (std::exception const& e) {
  std::fprintf(stderr, "cuda_token_logps_benchmark: %s\n", e.what());
  return 1;
}
