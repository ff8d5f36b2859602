// SPDX-License-Identifier: MIT
#include <attune/core/random.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

using namespace attune;

TEST_CASE("philox: gives the known answers of the Random123 distribution") {
  using words4 = std::array<std::uint32_t, 4>;
  static_assert(philox({0, 0, 0, 0}, {0, 0}) == words4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        words4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        words4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("random_stream: number i is a pure function of seed, stream and i, all 64 bits of each") {
  random_stream whole(11, 22);
  std::vector<std::uint64_t> numbers;
  for (int i = 0; i < 10; ++i) numbers.push_back(whole());
  CHECK(whole.position() == 10);
  random_stream middle(11, 22, 4);
  CHECK(middle() == numbers[4]);
  CHECK(middle() == numbers[5]);
  std::uint64_t const high = std::uint64_t{1} << 32;
  std::set<std::uint64_t> const first{random_stream(11, 22)(),        random_stream(12, 22)(),
                                      random_stream(11, 23)(),        random_stream(11 + high, 22)(),
                                      random_stream(11, 22 + high)(), random_stream(11, 22, high)(),
                                      random_stream(11, 22, 1)()};
  CHECK(first.size() == 7);
  auto const block = philox({4, 0, 22, 0}, {11, 0});
  CHECK(numbers[4] == ((std::uint64_t{block[1]} << 32) | block[0]));
}

TEST_CASE("random_stream: uniform lies in [0, 1), with mean 1/2 and variance 1/12") {
  random_stream stream(1);
  double sum = 0, square = 0, lowest = 1, highest = 0;
  int const n = 200000;
  for (int i = 0; i < n; ++i) {
    double const u = stream.uniform();
    lowest = std::min(lowest, u);
    highest = std::max(highest, u);
    sum += u;
    square += (u - 0.5) * (u - 0.5);
  }
  CHECK(lowest >= 0.0);
  CHECK(lowest < 1e-3);
  CHECK(highest < 1.0);
  CHECK(highest > 1 - 1e-3);
  CHECK(std::abs(sum / n - 0.5) < 5 * std::sqrt(1.0 / 12 / n));
  CHECK(square / n == doctest::Approx(1.0 / 12).epsilon(0.01));
}

TEST_CASE("random_stream: below gives every value equally often, and only those") {
  random_stream stream(2);
  int const n = 70000;
  std::vector<int> seen(7);
  for (int i = 0; i < n; ++i) {
    auto const k = stream.below(7);
    REQUIRE(k < 7);
    ++seen[k];
  }
  double chi_square = 0;
  for (int const count : seen) chi_square += (count - n / 7.0) * (count - n / 7.0) / (n / 7.0);
  CHECK(chi_square < 22.5);  // 6 degrees of freedom, p = 0.001
  CHECK(random_stream(3).below(1) == 0);
  // 2^64 = n + 2^62: a remainder alone would give the lowest 2^62 values half of all draws instead of a third.
  std::uint64_t const huge = std::uint64_t{3} << 62;
  int low = 0;
  for (int i = 0; i < 6000; ++i) {
    auto const k = stream.below(huge);
    REQUIRE(k < huge);
    low += k < std::uint64_t{1} << 62 ? 1 : 0;
  }
  CHECK(std::abs(low - 2000) < 200);
}

TEST_CASE("random_stream: normal has mean 0, variance 1 and the tails of a normal") {
  random_stream stream(4);
  int const n = 100000;
  double sum = 0, square = 0;
  int beyond_two = 0;
  for (int i = 0; i < n; ++i) {
    double const x = stream.normal();
    REQUIRE(std::isfinite(x));
    sum += x;
    square += x * x;
    beyond_two += std::abs(x) > 2 ? 1 : 0;
  }
  CHECK(std::abs(sum / n) < 5 / std::sqrt(n));
  CHECK(square / n == doctest::Approx(1.0).epsilon(0.03));
  CHECK(beyond_two / static_cast<double>(n) == doctest::Approx(0.0455).epsilon(0.1));
}

TEST_CASE("shuffle: is a permutation that depends on the stream alone, and every one is as likely") {
  std::vector<int> items(100);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = static_cast<int>(i);
  auto a = items, b = items, c = items;
  shuffle(a, random_stream(1, 2));
  shuffle(b, random_stream(1, 2));
  shuffle(c, random_stream(1, 3));
  CHECK(a == b);
  CHECK(a != c);
  CHECK(a != items);
  CHECK(std::is_permutation(a.begin(), a.end(), items.begin()));
  std::vector<int> seen(6);
  for (std::uint64_t i = 0; i < 6000; ++i) {
    std::vector<int> three{0, 1, 2};
    shuffle(three, random_stream(9, i));
    ++seen[static_cast<std::size_t>(three[0] * 2 + (three[1] > three[2] ? 1 : 0))];
  }
  double chi_square = 0;
  for (int const count : seen) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  CHECK(chi_square < 20.5);  // 5 degrees of freedom, p = 0.001
}

TEST_CASE("random_stream: serves the standard library's distributions") {
  static_assert(std::uniform_random_bit_generator<random_stream>);
  random_stream stream(5);
  std::uniform_int_distribution<int> die(1, 6);
  int const x = die(stream);
  CHECK(x >= 1);
  CHECK(x <= 6);
}
