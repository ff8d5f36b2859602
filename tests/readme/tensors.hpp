// SPDX-License-Identifier: MIT
#pragma once

#include "fragment.hpp"

// The logits of the reader's framework, and the tokens they belong to.
inline constexpr std::size_t tokens = 4;
inline constexpr std::size_t vocabulary = 5;
inline constexpr std::size_t row_stride = 8;
inline float data[tokens * row_stride];
inline token_id const ids[tokens] = {1, 2, 3, 4};
inline std::size_t const offsets[] = {0, tokens};
inline std::uint8_t const mask[tokens] = {0, 1, 1, 1};
inline sequences_view const batch{ids, offsets, mask};
