// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <attune/concepts/report_sink.hpp>
#include <attune/core/contract.hpp>
#include <attune/io/utf8.hpp>

namespace attune {

enum class terminal_style {
  automatic,  ///< rewrite on a terminal, lines into a file or a pipe
  rewrite,    ///< one line that is written over, with a progress bar; evaluations stay above it
  lines,      ///< a line for every log, evaluation, start and finish
};

struct terminal_options {
  terminal_style style = terminal_style::automatic;  ///< how progress is shown
  std::size_t width = 0;                             ///< columns of the rewritten line; 0 asks the terminal
  double seconds_between = 0.1;                      ///< the line is not rewritten more often, in seconds; >= 0
};

inline void validate(terminal_options const& o) {
  expects(o.seconds_between >= 0.0, "terminal_options.seconds_between >= 0", o.seconds_between);
}

/// "59 s", "1:02:03", "4:05"; "?" for what is not known.
[[nodiscard]] inline std::string duration_text(double seconds) {
  if (!(seconds >= 0.0 && seconds < 1e9)) return "?";
  auto const whole = static_cast<unsigned long long>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

/// "870", "12.3k", "4.56M": three digits or so.
[[nodiscard]] inline std::string rate_text(double per_second) {
  if (!(per_second >= 0.0)) return "?";
  if (per_second < 1e3) return fmt::format("{:.0f}", per_second);
  if (per_second < 1e6) return fmt::format("{:.1f}k", per_second / 1e3);
  return fmt::format("{:.2f}M", per_second / 1e6);
}

/// Shows a training run on a terminal or in a log file: stage, progress bar, step / total, metrics, tokens per second,
/// time left (from the steps of this process, so right after a resume too). A ReportSink. The stream is borrowed, and
/// must outlive the sink.
class terminal_sink {
 public:
  explicit terminal_sink(std::FILE* out = stderr, terminal_options options = {}) : out_(out), options_(options) {
    validate(options_);
    if (options_.style == terminal_style::automatic)
      options_.style = ::isatty(::fileno(out_)) != 0 ? terminal_style::rewrite : terminal_style::lines;
  }

  void operator()(report const& r) {
    if (r.kind == report_kind::start || r.stage != stage_) {
      stage_ = std::string(r.stage);
      first_step_ = r.step;
      shown_at_ = -1.0;
    }
    if (options_.style == terminal_style::lines) {
      if (r.kind != report_kind::progress) print(line_of(r) + "\n");
    } else if (r.kind == report_kind::evaluation || r.kind == report_kind::finish) {
      print("\r" + fitted(line_of(r)) + "\x1b[K\n");
    } else if (shown_at_ < 0.0 || r.kind == report_kind::log || r.seconds - shown_at_ >= options_.seconds_between) {
      shown_at_ = r.seconds;
      print("\r" + fitted(bar_of(r) + line_of(r)) + "\x1b[K");
    }
  }

 private:
  static std::string bar_of(report const& r) {
    constexpr std::size_t width = 20;
    double const share = r.total_steps == 0 ? 0.0 : static_cast<double>(r.step) / static_cast<double>(r.total_steps);
    std::size_t const full = (std::min)(width, static_cast<std::size_t>(share * static_cast<double>(width)));
    return fmt::format("[{}{}{}] {:3.0f}%  ", std::string(full, '='), full < width ? ">" : "",
                       std::string(full < width ? width - full - 1 : 0, ' '), 100.0 * share);
  }

  std::string line_of(report const& r) const {
    std::string line = fmt::format("{} {}/{}", r.stage, r.step, r.total_steps);
    auto const out = std::back_inserter(line);
    if (r.kind == report_kind::start) {
      line += r.step == 0 ? "  start" : "  resumed";
      return line;
    }
    if (options_.style == terminal_style::lines) fmt::format_to(out, "  epoch {:.2f}", r.epoch);
    for (metric const& m : r.metrics) fmt::format_to(out, "  {} {:.4g}", m.name, m.value);
    if (r.seconds > 0.0 && r.tokens > 0)
      fmt::format_to(out, "  {} tokens/s", rate_text(static_cast<double>(r.tokens) / r.seconds));
    if (r.kind == report_kind::finish) {
      fmt::format_to(out, "  finished in {}", duration_text(r.seconds));
    } else if (r.step > first_step_ && r.total_steps >= r.step) {
      double const per_step = r.seconds / static_cast<double>(r.step - first_step_);
      fmt::format_to(out, "  {} left", duration_text(per_step * static_cast<double>(r.total_steps - r.step)));
    }
    return line;
  }

  /// A line longer than the terminal would wrap, and then could not be written over.
  std::string fitted(std::string line) const {
    std::size_t width = options_.width;
    if (width == 0) {
      ::winsize size{};
      bool const known = ::ioctl(::fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
      width = known ? size.ws_col : 80;
    }
    std::size_t const most = width > 1 ? width - 1 : 1;
    std::size_t at = 0;
    for (std::size_t column = 0; at < line.size() && column < most; ++column)
      at += (std::max<std::size_t>)(1, utf8_length(line, at));
    line.resize((std::min)(at, line.size()));
    return line;
  }

  void print(std::string const& text) {
    bool const written = std::fwrite(text.data(), 1, text.size(), out_) == text.size();
    if (!written || std::fflush(out_) != 0) throw data_error("terminal: cannot write the progress line");
  }

  std::FILE* out_;
  terminal_options options_;
  std::string stage_;
  std::size_t first_step_ = 0;
  double shown_at_ = -1.0;
};

}  // namespace attune
