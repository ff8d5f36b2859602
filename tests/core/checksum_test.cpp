// SPDX-License-Identifier: MIT
#include <attune/core/checksum.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace attune;

TEST_CASE("checksum64: the published values of XXH64 with seed 0") {
  CHECK(checksum64().value() == 0xEF46DB3751D8E999U);
  CHECK(checksum64().update("a").value() == 0xD24EC4F1A98C6E5BU);
  CHECK(checksum64().update("abc").value() == 0x44BC2CF5AD770999U);
  CHECK(checksum64().update("Nobody inspects the spammish repetition").value() == 0xFBCEA83C8A378BF1U);
}

TEST_CASE("checksum64: the value does not depend on how the bytes were cut") {
  std::string text;
  for (int i = 0; i < 200; ++i) text += static_cast<char>(i * 37);
  for (std::size_t size = 0; size <= text.size(); ++size) {
    std::string_view const all = std::string_view(text).substr(0, size);
    std::uint64_t const whole = checksum64().update(all).value();
    for (std::size_t piece : {1U, 3U, 31U, 32U, 33U, 100U}) {
      checksum64 sum;
      for (std::size_t at = 0; at < size; at += piece) sum.update(all.substr(at, piece));
      CHECK(sum.value() == whole);
      CHECK(sum.value() == whole);  // asking changes nothing
    }
  }
}

TEST_CASE("checksum64: every bit, every length and the seed count") {
  std::string text(70, 'x');
  std::uint64_t const whole = checksum64().update(text).value();
  for (std::size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string changed = text;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << (bit % 8)));
    CHECK(checksum64().update(changed).value() != whole);
  }
  CHECK(checksum64().update(text + 'x').value() != whole);
  CHECK(checksum64(1).update(text).value() != whole);
}

TEST_CASE("checksum64: a number counts as its little-endian bytes") {
  CHECK(checksum64().update_number(std::uint32_t{0x64636261}).value() == checksum64().update("abcd").value());
}
