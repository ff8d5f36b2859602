// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>

namespace attune {

/// One token per byte: ids 0 to 255 are the bytes themselves, 256 begins and 257 ends a text. Nothing is trained,
/// nothing is unknown, and decode(encode(s)) == s for every s. There is no padding id: sequences are never padded.
class byte_tokenizer {
 public:
  static constexpr std::size_t vocabulary() noexcept { return 258; }
  static constexpr token_id bos() noexcept { return 256; }
  static constexpr token_id eos() noexcept { return 257; }

  /// Appends one id per byte.
  void encode(std::string_view text, std::vector<token_id>& ids) const {
    std::size_t const begin = ids.size();
    ids.resize(begin + text.size());
    for (std::size_t i = 0; i < text.size(); ++i) ids[begin + i] = static_cast<unsigned char>(text[i]);
  }

  [[nodiscard]] std::vector<token_id> encode(std::string_view text) const {
    std::vector<token_id> ids;
    encode(text, ids);
    return ids;
  }

  /// The bytes of ids 0 to 255; bos and eos have no text. contract_violation for any other id.
  [[nodiscard]] std::string decode(std::span<token_id const> ids) const {
    std::string text;
    text.reserve(ids.size());
    for (token_id const id : ids) {
      expects(id >= 0 && id <= eos(), "byte_tokenizer::decode: an id in [0, 258)", id);
      if (id < 256) text += static_cast<char>(static_cast<unsigned char>(id));
    }
    return text;
  }
};

}  // namespace attune
