// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <attune/core/contract.hpp>
#include <attune/core/file_descriptor.hpp>
#include <attune/io/json_reader.hpp>
#include <attune/io/tensor_type.hpp>

namespace attune {

/// One tensor of a file: what it is and where it lies.
struct safetensors_entry {
  std::string name;
  tensor_type type{};
  std::vector<std::size_t> shape;  ///< C order; empty for a single number
  std::uint64_t begin = 0;         ///< in bytes, from the start of the buffer
  std::uint64_t end = 0;

  std::uint64_t bytes() const noexcept { return end - begin; }
};

/// What a reader accepts at most; a file beyond it is refused before memory is taken.
struct safetensors_limits {
  std::uint64_t max_header_bytes = 100'000'000;  ///< the format's own limit; >= 2
  std::size_t max_tensors = 1'000'000;           ///< >= 0
  std::size_t max_rank = 8;                      ///< dimensions of a tensor; >= 0
  std::size_t max_name_bytes = 4096;             ///< >= 1
};

inline void validate(safetensors_limits const& o) {
  expects(o.max_header_bytes >= 2, "safetensors_limits.max_header_bytes >= 2", o.max_header_bytes);
  expects(o.max_name_bytes >= 1, "safetensors_limits.max_name_bytes >= 1", o.max_name_bytes);
}

/// "[2, 3]"
[[nodiscard]] inline std::string shape_text(std::span<std::size_t const> shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

/// A safetensors file, opened and checked. Files come from strangers: everything the header claims is verified against
/// the file before any tensor is read, and tensors are read by position, never through a mapping, so a file that
/// shrinks meanwhile is an error and not a signal. Refused, each by name: a header that is too short, too long or not
/// strict JSON (see json_reader); anything after it but spaces; a tensor with a field missing or too many; an unknown
/// type; a shape or offset that is not a plain non-negative integer; sizes that overflow, do not agree with the
/// offsets, leave holes, overlap, or do not cover the buffer; metadata that are not strings; empty names, and NUL in
/// them. Values are not judged: NaN is legal. Errors are data_error "path: ...".
class safetensors_reader {
 public:
  explicit safetensors_reader(std::string path, safetensors_limits limits = {})
      : path_(std::move(path)), limits_(limits) {
    validate(limits_);
    file_ = file_descriptor(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file_.is_open()) throw system_data_error(path_, "cannot open");
    struct stat status {};
    if (::fstat(file_.get(), &status) != 0) throw system_data_error(path_, "cannot stat");
    if (!S_ISREG(status.st_mode)) refuse("expected a regular file");
    std::uint64_t const file_bytes = static_cast<std::uint64_t>(status.st_size);
    if (file_bytes < 8) refuse("a file of less than 8 bytes is no safetensors file");
    std::uint64_t header_bytes = 0;
    read_at(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
    if (header_bytes < 2) refuse("a header of less than 2 bytes");
    if (header_bytes > limits_.max_header_bytes)
      refuse("a header of " + std::to_string(header_bytes) + " bytes, more than the limit");
    if (header_bytes > file_bytes - 8) refuse("the header is longer than the file");
    std::string header(static_cast<std::size_t>(header_bytes), '\0');
    read_at(8, std::as_writable_bytes(std::span(header.data(), header.size())));
    buffer_begin_ = 8 + header_bytes;
    parse(header);
    check_layout(file_bytes - buffer_begin_);
  }

  /// In the order of the header.
  std::vector<safetensors_entry> const& tensors() const noexcept { return tensors_; }
  std::map<std::string, std::string> const& metadata() const noexcept { return metadata_; }
  std::string const& path() const noexcept { return path_; }

  /// The tensor of that name, or nullptr.
  safetensors_entry const* find(std::string_view name) const noexcept {
    auto const at = by_name_.find(name);
    return at == by_name_.end() ? nullptr : &tensors_[at->second];
  }

  /// Reads a whole tensor. Expects out.size() == entry.bytes().
  void read(safetensors_entry const& entry, std::span<std::byte> out) const {
    expects(out.size() == entry.bytes(), "safetensors_reader::read: out.size() == entry.bytes()", out.size());
    read_at(buffer_begin_ + entry.begin, out);
  }

 private:
  [[noreturn]] void refuse(std::string const& reason) const { throw data_error(path_ + ": " + reason); }
  [[noreturn]] void refuse(safetensors_entry const& entry, std::string const& reason) const {
    refuse("tensor \"" + entry.name + "\": " + reason);
  }

  void read_at(std::uint64_t position, std::span<std::byte> out) const {
    while (!out.empty()) {
      ::ssize_t const got = ::pread(file_.get(), out.data(), out.size(), static_cast<::off_t>(position));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw system_data_error(path_, "cannot read");
      if (got == 0) refuse("the file became shorter while it was read");
      out = out.subspan(static_cast<std::size_t>(got));
      position += static_cast<std::uint64_t>(got);
    }
  }

  void parse(std::string const& header) {
    if (header.front() != '{') refuse("the header does not begin with '{'");
    std::size_t const last = header.find_last_not_of(' ');
    if (header[last] != '}') refuse("the header does not end with '}' and spaces");
    json_reader reader(header, path_, 3);
    reader.enter_object();
    std::string key;
    while (reader.next_member(key)) {
      if (key == "__metadata__")
        parse_metadata(reader);
      else
        parse_tensor(reader, key);
    }
    reader.finish();
    for (std::size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
  }

  void parse_metadata(json_reader& reader) {
    std::string key;
    reader.enter_object();
    while (reader.next_member(key)) {
      if (!reader.peek_is(json_kind::string)) refuse("metadata \"" + key + "\": expected a string");
      metadata_.emplace(key, reader.read_string());
    }
  }

  void parse_tensor(json_reader& reader, std::string const& name) {
    if (tensors_.size() == limits_.max_tensors) refuse("more than " + std::to_string(limits_.max_tensors) + " tensors");
    if (name.empty()) refuse("a tensor without a name");
    if (name.size() > limits_.max_name_bytes) refuse("a tensor name of " + std::to_string(name.size()) + " bytes");
    if (name.find('\0') != std::string::npos) refuse("a tensor name with a NUL in it");
    safetensors_entry entry;
    entry.name = name;
    if (!reader.peek_is(json_kind::object)) refuse(entry, "expected an object");
    bool has_type = false;
    bool has_shape = false;
    bool has_offsets = false;
    std::string field;
    reader.enter_object();
    while (reader.next_member(field)) {
      if (field == "dtype") {
        if (!reader.peek_is(json_kind::string)) refuse(entry, "dtype: expected a string");
        std::string const type = reader.read_string();
        auto const known = tensor_type_named(type);
        if (!known) refuse(entry, "unknown dtype \"" + type + "\"");
        entry.type = *known;
        has_type = true;
      } else if (field == "shape") {
        for (std::uint64_t const extent : integers(reader, entry, "shape", limits_.max_rank))
          entry.shape.push_back(static_cast<std::size_t>(extent));
        has_shape = true;
      } else if (field == "data_offsets") {
        auto const offsets = integers(reader, entry, "data_offsets", 2);
        if (offsets.size() != 2) refuse(entry, "data_offsets: expected two numbers");
        entry.begin = offsets[0];
        entry.end = offsets[1];
        has_offsets = true;
      } else {
        refuse(entry, "unknown field \"" + field + "\"");
      }
    }
    if (!has_type) refuse(entry, "no dtype");
    if (!has_shape) refuse(entry, "no shape");
    if (!has_offsets) refuse(entry, "no data_offsets");
    tensors_.push_back(std::move(entry));
  }

  std::vector<std::uint64_t> integers(json_reader& reader, safetensors_entry const& entry, std::string const& field,
                                      std::size_t limit) {
    if (!reader.peek_is(json_kind::array)) refuse(entry, field + ": expected an array");
    std::vector<std::uint64_t> out;
    reader.enter_array();
    while (reader.next_element()) {
      if (out.size() == limit) refuse(entry, field + ": more than " + std::to_string(limit) + " numbers");
      if (!reader.peek_is(json_kind::number)) refuse(entry, field + ": expected numbers");
      std::string_view const number = reader.read_number();
      std::uint64_t value = 0;
      auto const [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
      if (error != std::errc{} || end != number.data() + number.size())
        refuse(entry, field + ": expected a non-negative 64-bit integer, got " + std::string(number));
      out.push_back(value);
    }
    return out;
  }

  /// Sizes first, shortcuts never: a tensor of no elements is held to its offsets like any other.
  void check_layout(std::uint64_t buffer_bytes) const {
    constexpr std::uint64_t most = (std::numeric_limits<std::uint64_t>::max)();
    std::vector<safetensors_entry const*> in_order;
    in_order.reserve(tensors_.size());
    for (safetensors_entry const& entry : tensors_) {
      std::uint64_t bits = entry.type.bits;
      for (std::size_t const extent : entry.shape) {
        if (extent != 0 && bits > most / extent) refuse(entry, "its size overflows, shape " + shape_text(entry.shape));
        bits *= extent;
      }
      if (bits % 8 != 0) refuse(entry, "its size is not a whole number of bytes");
      if (entry.begin > entry.end) refuse(entry, "data_offsets: the end comes before the beginning");
      if (entry.end > buffer_bytes) refuse(entry, "data_offsets: the end lies beyond the file");
      if (entry.bytes() != bits / 8)
        refuse(entry, "shape " + shape_text(entry.shape) + " needs " + std::to_string(bits / 8) +
                          " bytes, data_offsets give " + std::to_string(entry.bytes()));
      in_order.push_back(&entry);
    }
    std::sort(in_order.begin(), in_order.end(), [](safetensors_entry const* a, safetensors_entry const* b) {
      return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
    });
    std::uint64_t covered = 0;
    for (safetensors_entry const* entry : in_order) {
      if (entry->begin != covered)
        refuse(*entry, entry->begin < covered ? "it overlaps another tensor" : "a hole lies before it");
      covered = entry->end;
    }
    if (covered != buffer_bytes) refuse(std::to_string(buffer_bytes - covered) + " bytes follow the last tensor");
  }

  std::string path_;
  safetensors_limits limits_;
  file_descriptor file_;
  std::uint64_t buffer_begin_ = 0;
  std::vector<safetensors_entry> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace attune
