// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstddef>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <attune/core/contract.hpp>
#include <attune/core/file_descriptor.hpp>

namespace attune {

struct line_options {
  std::size_t max_line_bytes = std::size_t{64} << 20;  ///< a longer line is an error; >= 1
};

inline void validate(line_options const& o) {
  expects(o.max_line_bytes >= 1, "line_options.max_line_bytes >= 1", o.max_line_bytes);
}

/// The lines of a text file, plain or gzip (told by its first two bytes, not by its name), one at a time: memory is one
/// line and two buffers, whatever the size of the file. Several gzip members in a row count as one text. "\n" and
/// "\r\n" both end a line; the last line needs no end. Every error is a data_error "path:line: reason": a file that
/// cannot be read, a gzip stream that is cut short or damaged (its checksum is verified), a line beyond the limit.
class line_reader {
 public:
  explicit line_reader(std::string path, line_options options = {}) : path_(std::move(path)), options_(options) {
    validate(options_);
    file_ = file_descriptor(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file_.is_open()) throw system_data_error(path_, "cannot open");
    input_.resize(buffer_size);
    // A pipe may give one byte at first: two are needed to tell.
    while (!input_ended_ && input_end_ < 2) read_some();
    if (input_end_ >= 2 && input_[0] == 0x1F && input_[1] == 0x8B) {
      inflater_ = std::make_unique<inflater>();
      inflated_.resize(buffer_size);
    }
  }

  /// The next line, without its end. The view holds until the next call. False at the end of the file.
  bool next(std::string_view& line) {
    carry_.clear();
    ++line_;
    for (;;) {
      if (begin_ == text_.size()) {
        text_ = more();
        begin_ = 0;
        if (text_.empty()) {
          if (carry_.empty()) return --line_, false;
          break;
        }
      }
      std::size_t const end = text_.find('\n', begin_);
      std::string_view const piece = text_.substr(begin_, end == std::string_view::npos ? end : end - begin_);
      if (carry_.size() + piece.size() > options_.max_line_bytes)
        throw data_error(path_, line_, "a line longer than " + std::to_string(options_.max_line_bytes) + " bytes");
      if (end != std::string_view::npos) {
        begin_ = end + 1;
        if (carry_.empty()) return line = without_return(piece), true;
        carry_ += piece;
        break;
      }
      begin_ = text_.size();
      carry_ += piece;
    }
    line = without_return(carry_);
    return true;
  }

  /// Number of the line that next() gave last, from 1; 0 before the first.
  std::size_t line_number() const noexcept { return line_; }
  std::string const& path() const noexcept { return path_; }

 private:
  static constexpr std::size_t buffer_size = std::size_t{1} << 16;

  /// zlib's state, which must not move.
  struct inflater {
    inflater() {
      if (::inflateInit2(&stream, 15 + 16) != Z_OK) throw std::bad_alloc();  // 15 + 16: gzip only
    }
    inflater(inflater const&) = delete;
    inflater& operator=(inflater const&) = delete;
    ~inflater() { ::inflateEnd(&stream); }
    ::z_stream stream{};
    bool member_ended = false;
  };

  static std::string_view without_return(std::string_view line) noexcept {
    return line.ends_with('\r') ? line.substr(0, line.size() - 1) : line;
  }

  void read_some() {
    for (;;) {
      ::ssize_t const got = ::read(file_.get(), input_.data() + input_end_, input_.size() - input_end_);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw system_data_error(path_ + ":" + std::to_string(line_), "cannot read");
      input_ended_ = got == 0;
      input_end_ += static_cast<std::size_t>(got);
      return;
    }
  }

  /// Raw bytes not handed out yet; refilled when there are none. Empty at the end of the file.
  bool have_input() {
    if (input_begin_ < input_end_) return true;
    input_begin_ = input_end_ = 0;
    if (!input_ended_) read_some();
    return input_end_ > 0;
  }

  /// The next piece of text; empty at the end.
  std::string_view more() {
    if (!inflater_) {
      if (!have_input()) return {};
      std::string_view const all(reinterpret_cast<char const*>(input_.data()) + input_begin_,
                                 input_end_ - input_begin_);
      input_begin_ = input_end_;
      return all;
    }
    ::z_stream& z = inflater_->stream;
    for (;;) {
      bool const fed = have_input();
      if (!fed && inflater_->member_ended) return {};
      if (inflater_->member_ended) {
        // Another member, or the zeros that pad an archive to whole blocks.
        if (input_[input_begin_] == 0) {
          ++input_begin_;
          padded_ = true;
          continue;
        }
        if (padded_) throw data_error(path_, line_, "something follows the end of the gzip stream");
        ::inflateReset(&z);
        inflater_->member_ended = false;
      }
      z.next_in = input_.data() + input_begin_;
      z.avail_in = static_cast<::uInt>(input_end_ - input_begin_);
      z.next_out = inflated_.data();
      z.avail_out = static_cast<::uInt>(inflated_.size());
      int const result = ::inflate(&z, Z_NO_FLUSH);
      input_begin_ = input_end_ - z.avail_in;
      if (result == Z_STREAM_END)
        inflater_->member_ended = true;
      else if (result != Z_OK && result != Z_BUF_ERROR)
        throw data_error(path_, line_, std::string("the gzip stream is damaged: ") + (z.msg ? z.msg : "unknown cause"));
      std::size_t const made = inflated_.size() - z.avail_out;
      if (made > 0) return {reinterpret_cast<char const*>(inflated_.data()), made};
      if (!fed) throw data_error(path_, line_, "the gzip stream is cut short");
    }
  }

  std::string path_;
  line_options options_;
  file_descriptor file_;
  std::vector<unsigned char> input_;
  std::size_t input_begin_ = 0;
  std::size_t input_end_ = 0;
  bool input_ended_ = false;
  std::unique_ptr<inflater> inflater_;
  std::vector<unsigned char> inflated_;
  bool padded_ = false;
  std::string_view text_;
  std::size_t begin_ = 0;
  std::string carry_;
  std::size_t line_ = 0;
};

}  // namespace attune
