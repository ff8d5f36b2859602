// SPDX-License-Identifier: MIT
#include <attune/io/safetensors.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <attune/core/random.hpp>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;
using attune::test::temporary_folder;

namespace {

std::string bytes_of(std::string const& header, std::string const& buffer, std::uint64_t claimed) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &claimed, 8);
  return out + header + buffer;
}

std::string file_of(std::string const& header, std::size_t buffer) {
  std::string data(buffer, '\0');
  for (std::size_t i = 0; i < buffer; ++i) data[i] = static_cast<char>(i);
  return bytes_of(header, data, header.size());
}

std::string good =
    R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[2,10]},)"
    R"("b":{"dtype":"I16","shape":[],"data_offsets":[0,2]},"e":{"dtype":"F64","shape":[0,3],"data_offsets":[10,10]}}   )";

/// The message without the path, "" if the file is accepted.
std::string refusal(std::string const& content, safetensors_limits limits = {}) {
  static temporary_folder const folder;
  std::string const path = folder.file("f.safetensors", content);
  std::string const message = message_of<data_error>([&] { safetensors_reader const reader(path, limits); });
  if (message == "nothing thrown") return "";
  REQUIRE(message.starts_with(path + ": "));
  return message.substr(path.size() + 2);
}

std::string one(std::string const& tensor, std::size_t buffer = 8) {
  return refusal(file_of("{\"t\":" + tensor + "}", buffer));
}

}  // namespace

TEST_CASE("safetensors_reader: tensors, metadata and bytes of a well-formed file") {
  temporary_folder const folder;
  safetensors_reader const file(folder.file("f", file_of(good, 10)));
  REQUIRE(file.tensors().size() == 3);
  CHECK(file.metadata().at("k") == "v");
  CHECK(file.find("none") == nullptr);
  safetensors_entry const* const a = file.find("a");
  REQUIRE(a != nullptr);
  CHECK(a->type.name == "F32");
  CHECK(a->shape == std::vector<std::size_t>{2, 1});
  std::vector<std::byte> bytes(8);
  file.read(*a, bytes);
  for (std::size_t i = 0; i < 8; ++i) CHECK(std::to_integer<std::size_t>(bytes[i]) == i + 2);
  CHECK(file.find("b")->shape.empty());
  CHECK(file.find("e")->bytes() == 0);
  CHECK_THROWS_AS(file.read(*a, std::span(bytes).first(7)), contract_violation);
}

TEST_CASE("safetensors_reader: an empty header is a file without tensors") {
  CHECK(refusal(file_of("{}", 0)).empty());
  CHECK(refusal(file_of("{}", 1)) == "1 bytes follow the last tensor");
}

TEST_CASE("safetensors_reader: a header length that cannot be is refused") {
  CHECK(refusal("") == "a file of less than 8 bytes is no safetensors file");
  CHECK(refusal("1234567") == "a file of less than 8 bytes is no safetensors file");
  CHECK(refusal(bytes_of("{}", "", 0)) == "a header of less than 2 bytes");
  CHECK(refusal(bytes_of("{}", "", 1)) == "a header of less than 2 bytes");
  CHECK(refusal(bytes_of("{}", "", 3)) == "the header is longer than the file");
  CHECK(refusal(bytes_of("{}", "", 100'000'000)) == "the header is longer than the file");
  CHECK(refusal(bytes_of("{}", "", 100'000'001)) == "a header of 100000001 bytes, more than the limit");
  CHECK(refusal(bytes_of("{}", "", ~std::uint64_t{0})) ==
        "a header of 18446744073709551615 bytes, more than the limit");
  CHECK(refusal(bytes_of("{}", "", ~std::uint64_t{0} - 7)).ends_with("more than the limit"));
}

TEST_CASE("safetensors_reader: a header that is not strict JSON with spaces behind is refused") {
  for (std::string const header :
       {" {}", "[]", "{} x", "{}\n", "{}\t", "{}{}", "{\"a\"}", "\"{}\"", "{", "}", "{}}", "{\xFF}", "{\"\xFF\":{}}"}) {
    CAPTURE(header);
    CHECK_FALSE(refusal(file_of(header, 0)).empty());
  }
  CHECK_FALSE(refusal(file_of(std::string("{}\0", 3), 0)).empty());
  CHECK(refusal(file_of("{}        ", 0)).empty());
  CHECK(refusal(file_of(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4)).find("nested deeper") ==
        std::string::npos);  // refused as no number before the depth is reached
  CHECK(one(R"({"dtype":"F32","shape":[[1]],"data_offsets":[0,4]})", 4) == "tensor \"t\": shape: expected numbers");
  CHECK(refusal(file_of(R"({"__metadata__":{"a":[[["x"]]]}})", 0)) == "metadata \"a\": expected a string");
}

