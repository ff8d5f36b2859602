// SPDX-License-Identifier: MIT
#include <attune/core/mapped_file.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <utility>

#include <attune/core/atomic_file.hpp>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;
using attune::test::temporary_folder;

namespace {
std::string text(mapped_file const& file) {
  return {reinterpret_cast<char const*>(file.bytes().data()), file.bytes().size()};
}
}  // namespace

TEST_CASE("mapped_file: gives the bytes of the file, after a move too") {
  temporary_folder const folder;
  mapped_file file(folder.file("a", "content"));
  CHECK(text(file) == "content");
  mapped_file moved(std::move(file));
  CHECK(text(moved) == "content");
  CHECK(file.bytes().empty());
}

TEST_CASE("mapped_file: an empty file is an empty span") {
  temporary_folder const folder;
  CHECK(mapped_file(folder.file("a", "")).bytes().empty());
}

TEST_CASE("mapped_file: write_atomically does not disturb who has the old file mapped") {
  temporary_folder const folder;
  mapped_file const file(folder.file("a", "old content"));
  write_atomically(folder / "a", [](file_writer& f) { f.write("new"); });
  CHECK(text(file) == "old content");
}

TEST_CASE("mapped_file: a missing file and a folder are errors that name the path") {
  temporary_folder const folder;
  CHECK(message_of<data_error>([&] { mapped_file const f(folder / "no"); }) ==
        folder / "no: cannot open: No such file or directory");
  CHECK(message_of<data_error>([&] { mapped_file const f(folder.path()); }) ==
        folder.path() + ": expected a regular file");
}
