// SPDX-License-Identifier: MIT
//
// Built in by the consumer that asks for all components: one header of each, and a symbol of each library to link.
#include <attune/backend/eigen.hpp>
#include <attune/data/byte_tokenizer.hpp>
#include <attune/io/lines.hpp>
#include <attune/io/terminal_sink.hpp>

#include <range/v3/numeric/accumulate.hpp>

#include <string>
#include <thread>

int components() {
  Eigen::Vector2f const ones = Eigen::Vector2f::Ones();
  int const sum = ranges::accumulate(std::string("ab"), 0);
  std::string const text = fmt::format("{} {} {}", ones.sum(), sum, zlibVersion());
  int length = 0;
  std::thread([&] { length = static_cast<int>(text.size()); }).join();
  return length;
}
