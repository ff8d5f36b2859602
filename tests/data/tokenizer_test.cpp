// SPDX-License-Identifier: MIT
#include <attune/data/tokenizer.hpp>

#include <doctest/doctest.h>

#include <string>

#include <attune/data/byte_tokenizer.hpp>

using namespace attune;

namespace {

struct words {  // the least that is a tokenizer
  void encode(std::string_view text, std::vector<token_id>& ids) const {
    ids.push_back(static_cast<token_id>(text.size()));
  }
};

struct not_const {
  void encode(std::string_view, std::vector<token_id>&) {}
};

struct returns_ids {
  std::vector<token_id> encode(std::string_view) const { return {}; }
};

struct wide_ids {
  void encode(std::string_view, std::vector<long long>&) const {}
};

}  // namespace

TEST_CASE("Tokenizer: byte_tokenizer and the archetype satisfy it, near-misses do not") {
  static_assert(Tokenizer<byte_tokenizer>);
  static_assert(Tokenizer<words>);
  static_assert(!Tokenizer<not_const>);
  static_assert(!Tokenizer<returns_ids>);
  static_assert(!Tokenizer<wide_ids>);
  std::vector<token_id> ids{1};
  words().encode("abc", ids);
  CHECK(ids == std::vector<token_id>{1, 3});
}
