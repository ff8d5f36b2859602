// SPDX-License-Identifier: MIT
#pragma once

#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/unpaired/unpaired_loss.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/keep_worst.hpp"

/// What every unpaired objective is held to, written once: an options type, a baseline, and the formula as its paper
/// has it.
namespace attune::test {

/// Options and the baseline that goes with them.
template <class O>
struct unpaired_setting {
  O options;
  double baseline;
};

struct unpaired_batch {
  std::vector<double> logps, ref_logps, slopes;
  std::vector<std::uint8_t> desirable;
  std::vector<double> weights;

  explicit unpaired_batch(std::size_t examples, std::uint64_t seed = 0, double scale = 5.0, bool weighted = false)
      : slopes(examples, 7.0) {
    random_stream stream(seed);
    for (std::size_t i = 0; i < examples; ++i) {
      logps.push_back(-40.0 + scale * stream.normal());
      ref_logps.push_back(-40.0 + scale * stream.normal());
      desirable.push_back(i == seed % 3 || stream.below(2) == 0);
      if (weighted) weights.push_back(stream.below(4) == 0 ? 0.0 : std::exp(stream.normal()));
    }
  }

  template <class O>
  double loss(O const& options, double baseline, std::size_t total = 0) {
    return unpaired_loss<double>({.logps = logps, .ref_logps = ref_logps, .desirable = desirable, .weights = weights},
                                 std::span<double>(slopes), options, baseline, total);
  }

  template <class O>
  std::string refusal(O const& options, double baseline, std::size_t total = 0) {
    std::vector<double> const before = slopes;
    try {
      loss(options, baseline, total);
    } catch (contract_violation const& e) {
      return slopes == before ? e.what() : "wrote before it threw";
    }
    return "no error";
  }
};

struct derivative_errors {
  double worst = 0.0;    ///< against dual numbers and the complex step
  double central = 0.0;  ///< against central differences
  double value = 0.0;    ///< of the loss, against the formula
  std::size_t elements = 0;
};

/// Every element of the batch's slopes, 20 seeds for every setting. `textbook` is called as (log_ratio, desirable,
/// setting) for any number type.
template <class O, class Textbook>
derivative_errors unpaired_derivatives(std::vector<unpaired_setting<O>> const& grid, Textbook textbook) {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  using testing::relative_error;
  derivative_errors errors;
  for (auto const& setting : grid)
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      unpaired_batch b(5, seed, seed % 5 == 0 ? 0.1 : 6.0, seed % 2 == 1);
      std::size_t const total = seed % 3 == 0 ? 0 : 9;
      double const loss = b.loss(setting.options, setting.baseline, total);
      std::vector<double> const slopes = b.slopes;
      auto const formula = [&](std::size_t moved) {
        dual sum(0.0);
        for (std::size_t i = 0; i < b.logps.size(); ++i) {
          dual const ratio = dual(b.logps[i], i == moved ? 1.0 : 0.0) - dual(b.ref_logps[i]);
          dual const weight(b.weights.empty() ? 1.0 : b.weights[i]);
          sum += weight * textbook(ratio, b.desirable[i] != 0, setting);
        }
        return sum / dual(total == 0 ? 5.0 : static_cast<double>(total));
      };
      test::keep_worst(errors.value, {relative_error(loss, formula(0).value, 1e-3)});
      for (std::size_t i = 0; i < slopes.size(); ++i) {
        test::keep_worst(errors.worst, {relative_error(slopes[i], formula(i).derivative)});
        double const ratio = b.logps[i] - b.ref_logps[i];
        bool const desirable = b.desirable[i] != 0;
        double const own = unpaired_objective(ratio, desirable, setting.options, setting.baseline).slope;
        dual const by_dual = unpaired_objective(dual(ratio, 1.0), desirable, setting.options, setting.baseline).value;
        complex const by_step =
            unpaired_objective(complex(ratio, 1e-100), desirable, setting.options, setting.baseline).value;
        test::keep_worst(errors.worst,
                         {relative_error(own, by_dual.derivative), relative_error(own, by_step.imag() * 1e100)});
        ++errors.elements;
      }
      auto const f = [&] { return b.loss(setting.options, setting.baseline, total); };
      test::keep_worst(errors.central, {testing::check_gradient(f, b.logps, slopes, 1.0).worst_error});
    }
  return errors;
}

/// Counts cases at the edge and those that were answered wrongly, each of which it says.
struct extreme_cases {
  std::size_t cases = 0, failed = 0;

  void expect(bool holds, std::string const& what) {
    ++cases;
    if (holds) return;
    ++failed;
    MESSAGE("failed: " << what);
  }
  void expect(std::string const& got, std::string const& wanted) { expect(got == wanted, wanted + " | got: " + got); }
};

