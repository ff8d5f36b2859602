// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <attune/core/file_descriptor.hpp>

namespace attune {

/// A file's bytes, read-only, paged in by the system as they are touched and dropped again when memory is short. The
/// bytes stay those of the file that was opened when write_atomically replaces it; a program that overwrites or cuts a
/// mapped file in place breaks its readers. POSIX.
class mapped_file {
 public:
  /// Throws data_error, naming the path, if the file is not a regular file or cannot be mapped.
  explicit mapped_file(std::string const& path) {
    file_descriptor const file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.is_open()) throw system_data_error(path, "cannot open");
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) throw system_data_error(path, "cannot stat");
    if (!S_ISREG(status.st_mode)) throw data_error(path + ": expected a regular file");
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) return;
    void* const address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (address == MAP_FAILED) throw system_data_error(path, "cannot map");
    address_ = address;
    struct stat again {};
    if (::fstat(file.get(), &again) != 0 || again.st_size != status.st_size) {
      ::munmap(std::exchange(address_, nullptr), size_);
      throw data_error(path + ": its size changed while it was opened");
    }
  }

  mapped_file(mapped_file&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~mapped_file() {
    if (address_ != nullptr) ::munmap(address_, size_);
  }

  std::span<std::byte const> bytes() const noexcept { return {static_cast<std::byte const*>(address_), size_}; }

 private:
  void* address_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace attune
