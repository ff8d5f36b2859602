// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <attune/concepts/report_sink.hpp>
#include <attune/core/atomic_file.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/file_descriptor.hpp>
#include <attune/io/json.hpp>
#include <attune/io/json_text.hpp>
#include <attune/io/lines.hpp>

namespace attune {

struct jsonl_sink_options {
  bool append = false;         ///< keep what the file holds (set it when a run is resumed); else start it anew
  bool with_progress = false;  ///< also a line for every step between two logs
};

[[nodiscard]] constexpr std::string_view name_of(report_kind kind) noexcept {
  switch (kind) {
    case report_kind::start:
      return "start";
    case report_kind::progress:
      return "progress";
    case report_kind::log:
      return "log";
    case report_kind::evaluation:
      return "evaluation";
    case report_kind::finish:
      return "finish";
  }
  return "unknown";
}

/// One report as one line of JSON, without the end of line:
///   {"kind":"log","stage":"dpo","step":10,"total_steps":100,"epoch":0.1,"tokens":5120,"seconds":3.5,"loss":0.69}
/// Metrics are members under their own names. One that is not finite is null, and an extra member tells what it was:
/// "not_finite":{"loss":"nan"}. contract_violation if a metric bears one of the fixed names, or two share one.
[[nodiscard]] inline std::string json_line(report const& r) {
  constexpr std::array<std::string_view, 8> fixed{"kind",  "stage",  "step",    "total_steps",
                                                  "epoch", "tokens", "seconds", "not_finite"};
  std::string out = "{\"kind\":";
  append_json_string(out, name_of(r.kind));
  out += ",\"stage\":";
  append_json_string(out, r.stage);
  std::string not_finite;
  auto const member = [&](std::string_view name, auto value) {
    out += ',';
    append_json_string(out, name);
    out += ':';
    append_json_number(out, value);
    double const number = static_cast<double>(value);
    if (std::isfinite(number)) return;
    not_finite += not_finite.empty() ? "" : ",";
    append_json_string(not_finite, name);
    not_finite += std::isnan(number) ? ":\"nan\"" : number > 0 ? ":\"inf\"" : ":\"-inf\"";
  };
  member("step", r.step);
  member("total_steps", r.total_steps);
  member("epoch", r.epoch);
  member("tokens", r.tokens);
  member("seconds", r.seconds);
  for (std::size_t i = 0; i < r.metrics.size(); ++i) {
    std::string_view const name = r.metrics[i].name;
    bool taken = std::find(fixed.begin(), fixed.end(), name) != fixed.end();
    for (std::size_t j = 0; j < i; ++j) taken = taken || r.metrics[j].name == name;
    if (taken)
      throw contract_violation("jsonl_sink: expected a metric name of its own, got \"" + std::string(name) + "\"");
    member(name, r.metrics[i].value);
  }
  if (!not_finite.empty()) out += ",\"not_finite\":{" + not_finite + '}';
  out += '}';
  return out;
}

/// Writes every report as a line of JSON, in one system call each, so that whatever kills the process, the file holds
/// whole lines but for perhaps the last. A ReportSink.
///
/// With append, the `start` report of a resumed run (step k) first removes what the killed process wrote about later
/// steps of the same stage, and a last line that was cut: the file then reads as if nothing had happened. Any other
/// line that is no JSON object is a data_error "path:line: ...".
class jsonl_sink {
 public:
  explicit jsonl_sink(std::string path, jsonl_sink_options options = {}) : path_(std::move(path)), options_(options) {
    if (options_.append) {
      rewrite([](json_value const&) { return true; });
    } else {
      open(O_TRUNC);
    }
  }

  void operator()(report const& r) {
    if (r.kind == report_kind::progress && !options_.with_progress) return;
    if (r.kind == report_kind::start && r.step > 0 && options_.append)
      rewrite([&](json_value const& row) {
        json_value const* const stage = row.find("stage");
        json_value const* const step = row.find("step");
        bool const same = stage != nullptr && stage->is(json_kind::string) && stage->as_string() == r.stage;
        return !same || step == nullptr || !step->is(json_kind::number) || step->as_integer<std::size_t>() <= r.step;
      });
    write(json_line(r) + '\n');
  }

  std::string const& path() const noexcept { return path_; }

 private:
  void open(int flags) {
    file_ = file_descriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | flags, 0666));
    if (!file_.is_open()) throw system_data_error(path_, "cannot open for writing");
  }

  void write(std::string_view text) {
    while (!text.empty()) {
      ::ssize_t const done = ::write(file_.get(), text.data(), text.size());
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) throw system_data_error(path_, "cannot write");
      text.remove_prefix(static_cast<std::size_t>(done));
    }
  }

  /// Keeps the rows for which keep(row) holds, drops a last line without its end, and opens the file for appending.
  template <class Keep>
  void rewrite(Keep keep) {
    file_.close();
    std::string kept;
    if (::access(path_.c_str(), F_OK) == 0) {
      std::size_t const whole = whole_lines();
      line_reader lines(path_);
      std::string_view line;
      while (lines.next(line) && lines.line_number() <= whole) {
        json_value const row = parse_json(line, path_ + ':' + std::to_string(lines.line_number()));
        if (keep(row)) kept.append(line).append("\n");
      }
      write_atomically(path_, [&](file_writer& out) { out.write(kept); });
    }
    open(0);
  }

  /// Lines that end in "\n".
  std::size_t whole_lines() const {
    file_descriptor const in(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!in.is_open()) throw system_data_error(path_, "cannot open");
    std::array<char, 65536> buffer;
    std::size_t count = 0;
    for (;;) {
      ::ssize_t const got = ::read(in.get(), buffer.data(), buffer.size());
      if (got < 0) throw system_data_error(path_, "cannot read");
      if (got == 0) return count;
      count += static_cast<std::size_t>(std::count(buffer.begin(), buffer.begin() + got, '\n'));
    }
  }

  std::string path_;
  jsonl_sink_options options_;
  file_descriptor file_;
};

}  // namespace attune