/// The scalar objective where its argument overflows, vanishes or is infinite, in float and double: finite, and equal
/// to the formula's limit, which `limit` gives in long double as {value, slope} for a log-ratio that may be infinite.
template <class T, class O, class Limit>
void unpaired_scalar_extremes(extreme_cases& book, std::vector<unpaired_setting<O>> const& grid, Limit limit) {
  constexpr T largest = std::numeric_limits<T>::max();
  constexpr T infinity = std::numeric_limits<T>::infinity();
  for (auto const& setting : grid)
    for (T const x : {T(0), std::numeric_limits<T>::denorm_min(), -std::numeric_limits<T>::denorm_min(), T(1e-30),
                      T(1e4), T(-1e4), T(3e38), T(-3e38), largest, -largest, infinity, -infinity})
      for (bool const desirable : {false, true}) {
        value_and_slope<T> const one = unpaired_objective(x, desirable, setting.options, setting.baseline);
        auto const [value, slope] = limit(static_cast<long double>(x), desirable, setting);
        auto const agrees = [&](T got, long double wanted) {
          long double const bounded =
              std::clamp(wanted, static_cast<long double>(-largest), static_cast<long double>(largest));
          long double const scale = std::max(1e-30L, std::abs(bounded));
          return std::isfinite(got) && std::abs(static_cast<long double>(got) - bounded) <=
                                           64 * std::numeric_limits<T>::epsilon() * scale + 1e-35L;
        };
        book.expect(agrees(one.value, value) && agrees(one.slope, slope),
                    "log-ratio " + std::to_string(x) + (desirable ? " desirable" : " undesirable") + ", beta " +
                        std::to_string(setting.options.beta) + ", baseline " + std::to_string(setting.baseline) + ": " +
                        std::to_string(one.value) + " " + std::to_string(one.slope) + ", expected " +
                        std::to_string(value) + " " + std::to_string(slope));
      }
  T const nan = std::numeric_limits<T>::quiet_NaN();
  book.expect(std::isnan(unpaired_objective(nan, true, grid.front().options, grid.front().baseline).value),
              "NaN stays NaN");
}

/// The batch's refusals, which are the same for all objectives.
template <class O>
void unpaired_batch_extremes(extreme_cases& book, unpaired_setting<O> const& setting) {
  double const inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  auto const refusal = [&](auto change, std::size_t total = 0) {
    unpaired_batch b(4, 1, 5.0, true);
    change(b);
    return b.refusal(setting.options, setting.baseline, total);
  };
  auto const broken = [&](std::vector<double> unpaired_batch::*field, std::size_t i, double value) {
    return refusal([&](unpaired_batch& b) { (b.*field)[i] = value; });
  };
  book.expect(refusal([](unpaired_batch&) {}), "no error");
  book.expect(broken(&unpaired_batch::logps, 3, nan), "expected unpaired_loss: logps[3] finite, got nan");
  book.expect(broken(&unpaired_batch::logps, 0, -inf), "expected unpaired_loss: logps[0] finite, got -inf");
  book.expect(broken(&unpaired_batch::logps, 1, inf), "expected unpaired_loss: logps[1] finite, got inf");
  book.expect(broken(&unpaired_batch::ref_logps, 2, nan), "expected unpaired_loss: ref_logps[2] finite, got nan");
  book.expect(broken(&unpaired_batch::ref_logps, 3, -inf), "expected unpaired_loss: ref_logps[3] finite, got -inf");
  book.expect(broken(&unpaired_batch::weights, 1, inf), "expected unpaired_loss: weights[1] finite, got inf");
  book.expect(broken(&unpaired_batch::weights, 2, -0.5), "expected unpaired_loss: weights[2] >= 0, got -0.500000");
  book.expect(refusal([](unpaired_batch& b) { b.desirable[3] = 2; }),
              "expected unpaired_loss: desirable[3] 0 or 1, got 2");
  book.expect(refusal([](unpaired_batch& b) { b.ref_logps.pop_back(); }),
              "expected unpaired_loss: ref_logps.size() == logps.size(), got 3");
  book.expect(refusal([](unpaired_batch& b) { b.desirable.pop_back(); }),
              "expected unpaired_loss: desirable.size() == logps.size(), got 3");
  book.expect(refusal([](unpaired_batch& b) { b.weights.pop_back(); }),
              "expected unpaired_loss: weights.size() == logps.size(), got 3");
  book.expect(refusal([](unpaired_batch& b) { b.slopes.pop_back(); }),
              "expected unpaired_loss: slopes.size() == logps.size(), got 3");
  book.expect(refusal([](unpaired_batch&) {}, 3), "expected unpaired_loss: total_examples >= logps.size(), got 3");
  book.expect(unpaired_batch(0).refusal(setting.options, setting.baseline),
              "expected unpaired_loss: at least one example");
  for (double const baseline : {nan, inf, -inf})
    book.expect(unpaired_batch(2).refusal(setting.options, baseline).starts_with("expected unpaired_loss: baseline = "),
                "a baseline that is not finite");
  for (double const beta : {0.0, -1.0, nan, inf}) {
    O options = setting.options;
    options.beta = beta;
    book.expect(unpaired_batch(2).refusal(options, setting.baseline).find("_options.beta > 0 and finite, got ") !=
                    std::string::npos,
                "beta " + std::to_string(beta));
  }
  // One example; the largest numbers that a batch may hold; weights that make its loss overflow.
  unpaired_batch single(1, 3);
  book.expect(single.loss(setting.options, setting.baseline) ==
                  unpaired_objective(single.logps[0] - single.ref_logps[0], single.desirable[0] != 0, setting.options,
                                     setting.baseline)
                      .value,
              "a batch of one");
  unpaired_batch huge(3, 4, 5.0, true);
  huge.logps = {-1e308, 1e308, -1e308};
  huge.ref_logps = {1e308, -1e308, 1e308};
  huge.weights = {1e308, 1e308, 1e308};
  book.expect(std::isfinite(huge.loss(setting.options, setting.baseline)), "a loss beyond the largest number");
  for (double const slope : huge.slopes) book.expect(std::isfinite(slope), "a slope beyond the largest number");
  unpaired_batch none(3, 4, 5.0, true);
  none.weights = {0.0, 0.0, 0.0};
  book.expect(none.loss(setting.options, setting.baseline) == 0.0, "no weight, no loss");
  for (double const slope : none.slopes) book.expect(slope == 0.0, "no weight, no slope");
}

}  // namespace attune::test
