// SPDX-License-Identifier: MIT
#pragma once

#include <cstdlib>
#include <fstream>
#include <string>

/// Adds a line of JSON to what is known of the CUDA kernels, in the file that the environment names (tests/cuda); else nothing.
inline void say_cuda_evidence(std::string const& line) {
  if (char const* const path = std::getenv("ATTUNE_CUDA_EVIDENCE")) std::ofstream(path, std::ios::app) << line << '\n';
}
