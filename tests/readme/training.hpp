// SPDX-License-Identifier: MIT
#pragma once

#include "fragment.hpp"

// The reader's dataset.
struct one_pair {
  std::vector<token_id> prompt{1, 2}, chosen{3, 4}, rejected{5};
  std::size_t size() const { return 1; }
  preference_pair operator[](std::size_t) const { return {prompt, chosen, rejected}; }
};
inline one_pair const pairs;
