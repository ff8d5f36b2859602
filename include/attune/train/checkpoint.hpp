// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <attune/core/atomic_file.hpp>
#include <attune/core/checksum.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/function_ref.hpp>

/// A training run in one file: everything that the next step depends on, bit for bit.
///
/// Layout, numbers in native byte order (a file from the other one is refused): the magic, a byte-order mark, the three
/// fingerprints, the step, then pieces {name length, name, byte count, bytes} until a piece without a name, then the
/// checksum64 of all before it. The file appears whole or not at all (core/atomic_file.hpp).
namespace attune {

/// What a checkpoint belongs to. A run continues only from a file with the same three.
struct run_identity {
  std::uint64_t model = 0;    ///< names and shapes of the parameters
  std::uint64_t data = 0;     ///< every row of the training data
  std::uint64_t options = 0;  ///< stage, loop, objective, optimiser, reference
};

using state_visitor = function_ref<void(std::string_view, std::span<std::byte>)>;

/// Calls its argument for every piece of a run's state, in a fixed order, names and sizes fixed; the spans are the
/// state's own memory.
using visit_run_state = function_ref<void(state_visitor)>;

inline constexpr std::string_view checkpoint_magic = "attune checkpoint 1\n";
inline constexpr std::uint32_t checkpoint_byte_order = 0x01020304;

[[nodiscard]] inline std::string hexadecimal(std::uint64_t number) {
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(number));
  return digits.data();
}

/// Writes the file, or leaves the one that was there. data_error names path and reason.
inline void save_checkpoint(std::string const& path, run_identity const& identity, std::uint64_t step,
                            visit_run_state visit) {
  write_atomically(path, [&](file_writer& out) {
    out.write(checkpoint_magic);
    out.write_value(checkpoint_byte_order);
    out.write_value(identity.model);
    out.write_value(identity.data);
    out.write_value(identity.options);
    out.write_value(step);
    visit([&](std::string_view name, std::span<std::byte> bytes) {
      expects(!name.empty(), "save_checkpoint: every piece of state has a name");
      out.write_value(static_cast<std::uint64_t>(name.size()));
      out.write(name);
      out.write_value(static_cast<std::uint64_t>(bytes.size()));
      out.write(bytes);
    });
    out.write_value(std::uint64_t{0});
    out.write_value(out.checksum());
  });
}

/// Bytes of a file from the front, with a running checksum. Every failure is a data_error "path: byte N: ...".
class checkpoint_reader {
 public:
  explicit checkpoint_reader(std::string const& path)
      : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), buffer_(std::size_t{1} << 16) {
    if (!file_.is_open()) throw system_data_error(path, "cannot open for reading");
    struct stat status {};
    if (::fstat(file_.get(), &status) != 0) throw system_data_error(path, "cannot stat");
    size_ = static_cast<std::uint64_t>(status.st_size);
  }

  void read(std::span<std::byte> out) {
    if (out.size() > left()) fail("the file is cut short: " + std::to_string(out.size()) + " more bytes expected, " +
                                  std::to_string(left()) + " left");
    position_ += out.size();
    for (std::span<std::byte> rest = out; !rest.empty();) {
      if (first_ == last_) refill();
      std::size_t const n = (std::min)(rest.size(), last_ - first_);
      std::memcpy(rest.data(), buffer_.data() + first_, n);
      first_ += n;
      rest = rest.subspan(n);
    }
    checksum_.update(out);
  }

  template <class Number>
  Number number() {
    Number n{};
    read(std::as_writable_bytes(std::span(&n, std::size_t{1})));
    return n;
  }

  std::string text(std::uint64_t length) {
    if (length > left()) fail("the file is cut short or damaged: a name of " + std::to_string(length) + " bytes");
    std::string t(static_cast<std::size_t>(length), '\0');
    read(std::as_writable_bytes(std::span(t.data(), t.size())));
    return t;
  }

  void skip(std::uint64_t bytes) {
    if (bytes > left()) fail("the file is cut short: " + std::to_string(bytes) + " more bytes expected, " +
                             std::to_string(left()) + " left");
    std::array<std::byte, 4096> scrap;
    while (bytes > 0) {
      std::size_t const n = static_cast<std::size_t>((std::min<std::uint64_t>)(bytes, scrap.size()));
      read(std::span(scrap).first(n));
      bytes -= n;
    }
  }

  std::uint64_t left() const noexcept { return size_ - position_; }
  std::uint64_t checksum() const noexcept { return checksum_.value(); }

  [[noreturn]] void fail(std::string const& message) const {
    throw data_error(path_ + ": byte " + std::to_string(position_) + ": " + message);
  }

 private:
  void refill() {
    for (;;) {
      ::ssize_t const n = ::read(file_.get(), buffer_.data(), buffer_.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw system_data_error(path_, "cannot read");
      if (n == 0) fail("the file became shorter while it was read");
      first_ = 0;
      last_ = static_cast<std::size_t>(n);
      return;
    }
  }

  std::string path_;
  file_descriptor file_;
  std::vector<std::byte> buffer_;
  std::size_t first_ = 0, last_ = 0;
  std::uint64_t size_ = 0, position_ = 0;
  checksum64 checksum_;
};

