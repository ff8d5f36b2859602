// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <attune/core/checksum.hpp>
#include <attune/core/file_descriptor.hpp>
#include <attune/core/function_ref.hpp>

/// Files that are there whole or not at all.
///
/// A file is written under another name in the same folder, forced to the disk, and only then renamed to its own name,
/// so that a crash at any instant leaves the old content or the new one. A process that has the old file mapped keeps
/// the old bytes. POSIX.
namespace attune {

/// Buffered bytes into a file, with a running checksum. Every failure is a data_error that names the path.
class file_writer {
 public:
  file_writer(int descriptor, std::string const& path) : descriptor_(descriptor), path_(path) {
    buffer_.reserve(capacity);
  }
  file_writer(file_writer const&) = delete;
  file_writer& operator=(file_writer const&) = delete;

  void write(std::span<std::byte const> bytes) {
    if (bytes.empty()) return;
    checksum_.update(bytes);
    position_ += bytes.size();
    if (buffer_.size() + bytes.size() > capacity) flush();
    if (bytes.size() >= capacity)
      write_through(bytes);
    else
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }

  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// The object representation of a trivially copyable value (native byte order).
  template <class Value>
  requires(std::is_trivially_copyable_v<Value> && !std::is_pointer_v<Value> &&
           !std::is_convertible_v<Value const&, std::string_view> &&
           !std::is_convertible_v<Value const&, std::span<std::byte const>>) void write_value(Value const& value) {
    write(std::as_bytes(std::span(&value, std::size_t{1})));
  }

  /// Bytes written so far.
  std::uint64_t position() const noexcept { return position_; }

  /// checksum64 of the bytes written so far.
  std::uint64_t checksum() const noexcept { return checksum_.value(); }

  void flush() {
    write_through(buffer_);
    buffer_.clear();
  }

 private:
  static constexpr std::size_t capacity = std::size_t{1} << 16;

  void write_through(std::span<std::byte const> bytes) {
    while (!bytes.empty()) {
      ::ssize_t const done = ::write(descriptor_, bytes.data(), bytes.size());
      if (done < 0) {
        if (errno == EINTR) continue;
        throw system_data_error(path_, "cannot write");
      }
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
  }

  int descriptor_;
  std::string path_;
  std::vector<std::byte> buffer_;
  std::uint64_t position_ = 0;
  checksum64 checksum_;
};

/// Forces a folder's entries (a file made, renamed or removed in it) to the disk.
inline void sync_folder(std::string const& folder) {
  file_descriptor const directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.is_open()) throw system_data_error(folder, "cannot open the folder");
  // EINVAL: the file system has no such operation; then there is nothing to wait for.
  if (::fsync(directory.get()) != 0 && errno != EINVAL)
    throw system_data_error(folder, "written, but perhaps not durable: cannot sync the folder");
}

/// The folder part of a path, "." if there is none.
[[nodiscard]] inline std::string folder_of(std::string const& path) {
  std::size_t const slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// Replaces the file at `path` by what `fill` writes, or leaves it exactly as it was.
///
/// The bytes go to "<path>.partial", which is locked against other writers of the same file, forced to the disk and
/// renamed; then the folder is forced to the disk. A `.partial` file left by a killed process is overwritten by the
/// next write. If `fill` throws, or the disk is full, the partial file is removed and the exception goes on. A symbolic
/// link at `path` is replaced, not followed. data_error names path and reason; only "perhaps not durable" means that
/// the new file is in place.
inline void write_atomically(std::string const& path, function_ref<void(file_writer&)> fill) {
  std::string const partial = path + ".partial";
  file_descriptor file;
  for (;;) {
    file = file_descriptor(::open(partial.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!file.is_open()) throw system_data_error(partial, "cannot open for writing");
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) throw system_data_error(partial, "another writer is at work");
    // Between open and lock another writer may have renamed this very file to its final name: then it is not ours.
    struct stat locked {};
    struct stat named {};
    if (::fstat(file.get(), &locked) == 0 && ::stat(partial.c_str(), &named) == 0 && locked.st_ino == named.st_ino &&
        locked.st_dev == named.st_dev)
      break;
  }
  try {
    if (::ftruncate(file.get(), 0) != 0) throw system_data_error(partial, "cannot truncate");
    file_writer writer(file.get(), path);
    fill(writer);
    writer.flush();
    if (::fsync(file.get()) != 0) throw system_data_error(path, "cannot force to the disk");
    if (::rename(partial.c_str(), path.c_str()) != 0) throw system_data_error(path, "cannot rename into place");
  } catch (...) {
    ::unlink(partial.c_str());
    throw;
  }
  file.close();
  sync_folder(folder_of(path));
}

}  // namespace attune
