// SPDX-License-Identifier: MIT
#include "support/proofs.hpp"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace proofs {
namespace {

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (char const c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + '"';
}

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3e", x);
  return text;
}

// One write of one short line in append mode: tests that run side by side do not mix their lines.
void append(std::string const& line) {
  char const* const path = std::getenv("ATTUNE_PROOFS");
  if (path == nullptr || *path == '\0') return;
  std::FILE* const file = std::fopen(path, "a");
  if (file == nullptr) throw std::runtime_error(std::string("ATTUNE_PROOFS: cannot append to ") + path);
  std::setvbuf(file, nullptr, _IOFBF, std::size_t{1} << 16);
  std::string const whole = "{" + line + "}\n";
  bool const written = std::fwrite(whole.data(), 1, whole.size(), file) == whole.size();
  if (std::fclose(file) != 0 || !written) throw std::runtime_error(std::string("ATTUNE_PROOFS: cannot write ") + path);
}

std::string head(char const* proof, std::string_view objective) {
  return std::string("\"proof\": \"") + proof + "\", \"objective\": " + quoted(objective);
}

}  // namespace

void derivatives(std::string_view objective, std::size_t combinations, std::size_t seeds, double worst,
                 double worst_central_difference) {
  append(head("derivatives", objective) + ", \"combinations\": " + std::to_string(combinations) +
         ", \"seeds\": " + std::to_string(seeds) + ", \"worst\": " + number(worst) +
         ", \"worst_central_difference\": " + number(worst_central_difference));
}

void golden(std::string_view objective, std::string_view oracle, std::size_t cases, double worst_value,
            double worst_gradient) {
  append(head("golden", objective) + ", \"oracle\": " + quoted(oracle) + ", \"cases\": " + std::to_string(cases) +
         ", \"worst_value\": " + number(worst_value) + ", \"worst_gradient\": " + number(worst_gradient));
}

void law(std::string_view objective, std::string_view words) {
  append(head("law", objective) + ", \"law\": " + quoted(words));
}

void extremes(std::string_view objective, std::size_t cases, std::size_t failed) {
  append(head("extremes", objective) + ", \"cases\": " + std::to_string(cases) +
         ", \"failed\": " + std::to_string(failed));
}

}  // namespace proofs
