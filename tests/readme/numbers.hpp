// SPDX-License-Identifier: MIT
#pragma once

#include "fragment.hpp"

// The reader's own arrays.
inline constexpr std::size_t pairs = 2;
inline float const policy_chosen[pairs] = {-10.0f, -12.0f};
inline float const policy_rejected[pairs] = {-11.0f, -9.0f};
inline float const reference_chosen[pairs] = {-10.5f, -12.5f};
inline float const reference_rejected[pairs] = {-10.0f, -9.5f};
inline float chosen_slopes[pairs];
inline float rejected_slopes[pairs];
