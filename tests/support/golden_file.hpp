// SPDX-License-Identifier: MIT
#pragma once

#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

/// A file of cases separated by blank lines; a line of a case is a name and its numbers; # begins a comment.
struct golden_case {
  std::map<std::string, std::vector<double>> fields;

  std::vector<double> const& operator[](std::string const& name) const { return fields.at(name); }
  double number(std::string const& name) const { return fields.at(name).at(0); }
  template <class Integer>
  std::vector<Integer> integers(std::string const& name) const {
    std::vector<Integer> result;
    for (double const x : fields.at(name)) result.push_back(static_cast<Integer>(x));
    return result;
  }
};

/// Of tests/golden; throws if the file is not there or holds no case.
inline std::vector<golden_case> read_golden(std::string const& name) {
  std::ifstream file(std::string(ATTUNE_TEST_DATA) + "/golden/" + name);
  std::vector<golden_case> cases;
  bool open = false;
  for (std::string line; std::getline(file, line);) {
    if (line.empty()) open = false;
    if (line.empty() || line.front() == '#') continue;
    if (!open) cases.emplace_back();
    open = true;
    std::istringstream words(line);
    std::string field;
    words >> field;
    std::vector<double>& numbers = cases.back().fields[field];
    for (double x; words >> x;) numbers.push_back(x);
    if (!words.eof()) throw std::runtime_error(name + ": not a number in: " + line);
  }
  if (cases.empty()) throw std::runtime_error("no golden case in " + name);
  return cases;
}
