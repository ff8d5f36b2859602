// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

namespace attune {

/// A 64-bit checksum of a stream of bytes: XXH64 (Collet 2014, xxHash specification 0.1.1), seed 0 by default.
///
/// Feed it in pieces of any size; value() may be asked at any time and does not end the stream. The result depends on
/// the bytes alone, not on how they were cut. It finds accidents (a flipped bit, a short file), not adversaries.
/// Allocates nothing.
class checksum64 {
 public:
  constexpr explicit checksum64(std::uint64_t seed = 0) noexcept
      : lanes_{seed + prime1 + prime2, seed + prime2, seed, seed - prime1}, seed_(seed) {}

  checksum64& update(std::span<std::byte const> bytes) noexcept {
    std::byte const* p = bytes.data();
    std::size_t left = bytes.size();
    total_ += left;
    if (left == 0) return *this;
    if (held_ + left < block) {
      std::memcpy(buffer_.data() + held_, p, left);
      held_ += left;
      return *this;
    }
    if (held_ > 0) {
      std::size_t const fill = block - held_;
      std::memcpy(buffer_.data() + held_, p, fill);
      absorb(buffer_.data());
      p += fill;
      left -= fill;
      held_ = 0;
    }
    for (; left >= block; left -= block, p += block) absorb(p);
    if (left > 0) std::memcpy(buffer_.data(), p, left);
    held_ = left;
    return *this;
  }

  checksum64& update(std::string_view text) noexcept {
    return update(std::as_bytes(std::span(text.data(), text.size())));
  }

  /// The bytes of a number as it lies in memory of a little-endian machine.
  template <class Number>
  requires(std::is_arithmetic_v<Number> && sizeof(Number) <= 8) checksum64& update_number(Number number) noexcept {
    std::array<std::byte, sizeof(Number)> bytes;
    std::memcpy(bytes.data(), &number, sizeof(Number));
    if constexpr (std::endian::native == std::endian::big)
      for (std::size_t i = 0; i < sizeof(Number) / 2; ++i) std::swap(bytes[i], bytes[sizeof(Number) - 1 - i]);
    return update(bytes);
  }

  [[nodiscard]] std::uint64_t value() const noexcept {
    std::uint64_t h = seed_ + prime5;
    if (total_ >= block) {
      h = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
      for (std::uint64_t const lane : lanes_) h = (h ^ mixed(0, lane)) * prime1 + prime4;
    }
    h += total_;
    std::byte const* p = buffer_.data();
    std::size_t left = held_;
    for (; left >= 8; left -= 8, p += 8) h = std::rotl(h ^ mixed(0, word(p, 8)), 27) * prime1 + prime4;
    if (left >= 4) {
      h = std::rotl(h ^ (word(p, 4) * prime1), 23) * prime2 + prime3;
      left -= 4;
      p += 4;
    }
    for (; left > 0; --left, ++p) h = std::rotl(h ^ (word(p, 1) * prime5), 11) * prime1;
    h = (h ^ (h >> 33)) * prime2;
    h = (h ^ (h >> 29)) * prime3;
    return h ^ (h >> 32);
  }

 private:
  static constexpr std::uint64_t prime1 = 0x9E3779B185EBCA87, prime2 = 0xC2B2AE3D27D4EB4F, prime3 = 0x165667B19E3779F9,
                                 prime4 = 0x85EBCA77C2B2AE63, prime5 = 0x27D4EB2F165667C5;
  static constexpr std::size_t block = 32;

  static constexpr std::uint64_t mixed(std::uint64_t lane, std::uint64_t input) noexcept {
    return std::rotl(lane + input * prime2, 31) * prime1;
  }

  static std::uint64_t word(std::byte const* p, std::size_t bytes) noexcept {
    if constexpr (std::endian::native == std::endian::little) {
      std::uint64_t w = 0;
      std::memcpy(&w, p, bytes);
      return w;
    } else {
      std::uint64_t w = 0;
      for (std::size_t i = 0; i < bytes; ++i) w |= std::to_integer<std::uint64_t>(p[i]) << (8 * i);
      return w;
    }
  }

  void absorb(std::byte const* p) noexcept {
    for (std::size_t i = 0; i < 4; ++i) lanes_[i] = mixed(lanes_[i], word(p + 8 * i, 8));
  }

  std::array<std::uint64_t, 4> lanes_;
  std::uint64_t seed_;
  std::uint64_t total_ = 0;
  std::array<std::byte, block> buffer_{};
  std::size_t held_ = 0;
};

/// The checksum of one piece.
[[nodiscard]] inline std::uint64_t checksum(std::span<std::byte const> bytes) noexcept {
  return checksum64().update(bytes).value();
}

}  // namespace attune