/// Reads a file into the state that `visit` walks over, and returns its step. The whole file is verified first
/// (checksum, fingerprints, name and size of every piece): on any error, a data_error that names path and place, the
/// state is as it was. O(file), two passes, a 64 KiB buffer.
inline std::uint64_t load_checkpoint(std::string const& path, run_identity const& identity, visit_run_state visit) {
  auto const header = [&](checkpoint_reader& in) {
    if (in.left() < checkpoint_magic.size() || in.text(checkpoint_magic.size()) != checkpoint_magic)
      in.fail("not an attune checkpoint (version 1)");
    if (in.number<std::uint32_t>() != checkpoint_byte_order) in.fail("written on a machine of the other byte order");
    run_identity const found{in.number<std::uint64_t>(), in.number<std::uint64_t>(), in.number<std::uint64_t>()};
    auto const compare = [&](char const* what, std::uint64_t theirs, std::uint64_t ours) {
      if (theirs != ours)
        in.fail(std::string("the checkpoint belongs to ") + what + " (its fingerprint " + hexadecimal(theirs) +
                ", this run's " + hexadecimal(ours) + ")");
    };
    compare("a model of another shape", found.model, identity.model);
    compare("other training data", found.data, identity.data);
    compare("a run with other options", found.options, identity.options);
    return in.number<std::uint64_t>();
  };
  auto const piece = [&](checkpoint_reader& in, std::string_view name, std::span<std::byte> bytes) {
    std::string const found = in.text(in.number<std::uint64_t>());
    if (found != name) in.fail("expected the piece \"" + std::string(name) + "\", found \"" + found + "\"");
    std::uint64_t const size = in.number<std::uint64_t>();
    if (size != bytes.size())
      in.fail("the piece \"" + found + "\" has " + std::to_string(size) + " bytes, expected " +
              std::to_string(bytes.size()));
  };
  {
    checkpoint_reader in(path);
    header(in);
    visit([&](std::string_view name, std::span<std::byte> bytes) {
      piece(in, name, bytes);
      in.skip(bytes.size());
    });
    if (in.number<std::uint64_t>() != 0) in.fail("a piece too many");
    std::uint64_t const computed = in.checksum();
    std::uint64_t const stored = in.number<std::uint64_t>();
    if (computed != stored)
      in.fail("damaged: its checksum is " + hexadecimal(computed) + ", the file says " + hexadecimal(stored));
    if (in.left() != 0) in.fail("bytes after the end");
  }
  checkpoint_reader in(path);
  std::uint64_t const step = header(in);
  visit([&](std::string_view name, std::span<std::byte> bytes) {
    piece(in, name, bytes);
    in.read(bytes);
  });
  return step;
}

/// A folder of checkpoints named by their step, "step-00001200.checkpoint"; the last two are kept, so that a file lost
/// to the disk costs one interval, not the run. Other files in the folder are left alone.
class checkpoint_folder {
 public:
  static constexpr std::size_t kept = 2;

  /// Makes the folder (not its parents) if it is not there.
  explicit checkpoint_folder(std::string path) : path_(std::move(path)) {
    if (::mkdir(path_.c_str(), 0777) != 0 && errno != EEXIST) throw system_data_error(path_, "cannot make the folder");
  }

  std::string file(std::uint64_t step) const {
    std::array<char, 48> name{};
    std::snprintf(name.data(), name.size(), "/step-%08llu.checkpoint", static_cast<unsigned long long>(step));
    return path_ + name.data();
  }

  /// Steps of which there is a file, ascending.
  std::vector<std::uint64_t> steps() const {
    std::vector<std::uint64_t> found;
    ::DIR* const directory = ::opendir(path_.c_str());
    if (directory == nullptr) throw system_data_error(path_, "cannot list the folder");
    while (::dirent const* const entry = ::readdir(directory)) {
      unsigned long long step = 0;
      if (std::sscanf(entry->d_name, "step-%llu.checkpoint", &step) == 1 && path_ + "/" + entry->d_name == file(step))
        found.push_back(step);
    }
    ::closedir(directory);
    std::sort(found.begin(), found.end());
    return found;
  }

  /// Saves, then prunes.
  void save(run_identity const& identity, std::uint64_t step, visit_run_state visit) const {
    save_checkpoint(file(step), identity, step, visit);
    prune();
  }

  /// Removes all but the last two. Whoever resumes calls it too: a process killed between the two halves of save leaves
  /// one too many.
  void prune() const {
    std::vector<std::uint64_t> const all = steps();
    for (std::size_t i = 0; i + kept < all.size(); ++i) ::unlink(file(all[i]).c_str());
  }

  std::string const& path() const noexcept { return path_; }

 private:
  std::string path_;
};

}  // namespace attune
