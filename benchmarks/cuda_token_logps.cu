// SPDX-License-Identifier: MIT
//
// How near the passes over logits come to what the card's memory can do. For each storage: token_logps, which must read the
// logits once, and its adjoint in place, which must read and write them once, in bytes of logits per second of device time;
// beside them a copy on the device, the most that anything is likely to reach, and the bandwidth that clock and bus allow.
// Results are held against plain loops in double before anything is timed.
//
//   cuda_token_logps_benchmark [tokens] [vocabulary] [rounds]       8192 128256 20
//
// Where there is no device it says so and exits with 77.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <vector>

#include <cuda_runtime.h>

#include <attune/core/random.hpp>
#include <attune/cuda/backend.cuh>

namespace {

using namespace attune;

template <class T>
class device_array {
 public:
  explicit device_array(std::size_t size) {
    void* p = nullptr;
    cuda::check("cudaMalloc", cudaMalloc(&p, size * sizeof(T)));
    span_ = {static_cast<T*>(p), size};
  }
  device_array(device_array const&) = delete;
  device_array& operator=(device_array const&) = delete;
  ~device_array() { (void)cudaFree(span_.data()); }

  std::span<T> span() const { return span_; }
  std::span<T const> view() const { return span_; }
  void fill(T const* from, std::size_t first, std::size_t count) {
    cuda::check("cudaMemcpy", cudaMemcpy(span_.data() + first, from, count * sizeof(T), cudaMemcpyHostToDevice));
  }

 private:
  std::span<T> span_;
};

/// Seconds of device time of the quickest of `rounds` runs.
template <class F>
double quickest(int rounds, cudaStream_t stream, F const& f) {
  cudaEvent_t begin = nullptr, end = nullptr;
  cuda::check("cudaEventCreate", cudaEventCreate(&begin));
  cuda::check("cudaEventCreate", cudaEventCreate(&end));
  float best = INFINITY;
  for (int round = -2; round < rounds; ++round) {
    cuda::check("cudaEventRecord", cudaEventRecord(begin, stream));
    f();
    cuda::check("cudaEventRecord", cudaEventRecord(end, stream));
    cuda::check("cudaEventSynchronize", cudaEventSynchronize(end));
    float milliseconds = 0.0f;
    cuda::check("cudaEventElapsedTime", cudaEventElapsedTime(&milliseconds, begin, end));
    if (round >= 0) best = (std::min)(best, milliseconds);
  }
  cuda::check("cudaEventDestroy", cudaEventDestroy(begin));
  cuda::check("cudaEventDestroy", cudaEventDestroy(end));
  return static_cast<double>(best) * 1e-3;
}

template <class S>
double plain_logp(std::vector<S> const& row, std::size_t target) {
  double maximum = -INFINITY, sum = 0.0;
  for (S const x : row) maximum = (std::max)(maximum, static_cast<double>(static_cast<float>(x)));
  for (S const x : row) sum += std::exp(static_cast<double>(static_cast<float>(x)) - maximum);
  return static_cast<double>(static_cast<float>(row[target])) - maximum - std::log(sum);
}

template <class S>
void measure(char const* storage, std::size_t tokens, std::size_t vocabulary, int rounds, double copied, double peak,
             cudaStream_t stream) {
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
  };
  report("token_logps", bytes, quickest(rounds, stream, forward));
  report("token_logps_adjoint", 2.0 * bytes, quickest(rounds, stream, adjoint));
}

}  // namespace

int main(int argc, char** argv) try {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("skipped: no device");
    return 77;
  }
  auto const argument = [&](int i, long fallback) { return argc > i ? std::strtol(argv[i], nullptr, 10) : fallback; };
  long const tokens = argument(1, 8192), vocabulary = argument(2, 128256), rounds = argument(3, 20);
  if (tokens < 1 || vocabulary < 1 || rounds < 1) {
    std::fputs("usage: cuda_token_logps_benchmark [tokens >= 1] [vocabulary >= 1] [rounds >= 1]\n", stderr);
    return 2;
  }
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
  std::printf("%s, %ld tokens, vocabulary %ld: the bus allows %.0f GB/s, a copy moves %.0f GB/s\n", device.name, tokens,
              vocabulary, peak * 1e-9, copied * 1e-9);
  auto const n = static_cast<std::size_t>(tokens), v = static_cast<std::size_t>(vocabulary);
  measure<float>("float", n, v, static_cast<int>(rounds), copied, peak, stream);
  measure<bf16>("bf16", n, v, static_cast<int>(rounds), copied, peak, stream);
  measure<f16>("f16", n, v, static_cast<int>(rounds), copied, peak, stream);
  cuda::check("cudaStreamDestroy", cudaStreamDestroy(stream));
} catch (std::exception const& e) {
  std::fprintf(stderr, "cuda_token_logps_benchmark: %s\n", e.what());
  return 1;
}
