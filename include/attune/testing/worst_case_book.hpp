// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <attune/testing/broken_law.hpp>

namespace attune::testing {

/// A law_book of numbers that should be near others: of each law the case that misses its tolerance by the largest
/// factor is kept as evidence.
class worst_case_book {
 public:
  /// NaN agrees with NaN and infinity with the same infinity; neither agrees with anything else.
  void compare(char const* law, std::string const& where, double actual, long double expected, double tolerance) {
    bool const alike = std::isnan(actual) ? std::isnan(expected) : static_cast<long double>(actual) == expected;
    if (alike) return;
    bool const special = !std::isfinite(actual) || !std::isfinite(expected);
    record(law, where, actual, expected,
           special ? std::numeric_limits<double>::infinity() : std::abs(static_cast<double>(actual - expected)),
           tolerance);
  }

  void require(char const* law, std::string const& where, bool holds) {
    if (!holds) record(law, where, 0.0, 1.0, std::numeric_limits<double>::infinity(), 0.0);
  }

  std::vector<broken_law> broken() && {
    std::vector<broken_law> all;
    for (entry const& e : entries_) {
      std::ostringstream evidence;
      evidence.precision(9);
      evidence << e.where;
      if (e.tolerance > 0.0 || std::isfinite(e.error))
        evidence << ": expected " << static_cast<double>(e.expected) << ", got " << e.actual << ", off by " << e.error
                 << ", at most " << e.tolerance;
      all.push_back({e.law, evidence.str()});
    }
    return all;
  }

 private:
  struct entry {
    std::string law, where;
    double actual = 0.0;
    long double expected = 0.0L;
    double error = 0.0, tolerance = 0.0;
  };

  void record(char const* law, std::string const& where, double actual, long double expected, double error,
              double tolerance) {
    if (error <= tolerance) return;
    for (entry& e : entries_) {
      if (e.law != law) continue;
      if (error * e.tolerance > e.error * tolerance) e = {law, where, actual, expected, error, tolerance};
      return;
    }
    entries_.push_back({law, where, actual, expected, error, tolerance});
  }

  std::vector<entry> entries_;
};

}  // namespace attune::testing
