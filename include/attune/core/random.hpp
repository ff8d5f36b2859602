// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>

#include <attune/core/host_device.hpp>

/// Counter-based random numbers: number i of stream s under seed k is a pure function of (k, s, i). Nothing is
/// global, any number can be had without those before it, and a generator's whole state is one integer, so a
/// checkpoint restores it exactly and a sequence's sample does not depend on the batch it was drawn in.
/// Philox4x32-10: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
namespace attune {

[[nodiscard]] ATTUNE_HOST_DEVICE constexpr std::array<std::uint32_t, 4> philox(
    std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) noexcept {
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const a = std::uint64_t{0xD2511F53} * counter[0];
    std::uint64_t const b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

/// A position in one stream. Satisfies std::uniform_random_bit_generator; prefer the members below, whose results are
/// the same with every standard library.
class random_stream {
 public:
  using result_type = std::uint64_t;

  constexpr explicit random_stream(std::uint64_t seed, std::uint64_t stream = 0, std::uint64_t position = 0) noexcept
      : seed_(seed), stream_(stream), position_(position) {}

  static constexpr result_type(min)() noexcept { return 0; }
  static constexpr result_type(max)() noexcept { return ~result_type{0}; }

  constexpr result_type operator()() noexcept {
    auto const low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    auto const high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
    auto const block =
        philox({low(position_), high(position_), low(stream_), high(stream_)}, {low(seed_), high(seed_)});
    ++position_;
    return (std::uint64_t{block[1]} << 32) | block[0];
  }

  /// Uniform in [0, 1), 53 bits.
  constexpr double uniform() noexcept { return static_cast<double>((*this)() >> 11) * 0x1p-53; }

  /// Uniform in {0, ..., n - 1}, n >= 1, without bias (rejection).
  constexpr std::uint64_t below(std::uint64_t n) noexcept {
    std::uint64_t const excess = (0 - n) % n;  // 2^64 mod n
    std::uint64_t bits = (*this)();
    while (bits < excess) bits = (*this)();
    return bits % n;
  }

  /// Standard normal, Box-Muller; takes two numbers of the stream.
  double normal() noexcept {
    double const u = 1.0 - uniform();  // (0, 1]
    double const angle = 2.0 * std::numbers::pi * uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(angle);
  }

  constexpr std::uint64_t position() const noexcept { return position_; }

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t position_;
};

/// Fisher-Yates with the stream's numbers; the order depends on nothing else.
template <class RandomAccess>
void shuffle(RandomAccess& items, random_stream stream) {
  for (std::size_t i = items.size(); i > 1; --i) {
    std::size_t const j = static_cast<std::size_t>(stream.below(i));
    auto const keep = items[i - 1];
    items[i - 1] = items[j];
    items[j] = keep;
  }
}

}  // namespace attune
