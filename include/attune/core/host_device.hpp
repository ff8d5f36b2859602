// SPDX-License-Identifier: MIT
#pragma once

/// The library's one macro: marks a function that runs on the host and, under a CUDA compiler, on the device too.
/// Everything so marked is arithmetic on its arguments: no allocation, no exceptions, no global state.
#if defined(__CUDACC__)
#define ATTUNE_HOST_DEVICE __host__ __device__
#else
#define ATTUNE_HOST_DEVICE
#endif

#if defined(__FAST_MATH__)
#error "attune promises defined results for NaN and infinity; -ffast-math removes them. Compile without it."
#endif
