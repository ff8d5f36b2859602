// SPDX-License-Identifier: MIT
#include <attune/train/response_batch.hpp>

#include "support/allocations.hpp"
#include "support/random_sequences.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace attune;

namespace {

using places = std::vector<std::size_t>;

std::vector<places> cut(sequences_view all, places const& order, std::size_t budget) {
  response_batch batch;
  std::vector<places> out;
  for_response_batches(all, order, budget, batch, [&](response_batch const& b) {
    places here;
    for (std::size_t i = 0; i < b.size(); ++i) here.push_back(b.source(i));
    out.push_back(here);
  });
  return out;
}

}  // namespace

TEST_CASE("response batches: as many as fit, in the order given; a long one stands alone; 0 sets no limit") {
  auto const all = test::random_sequences({3, 4, 12, 5, 2}, 7, 1);
  CHECK(cut(all, {0, 1, 2, 3, 4}, 7) == std::vector<places>{{0, 1}, {2}, {3, 4}});
  CHECK(cut(all, {4, 2, 0}, 10) == std::vector<places>{{4}, {2}, {0}});
  CHECK(cut(all, {4, 2, 0}, 0) == std::vector<places>{{4, 2, 0}});
  CHECK(cut(all, {1, 3}, 1) == std::vector<places>{{1}, {3}});
  CHECK(cut(all, {}, 7).empty());
}

TEST_CASE("response batches: without an order, all of them in their own") {
  auto const all = test::random_sequences({3, 4, 12, 5, 2}, 7, 1);
  response_batch batch;
  places seen;
  for_response_batches(all, 7, batch, [&](response_batch const& b) {
    for (std::size_t i = 0; i < b.size(); ++i) seen.push_back(b.source(i));
  });
  CHECK(seen == places{0, 1, 2, 3, 4});
}

TEST_CASE("response batches: tokens, mask and numbers per token travel there and back") {
  auto const all = test::random_sequences({3, 4, 12, 5, 2}, 7, 1);
  sequences_view const view = all;
  std::vector<double> numbers(view.total_tokens()), back(view.total_tokens(), -1.0);
  for (std::size_t t = 0; t < numbers.size(); ++t) numbers[t] = static_cast<double>(t);
  response_batch batch;
  std::vector<double> here;
  for_response_batches(view, places{3, 0, 2, 4}, 9, batch, [&](response_batch const& b) {
    sequences_view const s = b.tokens();
    b.gather(std::span<double const>(numbers), view, here);
    REQUIRE(here.size() == s.total_tokens());
    for (std::size_t i = 0; i < b.size(); ++i) {
      REQUIRE(s.length(i) == view.length(b.source(i)));
      for (std::size_t k = 0; k < s.length(i); ++k) {
        CHECK(s.sequence(i)[k] == view.sequence(b.source(i))[k]);
        CHECK(s.sequence_mask(i)[k] == view.sequence_mask(b.source(i))[k]);
        CHECK(here[s.offsets[i] + k] == static_cast<double>(view.offsets[b.source(i)] + k));
        if (s.sequence_mask(i)[k] == 0) here[s.offsets[i] + k] = std::numeric_limits<double>::quiet_NaN();
      }
    }
    b.scatter(std::span<double const>(here), view, back);
  });
  for (std::size_t b = 0; b < view.size(); ++b)
    for (std::size_t t = view.offsets[b]; t < view.offsets[b + 1]; ++t)
      CHECK(back[t] == (b != 1 && view.mask[t] != 0 ? numbers[t] : -1.0));  // 1 was left out; NaN stayed where it was
}

TEST_CASE("response batches: nothing is allocated once the buffers have grown") {
  auto const all = test::random_sequences({3, 4, 12, 5, 2}, 7, 1);
  std::vector<double> const numbers(all.total_tokens(), 1.0);
  std::vector<double> here;
  response_batch batch;
  auto const walk = [&] {
    for_response_batches(all, 7, batch,
                         [&](response_batch const& b) { b.gather(std::span<double const>(numbers), all, here); });
  };
  walk();
  std::size_t const before = allocations();
  walk();
  CHECK(allocations() == before);
}
