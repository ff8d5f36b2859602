// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <attune/core/atomic_file.hpp>
#include <attune/core/contract.hpp>
#include <attune/io/json_text.hpp>
#include <attune/io/tensor_type.hpp>
#include <attune/io/utf8.hpp>

namespace attune {

/// A tensor to be written; views into the caller's memory.
struct safetensors_source {
  std::string_view name;  ///< 1 to 4096 bytes of UTF-8, unique, no NUL, not "__metadata__"
  tensor_type type{};
  std::vector<std::size_t> shape;    ///< C order
  std::span<std::byte const> bytes;  ///< as many as shape and type need
};

/// Writes a file that safetensors_reader, and every other reader, accepts; whole or not at all (write_atomically).
/// Tensors lie in the order of falling element size, then of names, so that each is aligned to its elements, and equal
/// input gives equal bytes whatever its order. contract_violation if a source breaks its promises, data_error if the
/// disk does.
inline void write_safetensors(std::string const& path, std::span<safetensors_source const> tensors,
                              std::map<std::string, std::string> const& metadata = {}) {
  std::vector<safetensors_source const*> order;
  for (safetensors_source const& t : tensors) {
    if (t.name.find('\0') != std::string_view::npos)  // what() would end at it
      throw contract_violation("write_safetensors: expected tensor names without NUL");
    auto const require = [&](bool holds, char const* what) {
      if (!holds)
        throw contract_violation("write_safetensors: tensor \"" + std::string(t.name) + "\": expected " + what);
    };
    require(!t.name.empty() && t.name.size() <= 4096, "a name of 1 to 4096 bytes");
    require(utf8_error(t.name) == t.name.size(), "a name in UTF-8");
    require(t.name != "__metadata__", "another name");
    std::size_t bits = t.type.bits;
    for (std::size_t const extent : t.shape) bits *= extent;
    require(bits == t.bytes.size() * 8, "as many bytes as its shape and type need");
    order.push_back(&t);
  }
  std::sort(order.begin(), order.end(), [](safetensors_source const* a, safetensors_source const* b) {
    return std::pair(b->type.bits, a->name) < std::pair(a->type.bits, b->name);
  });
  std::vector<std::string_view> names;
  for (safetensors_source const* t : order) names.push_back(t->name);
  std::sort(names.begin(), names.end());
  if (auto const twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    throw contract_violation("write_safetensors: tensor \"" + std::string(*twice) + "\": expected a name of its own");

  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (auto const& [key, value] : metadata) {
      if (header.back() != '{') header += ',';
      append_json_string(header, key);
      header += ':';
      append_json_string(header, value);
    }
    header += '}';
  }
  std::uint64_t offset = 0;
  for (safetensors_source const* t : order) {
    if (header.size() > 1) header += ',';
    append_json_string(header, t->name);
    header += ":{\"dtype\":\"" + std::string(t->type.name) + "\",\"shape\":[";
    for (std::size_t i = 0; i < t->shape.size(); ++i) header += (i > 0 ? "," : "") + std::to_string(t->shape[i]);
    header += "],\"data_offsets\":[" + std::to_string(offset) + ',';
    offset += t->bytes.size();
    header += std::to_string(offset) + "]}";
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');

  write_atomically(path, [&](file_writer& file) {
    file.write_value(static_cast<std::uint64_t>(header.size()));
    file.write(header);
    for (safetensors_source const* t : order) file.write(t->bytes);
  });
}

}  // namespace attune