TEST_CASE("safetensors_reader: duplicate keys are refused at every level") {
  std::string const t = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  CHECK(refusal(file_of("{\"a\":" + t + ",\"a\":" + t + "}", 0)).find("\"a\" is given twice") != std::string::npos);
  CHECK(one(R"({"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]})", 0).find("twice") != std::string::npos);
  CHECK(refusal(file_of(R"({"__metadata__":{"a":"1","a":"1"}})", 0)).find("twice") != std::string::npos);
  CHECK(refusal(file_of(R"({"__metadata__":{},"__metadata__":{}})", 0)).find("twice") != std::string::npos);
}

TEST_CASE("safetensors_reader: a tensor with other fields than the three is refused by name") {
  CHECK(one(R"({"shape":[8],"data_offsets":[0,8]})") == "tensor \"t\": no dtype");
  CHECK(one(R"({"dtype":"U8","data_offsets":[0,8]})") == "tensor \"t\": no shape");
  CHECK(one(R"({"dtype":"U8","shape":[8]})") == "tensor \"t\": no data_offsets");
  CHECK(one(R"({"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":1})") == "tensor \"t\": unknown field \"x\"");
  CHECK(one("[]") == "tensor \"t\": expected an object");
  CHECK(one(R"({"dtype":"U7","shape":[8],"data_offsets":[0,8]})") == "tensor \"t\": unknown dtype \"U7\"");
  CHECK(one(R"({"dtype":"u8","shape":[8],"data_offsets":[0,8]})") == "tensor \"t\": unknown dtype \"u8\"");
  CHECK(one(R"({"dtype":8,"shape":[8],"data_offsets":[0,8]})") == "tensor \"t\": dtype: expected a string");
  CHECK(one(R"({"dtype":"U8","shape":8,"data_offsets":[0,8]})") == "tensor \"t\": shape: expected an array");
  CHECK(one(R"({"dtype":"U8","shape":[8],"data_offsets":[0,8]})").empty());
}

TEST_CASE("safetensors_reader: only plain non-negative integers are sizes") {
  for (std::string const number : {"8.0", "1e0", "-8", "-0", "18446744073709551616", "8E0", "\"8\"", "null", "true"}) {
    CAPTURE(number);
    CHECK(
        one(R"({"dtype":"U8","shape":[)" + number + R"(],"data_offsets":[0,8]})").starts_with("tensor \"t\": shape: "));
    CHECK(one(R"({"dtype":"U8","shape":[8],"data_offsets":[0,)" + number + "]}")
              .starts_with("tensor \"t\": data_offsets: "));
  }
  CHECK_FALSE(one(R"({"dtype":"U8","shape":[+8],"data_offsets":[0,8]})").empty());
  CHECK_FALSE(one(R"({"dtype":"U8","shape":[08],"data_offsets":[0,8]})").empty());
}

TEST_CASE("safetensors_reader: too many dimensions are an error, never a size of 0") {
  CHECK(one(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,1]})", 1).empty());
  CHECK(one(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]})", 1) ==
        "tensor \"t\": shape: more than 8 numbers");
}

TEST_CASE("safetensors_reader: a size that overflows, or is no whole byte, is refused") {
  CHECK(one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0).find("overflows") !=
        std::string::npos);
  CHECK(one(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})", 0).find("overflows") !=
        std::string::npos);
  CHECK(one(R"({"dtype":"U8","shape":[18446744073709551615,18446744073709551615,0],"data_offsets":[0,0]})", 0)
            .find("overflows") != std::string::npos);
  CHECK(one(R"({"dtype":"F4","shape":[3],"data_offsets":[0,1]})", 1) ==
        "tensor \"t\": its size is not a whole number of bytes");
  CHECK(one(R"({"dtype":"F4","shape":[2],"data_offsets":[0,1]})", 1).empty());
  CHECK(one(R"({"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]})", 3).empty());
}

TEST_CASE("safetensors_reader: offsets that disagree with file or shape are refused, of empty tensors too") {
  CHECK(one(R"({"dtype":"U8","shape":[8],"data_offsets":[8,0]})") ==
        "tensor \"t\": data_offsets: the end comes before the beginning");
  CHECK(one(R"({"dtype":"U8","shape":[9],"data_offsets":[0,9]})") ==
        "tensor \"t\": data_offsets: the end lies beyond the file");
  CHECK(one(R"({"dtype":"U8","shape":[0],"data_offsets":[9,9]})") ==
        "tensor \"t\": data_offsets: the end lies beyond the file");
  CHECK(one(R"({"dtype":"U8","shape":[0],"data_offsets":[0,8]})") ==
        "tensor \"t\": shape [0] needs 0 bytes, data_offsets give 8");
  CHECK(one(R"({"dtype":"F32","shape":[2,2],"data_offsets":[0,8]})") ==
        "tensor \"t\": shape [2, 2] needs 16 bytes, data_offsets give 8");
  CHECK(one(R"({"dtype":"U8","shape":[8],"data_offsets":[0]})") == "tensor \"t\": data_offsets: expected two numbers");
  CHECK(one(R"({"dtype":"U8","shape":[8],"data_offsets":[0,4,8]})") ==
        "tensor \"t\": data_offsets: more than 2 numbers");
}

