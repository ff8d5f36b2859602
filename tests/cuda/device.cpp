// SPDX-License-Identifier: MIT
//
// The cases on a device: which one it was.
#include <cstdlib>
#include <fstream>
#include <string>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

TEST_CASE("device: its name") {
  int count = 0;
  cudaDeviceProp device{};
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    MESSAGE("skipped: no device");
    return;
  }
  REQUIRE(cudaGetDeviceProperties(&device, 0) == cudaSuccess);
  MESSAGE("device: ", std::string(device.name));
  if (char const* const path = std::getenv("ATTUNE_CUDA_EVIDENCE"))
    std::ofstream(path, std::ios::app) << "{\"device\": \"" << device.name << "\"}\n";
}
