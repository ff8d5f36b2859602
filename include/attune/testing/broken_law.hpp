// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

/// Executable laws: what a concept promises beyond its signatures, tried out on a user's own type. No test framework is
/// needed: a checker returns the laws that were found broken, each with the numbers that show it.
///
///   auto const broken = testing::check_policy_laws(my_policy, vocabulary);
///   for (testing::broken_law const& law : broken) std::cerr << law.name << ": " << law.evidence << '\n';
///   testing::expect_laws(broken);   // or: throw law_violation
namespace attune::testing {

struct broken_law {
  std::string name;      ///< as in the concept's documentation: "causal"
  std::string evidence;  ///< what was asked, what came out, what was expected
};

struct law_violation : std::logic_error {
  using std::logic_error::logic_error;
};

/// Throws law_violation listing every broken law; does nothing if there is none.
inline void expect_laws(std::vector<broken_law> const& broken) {
  if (broken.empty()) return;
  std::string list;
  for (broken_law const& law : broken) list += (list.empty() ? "" : "; ") + law.name + ": " + law.evidence;
  throw law_violation(list);
}

/// For tests of the checkers: is the law of this name among the broken?
[[nodiscard]] inline bool breaks(std::vector<broken_law> const& broken, std::string const& name) {
  return std::any_of(broken.begin(), broken.end(), [&](broken_law const& law) { return law.name == name; });
}

/// Collects broken laws; of each law the first piece of evidence is kept.
class law_book {
 public:
  void expect(bool holds, char const* name, std::string const& evidence) {
    if (!holds && !breaks(broken_, name)) broken_.push_back({name, evidence});
  }
  std::vector<broken_law> broken() && { return std::move(broken_); }

 private:
  std::vector<broken_law> broken_;
};

/// Equal bits; NaN equals itself, 0 differs from -0.
template <class T>
[[nodiscard]] bool same_bits(std::span<T const> a, std::span<T const> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

/// Largest |a - b| / max(1, |b|); infinite where a NaN or a difference in size spoils the comparison.
template <class T>
[[nodiscard]] double largest_difference(std::span<T const> a, std::span<T const> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    double const y = static_cast<double>(b[i]);
    double const difference = std::abs(static_cast<double>(a[i]) - y) / (std::max)(1.0, std::abs(y));
    worst = std::isnan(difference) ? std::numeric_limits<double>::infinity() : (std::max)(worst, difference);
  }
  return worst;
}

/// What rounding may cost a model in T: 1e-10 in double, 2e-4 in float.
template <class T>
inline constexpr double model_tolerance = sizeof(T) >= 8 ? 1e-10 : 2e-4;

}  // namespace attune::testing
