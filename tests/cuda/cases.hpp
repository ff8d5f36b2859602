// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <attune/core/storage.hpp>

#include "support/logit_rows.hpp"

/// What the cases have in common that run over the stand-in and on a device.

inline bool no_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return false;
  MESSAGE("skipped: no device");
  return true;
}

inline void check_close(char const* what, std::vector<float> const& seen, std::vector<double> const& expected, double tolerance) {
  REQUIRE(seen.size() == expected.size());
  for (std::size_t i = 0; i < seen.size(); ++i) {
    INFO(what, " ", i, ": ", seen[i], " for ", expected[i]);
    CHECK(far_apart(static_cast<double>(seen[i]), expected[i]) <= tolerance * (1.0 + std::abs(expected[i])));
  }
}

template <class S>
std::vector<float> widened(std::vector<S> const& values) {
  return {values.begin(), values.end()};
}

/// Half a unit in the last place, relative.
template <class S>
constexpr double rounding = std::is_same_v<S, float> ? 0x1p-24 : std::is_same_v<S, attune::bf16> ? 0x1p-8 : 0x1p-11;
