// SPDX-License-Identifier: MIT
#pragma once

// What every fragment of the README may take for granted.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <attune/attune.hpp>

using namespace attune;
