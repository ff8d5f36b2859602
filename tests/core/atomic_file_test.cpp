// SPDX-License-Identifier: MIT
#include <attune/core/atomic_file.hpp>

#include <doctest/doctest.h>

#include <csignal>
#include <cstdint>
#include <stdexcept>
#include <string>

#include <sys/resource.h>
#include <sys/wait.h>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::content_of;
using attune::test::message_of;
using attune::test::temporary_folder;

TEST_CASE("write_atomically: the file holds what was written, small and large pieces in order") {
  temporary_folder const folder;
  std::string expected;
  std::uint64_t sum = 0;
  write_atomically(folder / "a", [&](file_writer& file) {
    for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, std::size_t{65535}, std::size_t{65536},
                             std::size_t{200000}, std::size_t{3}}) {
      std::string const piece(size, static_cast<char>('a' + expected.size() % 26));
      file.write(piece);
      expected += piece;
    }
    file.write_value(std::uint32_t{0x44434241});
    expected += "ABCD";
    CHECK(file.position() == expected.size());
    sum = file.checksum();
  });
  CHECK(content_of(folder / "a") == expected);
  CHECK(sum == checksum64().update(expected).value());
  CHECK(folder.entries() == 1);
}

TEST_CASE("write_atomically: if the writer throws, the old file stays and nothing else does") {
  temporary_folder const folder;
  std::string const path = folder.file("a", "old");
  CHECK_THROWS_AS(write_atomically(path,
                                   [](file_writer& file) {
                                     file.write(std::string(300000, 'x'));
                                     throw std::length_error("stop");
                                   }),
                  std::length_error);
  CHECK(content_of(path) == "old");
  CHECK(folder.entries() == 1);
}

TEST_CASE("write_atomically: a disk that takes no more is an error that names the file, and the old file stays") {
  temporary_folder const folder;
  std::string const path = folder.file("a", "old");
  ::rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  auto const handler = std::signal(SIGXFSZ, SIG_IGN);
  ::rlimit small = before;
  small.rlim_cur = 100000;
  ::setrlimit(RLIMIT_FSIZE, &small);
  std::string const message = message_of<data_error>(
      [&] { write_atomically(path, [](file_writer& file) { file.write(std::string(300000, 'x')); }); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(message == path + ": cannot write: File too large");
  CHECK(content_of(path) == "old");
  CHECK(folder.entries() == 1);
}

TEST_CASE("write_atomically: a folder that does not exist is an error that names the path") {
  temporary_folder const folder;
  std::string const message = message_of<data_error>([&] { write_atomically(folder / "no/a", [](file_writer&) {}); });
  CHECK(message == folder / "no/a.partial: cannot open for writing: No such file or directory");
}

TEST_CASE("write_atomically: two writers of one file do not mix, the second is refused") {
  temporary_folder const folder;
  std::string const path = folder / "a";
  std::string message;
  write_atomically(path, [&](file_writer& file) {
    file.write("first");
    message = message_of<data_error>([&] { write_atomically(path, [](file_writer& f) { f.write("second"); }); });
  });
  CHECK(message.starts_with(path + ".partial: another writer is at work"));
  CHECK(content_of(path) == "first");
}

TEST_CASE("write_atomically: what a killed writer left is overwritten") {
  temporary_folder const folder;
  folder.file("a.partial", std::string(1000, 'z'));
  write_atomically(folder / "a", [](file_writer& file) { file.write("new"); });
  CHECK(content_of(folder / "a") == "new");
  CHECK(folder.entries() == 1);
}

TEST_CASE("write_atomically: killed at any moment, it leaves the old content or the new, never a mixture") {
  temporary_folder const folder;
  std::string const path = folder.file("a", std::string(400000, 'a'));
  for (int round = 0; round < 30; ++round) {
    int written[2];
    REQUIRE(::pipe(written) == 0);
    ::pid_t const child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (char c = 'b';; c = c == 'z' ? 'b' : static_cast<char>(c + 1)) {
        write_atomically(path, [c](file_writer& file) {
          for (int i = 0; i < 400; ++i) file.write(std::string(1000, c));
        });
        if (::write(written[1], &c, 1) != 1) ::_exit(1);
      }
    }
    char ready = 0;
    CHECK(::read(written[0], &ready, 1) == 1);  // the child has replaced the file once and is at it again
    ::usleep(static_cast<::useconds_t>(97 * round));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(written[0]);
    ::close(written[1]);
    std::string const now = content_of(path);
    CHECK(now.size() == 400000);
    CHECK(now.front() != 'a');
    CHECK(now.find_first_not_of(now.front()) == std::string::npos);
  }
}

TEST_CASE("folder_of: the part before the last slash") {
  CHECK(folder_of("a") == ".");
  CHECK(folder_of("/a") == "/");
  CHECK(folder_of("x/y/a") == "x/y");
}
