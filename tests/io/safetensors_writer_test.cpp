// SPDX-License-Identifier: MIT
#include <attune/io/safetensors_writer.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include <attune/io/safetensors.hpp>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::content_of;
using attune::test::message_of;
using attune::test::temporary_folder;

namespace {

std::array<float, 3> const floats{1.5F, -2.0F, 0.25F};
std::array<double, 2> const doubles{0.1, -1e300};
std::array<std::byte, 1> const byte{std::byte{7}};

std::vector<safetensors_source> sources() {
  return {{"small", {"U8", 8}, {1}, byte},
          {"b", {"F32", 32}, {3, 1}, std::as_bytes(std::span(floats))},
          {"empty", {"F32", 32}, {0, 5}, {}},
          {"a \"quoted\" \xE2\x82\xAC", {"F64", 64}, {2}, std::as_bytes(std::span(doubles))}};
}

}  // namespace

TEST_CASE("write_safetensors: what is written is read back, names, shapes, bytes and metadata") {
  temporary_folder const folder;
  write_safetensors(folder / "f", sources(), {{"key", "value\n"}, {"", ""}});
  safetensors_reader const file(folder / "f");
  CHECK(file.tensors().size() == 4);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"key", "value\n"}, {"", ""}});
  for (safetensors_source const& source : sources()) {
    safetensors_entry const* const entry = file.find(source.name);
    REQUIRE(entry != nullptr);
    CHECK(entry->type == source.type);
    CHECK(entry->shape == source.shape);
    std::vector<std::byte> bytes(source.bytes.size());
    file.read(*entry, bytes);
    CHECK(std::equal(bytes.begin(), bytes.end(), source.bytes.begin(), source.bytes.end()));
  }
}

TEST_CASE("write_safetensors: the exact bytes of a small file") {
  temporary_folder const folder;
  std::vector<safetensors_source> const one{{"t", {"F32", 32}, {3}, std::as_bytes(std::span(floats))}};
  write_safetensors(folder / "f", one, {{"m", "x"}});
  std::string const header = R"({"__metadata__":{"m":"x"},"t":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})";
  std::string const content = content_of(folder / "f");
  std::uint64_t size = 0;
  std::memcpy(&size, content.data(), 8);
  CHECK(size % 8 == 0);
  CHECK(content.substr(8, header.size()) == header);
  CHECK(content.substr(8 + header.size(), size - header.size()) == std::string(size - header.size(), ' '));
  CHECK(std::memcmp(content.data() + 8 + size, floats.data(), 12) == 0);
  CHECK(content.size() == 8 + size + 12);
}

TEST_CASE("write_safetensors: wide elements come first and the order of the input does not matter") {
  temporary_folder const folder;
  std::vector<safetensors_source> all = sources();
  write_safetensors(folder / "f", all);
  std::reverse(all.begin(), all.end());
  write_safetensors(folder / "g", all);
  CHECK(content_of(folder / "f") == content_of(folder / "g"));
  safetensors_reader const file(folder / "f");
  CHECK(file.tensors().front().type.name == "F64");
  CHECK(file.tensors()[1].name == "b");
  CHECK(file.tensors().back().name == "small");
}

TEST_CASE("write_safetensors: no tensors are a file too") {
  temporary_folder const folder;
  write_safetensors(folder / "f", {});
  CHECK(safetensors_reader(folder / "f").tensors().empty());
}

TEST_CASE("write_safetensors: a source that breaks its promises is refused before anything is written") {
  temporary_folder const folder;
  auto const refusal = [&](safetensors_source extra) {
    std::vector<safetensors_source> all = sources();
    all.push_back(extra);
    std::string const message = message_of<contract_violation>([&] { write_safetensors(folder / "f", all); });
    CHECK(folder.entries() == 0);
    return message;
  };
  CHECK(refusal({"b", {"U8", 8}, {1}, byte}) == "write_safetensors: tensor \"b\": expected a name of its own");
  CHECK(refusal({"x", {"U8", 8}, {2}, byte}) ==
        "write_safetensors: tensor \"x\": expected as many bytes as its shape and type need");
  CHECK(refusal({"", {"U8", 8}, {1}, byte}) == "write_safetensors: tensor \"\": expected a name of 1 to 4096 bytes");
  CHECK(refusal({"\xFF", {"U8", 8}, {1}, byte}).ends_with("expected a name in UTF-8"));
  CHECK(refusal({std::string_view("a\0b", 3), {"U8", 8}, {1}, byte}) ==
        "write_safetensors: expected tensor names without NUL");
  CHECK(refusal({"__metadata__", {"U8", 8}, {1}, byte}).ends_with("expected another name"));
}
