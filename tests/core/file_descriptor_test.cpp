// SPDX-License-Identifier: MIT
#include <attune/core/file_descriptor.hpp>

#include <doctest/doctest.h>

#include <utility>

#include <fcntl.h>

using namespace attune;

namespace {
bool is_open(int descriptor) { return ::fcntl(descriptor, F_GETFD) != -1; }
}  // namespace

TEST_CASE("file_descriptor: closes once, at the end of the last owner") {
  int number = -1;
  {
    file_descriptor first(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    REQUIRE(first.is_open());
    number = first.get();
    file_descriptor second(std::move(first));
    CHECK_FALSE(first.is_open());
    CHECK(is_open(number));
    file_descriptor third;
    third = std::move(second);
    CHECK(third.get() == number);
    CHECK(is_open(number));
  }
  CHECK_FALSE(is_open(number));
}

TEST_CASE("file_descriptor: assignment closes what was held before") {
  file_descriptor held(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  int const number = held.get();
  held = file_descriptor();
  CHECK_FALSE(is_open(number));
}

TEST_CASE("system_data_error: names path, operation and the system's reason") {
  CHECK(std::string(system_data_error("a/b", "cannot open", ENOENT).what()) ==
        "a/b: cannot open: No such file or directory");
}
