// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

/// How often operator new was called in this process so far, by any thread. The difference around a call that promises
/// not to allocate is 0.
std::size_t allocations() noexcept;
