// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

namespace attune {

/// Memory that starts on a cache line and keeps its capacity: grown once, reused step after step.
/// Elements are zero when first made; resize within capacity leaves them as they are.
template <class T>
  requires std::is_trivially_copyable_v<T>
class aligned_buffer {
 public:
  static constexpr std::size_t alignment = 64;

  aligned_buffer() = default;
  explicit aligned_buffer(std::size_t size) { resize(size); }
  aligned_buffer(aligned_buffer const& other) {
    resize(other.size_);
    std::copy_n(other.data_, other.size_, data_);
  }
  aligned_buffer(aligned_buffer&& other) noexcept { swap(other); }
  aligned_buffer& operator=(aligned_buffer other) noexcept {
    swap(other);
    return *this;
  }
  ~aligned_buffer() { release(); }

  /// Makes size() == size. Contents are kept only if the capacity sufficed; otherwise all elements are zero.
  void resize(std::size_t size) {
    if (size > capacity_) {
      T* const fresh = static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t{alignment}));
      release();
      data_ = fresh;
      capacity_ = size;
      std::fill_n(data_, size, T{});
    }
    size_ = size;
  }

  T* data() noexcept { return data_; }
  T const* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  std::span<T> span() noexcept { return {data_, size_}; }
  std::span<T const> span() const noexcept { return {data_, size_}; }
  T& operator[](std::size_t i) noexcept { return data_[i]; }
  T const& operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  void release() noexcept {
    if (data_ != nullptr) ::operator delete(data_, std::align_val_t{alignment});
    data_ = nullptr;
    capacity_ = 0;
  }
  void swap(aligned_buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace attune
