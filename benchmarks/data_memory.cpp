// SPDX-License-Identifier: MIT
//
// data_memory_benchmark [--rows N] [--json] [--folder DIR]
//
// Memory of a generated preference file, in memory and mapped: what the token ids need, and what the process took.
// Each way of loading runs in a process of its own, so that its peak is its own. Anonymous memory is what the program
// asked for; file pages are those of the mapped file, which the system takes back when it wants them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <attune/core/atomic_file.hpp>
#include <attune/core/fingerprint.hpp>
#include <attune/core/random.hpp>
#include <attune/data/byte_tokenizer.hpp>
#include <attune/data/mapped_preferences.hpp>

namespace {

using namespace attune;

struct measurement {
  double seconds = 0.0;
  double ids_mb = 0.0;        // 4 bytes per token id
  double anonymous_mb = 0.0;  // at the end, above the empty process
  double peak_mb = 0.0;       // resident at most, above the empty process, file pages included
  double rows = 0.0;
  double checksum_low = 0.0;  // of the data, to compare
};

/// A field of /proc/self/status in MB; 0 where there is none.
double status_mb(std::string_view field) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(field)) return std::strtod(line.c_str() + field.size() + 1, nullptr) / 1024.0;
  return 0.0;
}

void generate(std::string const& path, std::size_t rows) {
  write_atomically(path, [&](file_writer& out) {
    for (std::size_t i = 0; i < rows; ++i) {
      random_stream random(1, i);
      auto const text = [&](std::size_t least, std::size_t most) {
        std::string s;
        for (std::size_t n = least + static_cast<std::size_t>(random.below(most - least)); s.size() < n;)
          s.append(1 + static_cast<std::size_t>(random.below(8)), static_cast<char>('a' + random.below(26))) += ' ';
        return s;
      };
      out.write(
          fmt::format("{{\"prompt\":\"\\n\\nHuman: {}\\n\\nAssistant:\",\"chosen\":\" {}\",\"rejected\":\" {}\"}}\n",
                      text(50, 400), text(20, 200), text(20, 200)));
    }
  });
}

/// Runs f in a child and gives what it measured.
template <class F>
measurement in_child(F f) {
  int ends[2];
  if (::pipe(ends) != 0) throw system_data_error("pipe", "cannot open");
  ::pid_t const child = ::fork();
  if (child < 0) throw system_data_error("fork", "cannot start a process");
  if (child == 0) {
    int status = 1;
    try {
      double const empty_anonymous = status_mb("RssAnon:");
      double const empty_resident = status_mb("VmRSS:");
      auto const begin = std::chrono::steady_clock::now();
      measurement m = f();  // takes its own RssAnon, while the data are alive
      m.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      m.anonymous_mb = std::max(0.0, m.anonymous_mb - empty_anonymous);
      m.peak_mb = std::max(0.0, status_mb("VmHWM:") - empty_resident);
      status = ::write(ends[1], &m, sizeof m) == sizeof m ? 0 : 1;
    } catch (std::exception const& error) {
      std::cerr << error.what() << '\n';
    }
    ::_exit(status);
  }
  ::close(ends[1]);
  measurement m;
  bool const got = ::read(ends[0], &m, sizeof m) == sizeof m;
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!got || status != 0) throw data_error("a measuring process failed");
  return m;
}

template <class Data>
measurement measured(Data const& data) {
  measurement m;
  m.rows = static_cast<double>(data.size());
  m.ids_mb = static_cast<double>(data.total_tokens()) * sizeof(token_id) / 1048576.0;
  m.checksum_low = static_cast<double>(fingerprint(data) & 0xFFFFFFFFU);
  m.anonymous_mb = status_mb("RssAnon:");
  return m;
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t rows = 500000;
  bool json = false;
  std::string folder = std::filesystem::temp_directory_path().string();
  for (int i = 1; i < argc; ++i) {
    std::string_view const option = argv[i];
    if (option == "--json") {
      json = true;
    } else if (option == "--rows" && i + 1 < argc) {
      rows = std::strtoull(argv[++i], nullptr, 10);
    } else if (option == "--folder" && i + 1 < argc) {
      folder = argv[++i];
    } else {
      std::cerr << "usage: data_memory_benchmark [--rows N] [--json] [--folder DIR]\n";
      return option == "--help" ? 0 : 2;
    }
  }
  std::string const text_path = folder + "/attune_data_memory.jsonl";
  std::string const map_path = folder + "/attune_data_memory.pairs";
  int result = 0;
  try {
    generate(text_path, rows);
    load_options const options{.window = 2048, .eos = byte_tokenizer::eos()};
    measurement const memory = in_child([&] {
      load_report report;
      return measured(load_preferences(text_path, byte_tokenizer(), options, report));
    });
    measurement const writing = in_child([&] {
      load_report report;
      write_mapped_preferences(text_path, map_path, byte_tokenizer(), options, report);
      measurement m = memory;
      m.anonymous_mb = status_mb("RssAnon:");
      return m;
    });
    measurement const mapped = in_child([&] { return measured(mapped_preferences(map_path)); });
    if (mapped.checksum_low != memory.checksum_low) throw data_error("the two ways of loading disagree");
    double const text_mb = static_cast<double>(std::filesystem::file_size(text_path)) / 1048576.0;
    auto const line = [&](char const* name, measurement const& m) {
      if (json)
        return fmt::format(
            "\"{}\":{{\"seconds\":{:.3f},\"ids_mb\":{:.2f},\"anonymous_mb\":{:.2f},\"peak_mb\":{:.2f},"
            "\"anonymous_bytes_per_row\":{:.1f}}}",
            name, m.seconds, m.ids_mb, m.anonymous_mb, m.peak_mb, m.anonymous_mb * 1048576.0 / m.rows);
      return fmt::format("{:<10}{:>9.2f}{:>12.1f}{:>16.1f}{:>12.1f}{:>18.1f}{:>20.3f}\n", name, m.seconds, m.ids_mb,
                         m.anonymous_mb, m.peak_mb, m.anonymous_mb * 1048576.0 / m.rows, m.anonymous_mb / m.ids_mb);
    };
    if (json)
      std::cout << fmt::format("{{\"rows\":{},\"text_mb\":{:.2f},", rows, text_mb) << line("memory", memory) << ','
                << line("writing", writing) << ',' << line("mapped", mapped) << "}\n";
    else
      std::cout << fmt::format("{} rows, {:.1f} MB of JSONL\n{:<10}{:>9}{:>12}{:>16}{:>12}{:>18}{:>20}\n", rows,
                               text_mb, "", "seconds", "ids (MB)", "anonymous (MB)", "peak (MB)", "anonymous B/row",
                               "anonymous / ids")
                << line("memory", memory) << line("writing", writing) << line("mapped", mapped);
  } catch (std::exception const& error) {
    std::cerr << error.what() << '\n';
    result = 1;
  }
  std::error_code ignored;
  std::filesystem::remove(text_path, ignored);
  std::filesystem::remove(map_path, ignored);
  return result;
}
