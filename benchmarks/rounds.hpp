// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <ostream>
#include <vector>

/// Timing in interleaved rounds: every candidate runs once per round, ratios are taken within a round, and their median is
/// what is reported.
namespace rounds {

struct summary {
  double median, least, most;
};

inline summary of(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return {x[x.size() / 2], x.front(), x.back()};
}

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Seconds of one call, over as many as take `budget` seconds.
template <class F>
double seconds(F const& f, double budget = 5e-3) {
  std::size_t calls = 0;
  double const start = now();
  double end = start;
  for (; end < start + budget; end = now(), ++calls) f();
  return (end - start) / static_cast<double>(calls);
}

inline void write(std::ostream& out, char const* name, summary s) {
  out << "\"" << name << "\": {\"median\": " << s.median << ", \"min\": " << s.least << ", \"max\": " << s.most << "}";
}

}  // namespace rounds
