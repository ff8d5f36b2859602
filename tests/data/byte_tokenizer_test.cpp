// SPDX-License-Identifier: MIT
#include <attune/data/byte_tokenizer.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace attune;

TEST_CASE("byte_tokenizer: every byte is its own id and comes back") {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  byte_tokenizer const tokenizer;
  std::vector<token_id> const ids = tokenizer.encode(all);
  REQUIRE(ids.size() == 256);
  for (token_id i = 0; i < 256; ++i) CHECK(ids[static_cast<std::size_t>(i)] == i);
  CHECK(tokenizer.decode(ids) == all);
  CHECK(tokenizer.decode(tokenizer.encode("")) == "");
}

TEST_CASE("byte_tokenizer: encode appends and adds no marks") {
  std::vector<token_id> ids{byte_tokenizer::bos()};
  byte_tokenizer().encode("\xFFz", ids);
  CHECK(ids == std::vector<token_id>{256, 255, 'z'});
}

TEST_CASE("byte_tokenizer: bos and eos are in the vocabulary, unlike any byte, and have no text") {
  CHECK(byte_tokenizer::vocabulary() == 258);
  CHECK(byte_tokenizer::bos() == 256);
  CHECK(byte_tokenizer::eos() == 257);
  CHECK(byte_tokenizer().decode(std::vector<token_id>{256, 'a', 257}) == "a");
}

TEST_CASE("byte_tokenizer: an id outside the vocabulary is refused with its value") {
  CHECK_THROWS_AS((void)byte_tokenizer().decode(std::vector<token_id>{258}), contract_violation);
  CHECK_THROWS_AS((void)byte_tokenizer().decode(std::vector<token_id>{-1}), contract_violation);
}
