// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <attune/core/contract.hpp>

namespace attune::cuda {

/// Arrays one after the other in memory of the caller's, each at a multiple of 16 bytes. Says nothing to a device: the
/// addresses are counted, not read.
class workspace_cursor {
 public:
  /// Refuses memory that does not begin at a multiple of 16 bytes.
  explicit workspace_cursor(std::span<std::byte> memory) : rest_(memory) {
    expects(reinterpret_cast<std::uintptr_t>(memory.data()) % alignment == 0,
            "cuda: a workspace at a multiple of 16 bytes");
  }

  /// What `count` elements take.
  template <class T>
  [[nodiscard]] static constexpr std::size_t bytes(std::size_t count) noexcept {
    return (count * sizeof(T) + alignment - 1) / alignment * alignment;
  }

  /// The next `count` elements, uninitialised. Refuses if the memory does not have them, and tells what is left of it.
  template <class T>
  [[nodiscard]] std::span<T> take(std::size_t count) {
    std::size_t const size = bytes<T>(count);
    expects(size <= rest_.size(), "cuda: workspace.size() as the operation's workspace_bytes says; left of it",
            rest_.size());
    std::span<T> const taken(reinterpret_cast<T*>(rest_.data()), count);
    rest_ = rest_.subspan(size);
    return taken;
  }

  /// All that was not taken.
  [[nodiscard]] std::span<std::byte> rest() const noexcept { return rest_; }

 private:
  static constexpr std::size_t alignment = 16;

  std::span<std::byte> rest_;
};

}  // namespace attune::cuda
