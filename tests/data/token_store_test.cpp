// SPDX-License-Identifier: MIT
#include <attune/data/token_store.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

using namespace attune;

TEST_CASE("token_store: runs of any length keep their ids and their addresses") {
  token_store store;
  std::vector<token_store::location> places;
  std::vector<token_id const*> addresses;
  std::vector<std::size_t> const lengths{1, 0, 5, 262144, 262145, 3, 200000, 100000, 62144, 1, 600000, 7};
  std::size_t total = 0;
  for (std::size_t run = 0; run < lengths.size(); ++run) {
    token_store::location where = 0;
    std::span<token_id> const out = store.allocate(lengths[run], where);
    REQUIRE(out.size() == lengths[run]);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<token_id>(run * 1000003 + i);
    places.push_back(where);
    addresses.push_back(out.data());
    total += out.size();
  }
  CHECK(store.total_tokens() == total);
  std::size_t wrong = 0;
  for (std::size_t run = 0; run < lengths.size(); ++run) {
    std::span<token_id const> const all = store.at(places[run], 0, lengths[run]);
    if (lengths[run] > 0) CHECK(all.data() == addresses[run]);
    for (std::size_t i = 0; i < all.size(); ++i) wrong += all[i] != static_cast<token_id>(run * 1000003 + i);
  }
  CHECK(wrong == 0);
  CHECK(store.at(places[2], 2, 2)[0] == 2 * 1000003 + 2);
}

TEST_CASE("token_store: a copy is its own") {
  token_store store;
  token_store::location where = 0;
  store.allocate(1, where)[0] = 7;
  token_store const copy = store;
  CHECK(copy.at(where, 0, 1)[0] == 7);
  CHECK(copy.at(where, 0, 1).data() != store.at(where, 0, 1).data());
}
