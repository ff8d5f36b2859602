// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>
#include <vector>

#include <attune/core/sequences.hpp>

namespace attune {

/// Text into token ids, as loaders need it.
///
///   t.encode(text, ids)   appends the ids of text, and nothing else: no begin or end marks, which the loader's options
///                         add where they are asked for.
///
/// Laws: pure; ids are not negative; text that is not empty gives at least one id.
/// Modelled by: byte_tokenizer.
template <class T>
concept Tokenizer = requires(T const& t, std::string_view text, std::vector<token_id>& ids) {
  t.encode(text, ids);
};

}  // namespace attune
