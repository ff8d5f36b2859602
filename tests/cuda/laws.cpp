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
constexpr double rounding = std::is_same_v<S, float> ? 0x1p-24 : std::is_same_v<S, bf16> ? 0x1p-9 : 0x1p-12;

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
