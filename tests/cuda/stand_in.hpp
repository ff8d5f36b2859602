// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

/// A CUDA runtime, and cuBLASLt's product, for a machine without a device: stand_in.cpp defines the symbols that nvcc's
/// object and the cases use, so that the very object a program would run is linked here and its launches are seen. What a
/// launch would run is looked up by the kernel's name among the simulations that a program has added.
///
/// A product is refused unless its descriptors agree with each other, with the algorithm that was asked for, and with the
/// addresses; its algorithm takes all of the workspace it was promised and leaves NaN there.
///
/// Device memory is real memory that only copies and simulations may touch: whoever dereferences a device pointer on the host
/// dies of it.
namespace stand_in {

struct launch {
  std::string kernel;  // demangled
  unsigned blocks, threads;
  std::size_t shared_bytes;
  void* stream;
};

/// What was launched since the last forget(), in order, failed launches left out.
std::vector<launch> const& launches();

/// Calls since the last forget() that wait for a device or take memory from it: an operation makes none.
int waits();
int allocations();

void forget();

/// Allocations not yet freed.
int live_allocations();

/// The next launch is refused with this code.
void refuse_next_launch(int code);

using simulation = std::function<void(unsigned blocks, unsigned threads, void const* argument)>;

/// Runs in place of the kernel whose demangled name begins with "void attune::cuda::kernel<`body`, `threads`u>".
void simulate(std::string const& body, unsigned threads, simulation run);

}  // namespace stand_in
