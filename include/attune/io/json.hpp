// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/io/json_reader.hpp>

namespace attune {

/// A JSON value as a tree, for rows and headers that fit in memory. Members keep the order of the text; numbers keep
/// their spelling until they are asked for as a type, so 18446744073709551615 stays itself and 1e3 is not an integer.
/// Accessors of the wrong kind throw data_error; whoever knows the file and line catches the kind beforehand.
class json_value {
 public:
  struct member;

  json_kind kind() const noexcept { return kind_; }
  bool is(json_kind kind) const noexcept { return kind_ == kind; }

  std::string const& as_string() const { return require(json_kind::string), text_; }
  bool as_boolean() const { return require(json_kind::boolean), text_ == "true"; }
  std::vector<json_value> const& items() const { return require(json_kind::array), items_; }
  inline std::vector<member> const& members() const;

  /// Exact, or a data_error: a token with a fraction or an exponent is not an integer, and nothing wraps.
  template <std::integral Integer>
  Integer as_integer() const {
    require(json_kind::number);
    Integer value{};
    auto const [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    if (error == std::errc::result_out_of_range || (std::unsigned_integral<Integer> && text_.front() == '-'))
      throw data_error("the integer " + text_ + " is out of range");
    if (error != std::errc{} || end != text_.data() + text_.size())
      throw data_error("expected an integer, got " + text_);
    return value;
  }

  /// The nearest double; a number beyond the largest one is a data_error, never infinity.
  double as_double() const {
    require(json_kind::number);
    double value = 0.0;
    if (std::from_chars(text_.data(), text_.data() + text_.size(), value).ec != std::errc{})
      throw data_error("the number " + text_ + " is out of range");
    return value;
  }

  /// The member of that name, or nullptr (also if this is no object).
  inline json_value const* find(std::string_view key) const noexcept;

  /// Reads one value from the reader, and its whole subtree.
  inline static json_value read(json_reader& reader);

 private:
  void require(json_kind kind) const {
    if (kind_ != kind) throw data_error(std::string("expected ") + name_of(kind) + ", got " + name_of(kind_));
  }

  json_kind kind_ = json_kind::null;
  std::string text_;  // of a string, number or boolean
  std::vector<json_value> items_;
  std::vector<member> members_;
};

struct json_value::member {
  std::string key;
  json_value value;
};

inline std::vector<json_value::member> const& json_value::members() const {
  return require(json_kind::object), members_;
}

inline json_value const* json_value::find(std::string_view key) const noexcept {
  for (member const& m : members_)
    if (m.key == key) return &m.value;
  return nullptr;
}

inline json_value json_value::read(json_reader& reader) {
  json_value out;
  out.kind_ = reader.peek();
  switch (out.kind_) {
    case json_kind::null:
      reader.read_null();
      break;
    case json_kind::boolean:
      out.text_ = reader.read_boolean() ? "true" : "false";
      break;
    case json_kind::number:
      out.text_ = reader.read_number();
      break;
    case json_kind::string:
      out.text_ = reader.read_string();
      break;
    case json_kind::array:
      reader.enter_array();
      while (reader.next_element()) out.items_.push_back(read(reader));
      break;
    case json_kind::object: {
      reader.enter_object();
      std::string key;
      while (reader.next_member(key)) {
        json_value value = read(reader);
        out.members_.push_back({std::move(key), std::move(value)});
      }
      break;
    }
  }
  return out;
}

/// One whole JSON text. `place` begins every message ("file.jsonl:12").
[[nodiscard]] inline json_value parse_json(std::string_view text, std::string_view place = "json",
                                           std::size_t max_depth = json_reader::default_depth) {
  json_reader reader(text, place, max_depth);
  json_value value = json_value::read(reader);
  reader.finish();
  return value;
}

}  // namespace attune
