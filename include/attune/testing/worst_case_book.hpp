// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <attune/testing/broken_law.hpp>

namespace attune::testing {

/// A law, kept or broken, by the case that uses up the largest share of what it was allowed.
struct tried_law {
  std::string name;
  std::size_t comparisons = 0;  ///< numbers and statements that were checked
  double error = 0.0;           ///< of that case; infinite for a statement that does not hold
  double bound = 0.0;           ///< what that case was allowed; 0 with error 0: the numbers are the expected ones
  std::string evidence;         ///< that case in words; empty where nothing was off

  bool holds() const noexcept { return error <= bound; }
};

/// Those that do not hold, as the checkers return them.
[[nodiscard]] inline std::vector<broken_law> broken_of(std::vector<tried_law> const& laws) {
  std::vector<broken_law> broken;
  for (tried_law const& law : laws)
    if (!law.holds()) broken.push_back({law.name, law.evidence});
  return broken;
}

/// A law_book of numbers that should be near others: of each law the case that misses its tolerance by the largest
/// factor, or comes nearest to missing it, is kept as evidence.
class worst_case_book {
 public:
  /// NaN agrees with NaN and infinity with the same infinity; neither agrees with anything else.
  void compare(char const* law, std::string const& where, double actual, long double expected, double tolerance) {
    bool const alike = std::isnan(actual) ? std::isnan(expected) : static_cast<long double>(actual) == expected;
    bool const special = !std::isfinite(actual) || !std::isfinite(expected);
    double const error = alike     ? 0.0
                         : special ? std::numeric_limits<double>::infinity()
                                   : std::abs(static_cast<double>(actual - expected));
    record(law, where, actual, expected, error, tolerance);
  }

  void require(char const* law, std::string const& where, bool holds) {
    record(law, where, 0.0, 1.0, holds ? 0.0 : std::numeric_limits<double>::infinity(), 0.0);
  }

  /// All laws that anything was said about, in the order of their first mention.
  [[nodiscard]] std::vector<tried_law> laws() const {
    std::vector<tried_law> all;
    for (entry const& e : entries_) {
      std::ostringstream evidence;
      evidence.precision(9);
      evidence << e.where;
      if (e.error > 0.0 && (e.tolerance > 0.0 || std::isfinite(e.error)))
        evidence << ": expected " << static_cast<double>(e.expected) << ", got " << e.actual << ", off by " << e.error
                 << ", at most " << e.tolerance;
      all.push_back({e.law, e.comparisons, e.error, e.tolerance, evidence.str()});
    }
    return all;
  }

  std::vector<broken_law> broken() && { return broken_of(laws()); }

 private:
  struct entry {
    std::string law, where;
    double actual = 0.0;
    long double expected = 0.0L;
    double error = 0.0, tolerance = 0.0;
    std::size_t comparisons = 0;
  };

  static double share(double error, double tolerance) noexcept {
    return error == 0.0 ? 0.0 : tolerance > 0.0 ? error / tolerance : std::numeric_limits<double>::infinity();
  }

  void record(char const* law, std::string const& where, double actual, long double expected, double error,
              double tolerance) {
    entry& e = entry_of(law);
    ++e.comparisons;
    if (!(share(error, tolerance) > share(e.error, e.tolerance))) return;
    e.where = where;
    e.actual = actual;
    e.expected = expected;
    e.error = error;
    e.tolerance = tolerance;
  }

  entry& entry_of(char const* law) {
    if (last_ < entries_.size() && entries_[last_].law == law) return entries_[last_];  // laws come in runs
    for (last_ = 0; last_ < entries_.size(); ++last_)
      if (entries_[last_].law == law) return entries_[last_];
    entries_.emplace_back().law = law;
    return entries_.back();
  }

  std::vector<entry> entries_;
  std::size_t last_ = 0;
};

}  // namespace attune::testing
