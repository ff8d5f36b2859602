// SPDX-License-Identifier: MIT
//
// NVIDIA's own runtime and cuBLASLt, where there is no driver: what they refuse arrives as an exception that says so. Exits
// with 77 where there is a driver, since then there is nothing to refuse.
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include <cuda_runtime_api.h>

#include "kernels.hpp"

namespace {

template <class F>
bool throws_about(char const* what, F const& f) {
  try {
    f();
  } catch (std::runtime_error const& e) {
    std::string const text = e.what();
    bool const clear = text.starts_with(what) && (text.find("cudaErrorInsufficientDriver (35): ") != std::string::npos ||
                                                  text.find("cudaErrorNoDevice (100): ") != std::string::npos ||
                                                  text.find("CUBLAS_STATUS_NOT_INITIALIZED (1): ") != std::string::npos);
    std::printf("%s%s\n", clear ? "" : "not clear: ", text.c_str());
    return clear;
  }
  std::printf("%s: no exception\n", what);
  return false;
}

}  // namespace

int main() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) {
    std::puts("skipped: there is a driver");
    return 77;
  }
  bool all = throws_about("probe: ", [] { kernels::run_probe({}, 1, cudaStreamLegacy); });
  all &= throws_about("token_logps: ", [] {
    float x[4] = {};
    attune::token_id target = 1;
    kernels::operations<float>::token_logps({x, 1, 4, 4}, {&target, 1}, {{x, 1}, {x, 1}}, cudaStreamLegacy);
  });
  all &= throws_about("cublas", [] {
    float x[4] = {};
    alignas(16) std::byte memory[64];
    attune::token_id target = 1;
    kernels::operations<float>::linear_token_logps({.rows = 1}, {x, 1, 2, 2}, {x, 2, 2, 2}, {&target, 1}, {{x, 1}, {x, 1}},
                                                   memory, {}, cudaStreamLegacy);
  });
  return all ? 0 : 1;
}
