// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <attune/core/statistics.hpp>
#include <attune/io/json_text.hpp>

namespace report {

/// A JSON object in the making: keys in the order of the calls.
class json_object {
 public:
  json_object& put(std::string_view key, double value) {
    begin(key);
    attune::append_json_number(text_, value);
    return *this;
  }
  json_object& put(std::string_view key, std::size_t value) {
    begin(key);
    attune::append_json_number(text_, value);
    return *this;
  }
  json_object& put(std::string_view key, std::string const& value) { return put(key, std::string_view(value)); }
  json_object& put(std::string_view key, std::string_view value) {
    begin(key);
    attune::append_json_string(text_, value);
    return *this;
  }
  json_object& put(std::string_view key, json_object const& value) {
    begin(key);
    text_ += value.str();
    return *this;
  }
  template <std::same_as<bool> B>  // nothing else converts to it by accident
  json_object& put(std::string_view key, B value) {
    begin(key);
    text_ += value ? "true" : "false";
    return *this;
  }
  json_object& put(std::string_view key, std::vector<json_object> const& values) {
    begin(key);
    text_ += '[';
    for (std::size_t i = 0; i < values.size(); ++i) text_ += (i > 0 ? ", " : "") + values[i].str();
    text_ += ']';
    return *this;
  }
  /// The share under its key, its 95 % interval under key_interval.
  json_object& put(std::string_view key, attune::proportion const& p) {
    put(key, p.value);
    begin(std::string(key) + "_interval");
    text_ += '[';
    attune::append_json_number(text_, p.low);
    text_ += ", ";
    attune::append_json_number(text_, p.high);
    text_ += ']';
    return *this;
  }
  /// Another object's keys, after these.
  json_object& append(json_object const& other) {
    if (other.text_.size() > 1) text_ += (text_.size() == 1 ? "" : ", ") + other.text_.substr(1);
    return *this;
  }
  std::string str() const { return text_ + "}"; }

 private:
  void begin(std::string_view key) {
    text_ += text_.size() == 1 ? "" : ", ";
    attune::append_json_string(text_, key);
    text_ += ": ";
  }
  std::string text_ = "{";
};

}  // namespace report
