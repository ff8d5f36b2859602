// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <string>
#include <system_error>

#include <unistd.h>

#include <attune/core/contract.hpp>

namespace attune {

/// "path: what: the system's words" for the errno of the call that just failed.
[[nodiscard]] inline data_error system_data_error(std::string const& path, std::string const& what, int error = errno) {
  return data_error(path + ": " + what + ": " + std::generic_category().message(error));
}

/// An owned file descriptor.
class file_descriptor {
 public:
  explicit file_descriptor(int descriptor = -1) noexcept : descriptor_(descriptor) {}
  file_descriptor(file_descriptor&& other) noexcept : descriptor_(other.release()) {}
  file_descriptor& operator=(file_descriptor&& other) noexcept {
    if (this != &other) {
      close();
      descriptor_ = other.release();
    }
    return *this;
  }
  ~file_descriptor() { close(); }

  int get() const noexcept { return descriptor_; }
  bool is_open() const noexcept { return descriptor_ >= 0; }
  int release() noexcept {
    int const d = descriptor_;
    descriptor_ = -1;
    return d;
  }

  /// False, with errno set, if the system refuses.
  bool close() noexcept { return descriptor_ < 0 || ::close(release()) == 0; }

 private:
  int descriptor_;
};

}  // namespace attune
