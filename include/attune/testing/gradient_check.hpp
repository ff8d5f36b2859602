// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

/// Holding a gradient against central differences of the function it claims to belong to. Needs no test framework:
///
///   auto const report = testing::check_gradient([&] { return loss(x); }, x, gradient);
///   if (report.worst_error > 1e-7) ...   // report.worst_index, .expected, .actual
namespace attune::testing {

/// |a - b| / max(|a|, |b|, floor): relative error, absolute below `floor`. NaN if either is NaN.
[[nodiscard]] inline double relative_error(double a, double b, double floor = (std::numeric_limits<double>::min)()) {
  double const difference = std::abs(a - b);
  if (!(difference > 0.0)) return difference;
  return difference / (std::max)({std::abs(a), std::abs(b), floor});
}

/// df/dx by two central differences and one step of Richardson extrapolation; error O(step^4) plus rounding, about
/// 1e-10 relative in double for smooth f of moderate scale. f reads the variable x, which is moved and put back.
template <class F>
[[nodiscard]] double central_difference(F&& f, double& x, double step = 1e-4) {
  double const keep = x;
  auto const slope = [&](double h) {
    x = keep + h;
    double const up = static_cast<double>(f());
    x = keep - h;
    double const down = static_cast<double>(f());
    x = keep;
    return (up - down) / (2.0 * h);
  };
  double const h = step * (std::max)(1.0, std::abs(keep));
  return (4.0 * slope(h / 2.0) - slope(h)) / 3.0;
}

struct gradient_report {
  double worst_error = 0.0;  ///< relative_error of the worst element; infinite where an element is NaN
  std::size_t worst_index = 0;
  double expected = 0.0;  ///< the central difference there
  double actual = 0.0;    ///< the gradient checked there
};

/// Checks every element. f() reads x; gradient has x's size. `floor`: below this magnitude errors count as absolute,
/// since a difference of function values cannot resolve less than about 1e-12 of the function.
template <class F>
[[nodiscard]] gradient_report check_gradient(F&& f, std::span<double> x, std::span<double const> gradient,
                                             double floor = 1e-3, double step = 1e-4) {
  gradient_report report;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double const expected = central_difference(f, x[i], step);
    double const measured = relative_error(expected, gradient[i], floor);
    double const error = std::isnan(measured) ? std::numeric_limits<double>::infinity() : measured;
    if (error > report.worst_error) report = {error, i, expected, gradient[i]};
  }
  return report;
}

}  // namespace attune::testing