TEST_CASE("safetensors_reader: holes, overlaps and tails are refused") {
  auto const two = [](std::string a, std::string b, std::size_t buffer) {
    auto const tensor = [](std::string const& range) {
      return R"({"dtype":"U8","shape":[4],"data_offsets":)" + range + "}";
    };
    return refusal(file_of("{\"a\":" + tensor(a) + ",\"b\":" + tensor(b) + "}", buffer));
  };
  CHECK(two("[0,4]", "[4,8]", 8).empty());
  CHECK(two("[4,8]", "[0,4]", 8).empty());
  CHECK(two("[0,4]", "[5,9]", 9) == "tensor \"b\": a hole lies before it");
  CHECK(two("[1,5]", "[5,9]", 9) == "tensor \"a\": a hole lies before it");
  CHECK(two("[0,4]", "[3,7]", 7) == "tensor \"b\": it overlaps another tensor");
  CHECK(two("[0,4]", "[0,4]", 4).ends_with("it overlaps another tensor"));
  CHECK(two("[0,4]", "[4,8]", 10) == "2 bytes follow the last tensor");
}

TEST_CASE("safetensors_reader: names that are empty, hold NUL or have no end are refused") {
  std::string const t = R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})";
  CHECK(refusal(file_of("{\"" + t, 0)) == "a tensor without a name");
  CHECK(refusal(file_of("{\"a\\u0000b" + t, 0)) == "a tensor name with a NUL in it");
  CHECK(refusal(file_of("{\"" + std::string(4097, 'x') + t, 0)) == "a tensor name of 4097 bytes");
  CHECK(refusal(file_of("{\"" + std::string(4096, 'x') + t, 0)).empty());
}

TEST_CASE("safetensors_reader: limits are obeyed") {
  CHECK(refusal(file_of(good, 10), {.max_tensors = 3}).empty());
  CHECK(refusal(file_of(good, 10), {.max_tensors = 2}) == "more than 2 tensors");
  CHECK(refusal(file_of(good, 10), {.max_header_bytes = 20}).ends_with("more than the limit"));
  CHECK(refusal(file_of(good, 10), {.max_rank = 1}) == "tensor \"a\": shape: more than 1 numbers");
  CHECK_THROWS_AS(safetensors_reader("x", {.max_header_bytes = 0}), contract_violation);
}

TEST_CASE("safetensors_reader: metadata must be strings in an object") {
  CHECK(refusal(file_of(R"({"__metadata__":{"a":1}})", 0)) == "metadata \"a\": expected a string");
  CHECK_FALSE(refusal(file_of(R"({"__metadata__":"a"})", 0)).empty());
  CHECK_FALSE(refusal(file_of(R"({"__metadata__":null})", 0)).empty());
}

TEST_CASE("safetensors_reader: a file that shrinks after it was opened is an error") {
  temporary_folder const folder;
  std::string const path = folder.file("f", file_of(good, 10));
  safetensors_reader const file(path);
  std::filesystem::resize_file(path, file_of(good, 10).size() - 4);
  std::vector<std::byte> bytes(8);
  CHECK(message_of<data_error>([&] { file.read(*file.find("a"), bytes); }) ==
        path + ": the file became shorter while it was read");
}

TEST_CASE(
    "safetensors_reader: a file cut anywhere, and thousands of mutated files, are refused or read, nothing else") {
  std::string const whole = file_of(good, 10);
  for (std::size_t size = 0; size < whole.size(); ++size) CHECK_FALSE(refusal(whole.substr(0, size)).empty());
  random_stream random(11);
  temporary_folder const folder;
  std::size_t accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bad = whole;
    for (std::uint64_t edits = 1 + random.below(3); edits > 0; --edits) {
      std::size_t const at = static_cast<std::size_t>(random.below(bad.size()));
      char const byte =
          random.below(2) == 0 ? static_cast<char>(random.below(256)) : "0123456789[]{},:\"F"[random.below(18)];
      switch (random.below(3)) {
        case 0:
          bad[at] = byte;
          break;
        case 1:
          bad.insert(at, 1, byte);
          break;
        default:
          bad.erase(at, 1);
          break;
      }
    }
    std::string const path = folder.file("f", bad);
    try {
      safetensors_reader const file(path);
      ++accepted;
      for (safetensors_entry const& entry : file.tensors()) {
        std::vector<std::byte> bytes(static_cast<std::size_t>(entry.bytes()));
        file.read(entry, bytes);
      }
    } catch (data_error const&) {
    }
  }
  CHECK(accepted > 0);
  CHECK(accepted < 3000);
}
