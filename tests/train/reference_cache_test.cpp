// SPDX-License-Identifier: MIT
#include <attune/train/reference_cache.hpp>

#include "support/small_world.hpp"
#include "support/temporary_folder.hpp"

#include <attune/model/frozen.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

using namespace attune;
using attune::test::content_of;
using attune::test::message_of;
using attune::test::temporary_folder;

TEST_CASE("reference cache: it holds the model's log-probabilities of every pair, however it was batched") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const pairs = test::random_pairs(70, 6, 2);
  for (std::size_t const budget : {0u, 1u, 50u}) {
    reference_cache cache(model_fingerprint(policy));
    cache.add(policy, pairs, budget);
    auto const sums = cache.sums(fingerprint(pairs));
    REQUIRE(sums.size() == 70);
    for (std::size_t i = 0; i < 70; ++i) {
      sequences s;
      s.push_back(pairs[i].prompt, pairs[i].chosen);
      s.push_back(pairs[i].prompt, pairs[i].rejected);
      std::vector<double> logps(s.total_tokens()), expected(2);
      policy.log_probs(s, logps);
      sequence_sums<double>(logps, s, expected);
      CHECK(sums[i].chosen == expected[0]);
      CHECK(sums[i].rejected == expected[1]);
    }
  }
}

TEST_CASE("reference cache: asked about other data it names both fingerprints") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const pairs = test::random_pairs(7, 6, 2), other = test::random_pairs(7, 6, 3);
  reference_cache cache(model_fingerprint(policy));
  cache.add(policy, pairs);
  std::string const why = message_of<contract_violation>([&] { static_cast<void>(cache.sums(fingerprint(other))); });
  CHECK(why.find(hexadecimal(fingerprint(pairs))) != std::string::npos);
  CHECK(why.find(hexadecimal(fingerprint(other))) != std::string::npos);
  CHECK(cache.holds(fingerprint(pairs)));
  CHECK(!cache.holds(fingerprint(other)));
}

TEST_CASE("reference cache: the file is made once and read afterwards, bit for bit") {
  temporary_folder const folder;
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  auto const train = test::random_pairs(20, 6, 2), held_out = test::random_pairs(5, 6, 3);
  auto const made = cached_reference(folder / "cache", policy, train, held_out);
  std::string const bytes = content_of(folder / "cache");
  auto const read = cached_reference(folder / "cache", policy, train, held_out);
  CHECK(content_of(folder / "cache") == bytes);
  CHECK(read.model() == made.model());
  CHECK(read.epsilon() == static_cast<double>(std::numeric_limits<float>::epsilon()));
  for (auto const& data : {train, held_out}) {
    auto const a = made.sums(fingerprint(data)), b = read.sums(fingerprint(data));
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      CHECK(a[i].chosen == b[i].chosen);
      CHECK(a[i].rejected == b[i].rejected);
    }
  }
  frozen reference{policy};  // the same model under another type
  CHECK_NOTHROW(static_cast<void>(cached_reference(folder / "cache", reference, train)));
}

TEST_CASE("reference cache: a file for another model or other data is refused, names both, and stays") {
  temporary_folder const folder;
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  auto other = test::random_tabular<float>({.vocabulary = 6}, 2);
  auto const train = test::random_pairs(20, 6, 2), more = test::random_pairs(20, 6, 3);
  static_cast<void>(cached_reference(folder / "cache", policy, train));
  std::string const bytes = content_of(folder / "cache");
  std::string why = message_of<contract_violation>([&] { static_cast<void>(cached_reference(folder / "cache", other, train)); });
  CHECK(why.find(folder / "cache") == 0);
  CHECK(why.find(hexadecimal(model_fingerprint(policy))) != std::string::npos);
  CHECK(why.find(hexadecimal(model_fingerprint(other))) != std::string::npos);
  why = message_of<contract_violation>([&] { static_cast<void>(cached_reference(folder / "cache", policy, train, more)); });
  CHECK(why.find(hexadecimal(fingerprint(train))) != std::string::npos);
  CHECK(why.find(hexadecimal(fingerprint(more))) != std::string::npos);
  CHECK(content_of(folder / "cache") == bytes);
}

TEST_CASE("reference cache: without a path it stays in memory") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  auto const pairs = test::random_pairs(3, 6, 2);
  CHECK(cached_reference("", policy, pairs).sums(fingerprint(pairs)).size() == 3);
}

TEST_CASE("reference cache: a file cut short or damaged anywhere is refused by name") {
  temporary_folder const folder;
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  static_cast<void>(cached_reference(folder / "cache", policy, test::random_pairs(4, 6, 2)));
  std::string const whole = content_of(folder / "cache");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    folder.file("short", whole.substr(0, i));
    CHECK_THROWS_AS(static_cast<void>(reference_cache::load(folder / "short")), data_error);
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    folder.file("damaged", damaged);
    CHECK_THROWS_AS(static_cast<void>(reference_cache::load(folder / "damaged")), data_error);
  }
  folder.file("long", whole + "x");
  CHECK_THROWS_AS(static_cast<void>(reference_cache::load(folder / "long")), data_error);
  CHECK_THROWS_AS(static_cast<void>(reference_cache::load(folder / "absent")), data_error);
}

TEST_CASE("reference cache: a pair whose log-probability is not finite is named") {
  auto policy = test::random_tabular<float>({.vocabulary = 6}, 1);
  policy.row(2)[3] = -INFINITY;
  test::pair_list const pairs{{{{0}, {1}, {2}}, {{2}, {3}, {1}}}};
  CHECK_THROWS_WITH_AS(static_cast<void>(cached_reference("", policy, pairs)),
                       "reference: the log-probabilities of pair 1 are not finite", nonfinite_error);
}
