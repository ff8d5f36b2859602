// SPDX-License-Identifier: MIT
//
// The cases on a device: which one it was.
#include <string>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include "executed_on.hpp"
#include "support/cuda_evidence.hpp"

char const* const executed_on = "device";

TEST_CASE("device: its name") {
  int count = 0;
  cudaDeviceProp device{};
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    MESSAGE("skipped: no device");
    return;
  }
  REQUIRE(cudaGetDeviceProperties(&device, 0) == cudaSuccess);
  MESSAGE("device: ", std::string(device.name));
  say_cuda_evidence("{\"device\": \"" + std::string(device.name) + "\"}");
}
