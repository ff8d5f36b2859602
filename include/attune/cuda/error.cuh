// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>

#include <cuda_runtime_api.h>

/// What the CUDA runtime refuses, as one exception. Errors of the caller (shapes that disagree) are contract_violation,
/// as everywhere; what goes wrong on the device after a launch surfaces in the caller's next synchronisation, not here.
namespace attune::cuda {

/// "token_logps: cudaErrorNoDevice (100): no CUDA-capable device is detected".
class cuda_error : public std::runtime_error {
 public:
  cuda_error(char const* what_failed, cudaError_t code)
      : cuda_error(what_failed, cudaGetErrorName(code), code, cudaGetErrorString(code)) {}

  /// For the codes of a library above the runtime (cuBLASLt).
  cuda_error(char const* what_failed, char const* name, int code, char const* text)
      : std::runtime_error(std::string(what_failed) + ": " + name + " (" + std::to_string(code) + "): " + text),
        code_(code) {}

  int code() const noexcept { return code_; }

 private:
  int code_;
};

inline void check(char const* what_failed, cudaError_t code) {
  if (code != cudaSuccess) throw cuda_error(what_failed, code);
}

}  // namespace attune::cuda
