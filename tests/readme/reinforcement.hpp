// SPDX-License-Identifier: MIT
#pragma once

#include "fragment.hpp"

#include <attune/model/decoder.hpp>
#include <attune/model/scalar_head.hpp>

// The reader's models, optimisers, prompts and rule.
inline decoder<float> aligned({.vocabulary = 16, .dim = 8, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = 8, .window = 64});
inline decoder<float> const sft = aligned;
inline scalar_head<float> reward_model(aligned, 0);
inline adamw<float> aligned_adamw, critic_adamw;
inline constexpr token_id end_of_text = 0;
inline double is_short(std::span<token_id const>, std::span<token_id const> response) { return response.size() < 8 ? 1.0 : 0.0; }
struct one_prompt {
  std::vector<token_id> tokens{1, 2};
  struct row { std::span<token_id const> prompt; };
  std::size_t size() const { return 1; }
  row operator[](std::size_t) const { return {tokens}; }
};
inline one_prompt const instructions;
