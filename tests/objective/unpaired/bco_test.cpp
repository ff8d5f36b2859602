// SPDX-License-Identifier: MIT
#include <attune/objective/unpaired/bco.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"
#include "support/keep_worst.hpp"
#include "support/proofs.hpp"
#include "support/unpaired_proofs.hpp"

using namespace attune;
using namespace attune::test;
using testing::relative_error;

namespace {

using setting = unpaired_setting<bco_options>;

std::vector<setting> option_grid() {
  std::vector<setting> grid;
  for (double const beta : {0.01, 0.1, 0.5, 2.0})
    for (double const delta : {-3.0, 0.0, 0.5, 10.0}) grid.push_back({{beta}, delta});
  return grid;
}

// As the paper has it.
template <class T>
T textbook(T ratio, bool desirable, setting const& s) {
  T const reward = T(s.options.beta) * ratio, delta(s.baseline);
  return desirable ? -log_sigmoid(reward - delta) : -log_sigmoid(-(reward - delta));
}

std::pair<long double, long double> limit(long double ratio, bool desirable, setting const& s) {
  long double const z = (desirable ? 1.0L : -1.0L) * (s.options.beta * ratio - s.baseline);
  long double const e = std::exp(-std::abs(z));
  long double const value = std::log1p(e) + (z < 0 ? -z : 0.0L);
  long double const slope = -s.options.beta * (z > 0 ? e / (1 + e) : 1 / (1 + e));
  return {value, desirable ? slope : -slope};
}

template <class F>
std::string refusal(F call) {
  try {
    call();
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("bco: every slope agrees with dual numbers, complex step and the paper's formula to 1e-12") {
  auto const grid = option_grid();
  derivative_errors const errors = unpaired_derivatives(
      grid, [](auto ratio, bool desirable, setting const& s) { return textbook(ratio, desirable, s); });
  CHECK(errors.elements == grid.size() * 20 * 5);
  CHECK(errors.worst <= 1e-12);
  CHECK(errors.value <= 1e-12);
  CHECK(errors.central <= 1e-8);
  proofs::derivatives("bco", grid.size(), 20, errors.worst, errors.central);
}

TEST_CASE("bco: loss, gradients, running delta and density-ratio weights are those of TRL's BCOTrainer") {
  double worst_value = 0.0, worst_gradient = 0.0;
  auto const cases = read_golden("bco.txt");
  for (golden_case const& c : cases) {
    auto const desirable = c.integers<std::uint8_t>("desirable");
    bco_options const options{c.number("beta")};
    std::vector<double> rewards(desirable.size()), weights, slopes(desirable.size());
    for (std::size_t i = 0; i < rewards.size(); ++i) rewards[i] = options.beta * (c["logps"][i] - c["ref_logps"][i]);
    bco_delta delta{c.number("mean"), c.number("count")};
    if (c.number("train") != 0) delta = updated(delta, rewards);
    test::keep_worst(worst_value, {relative_error(delta.mean, c.number("delta")),
                                   relative_error(delta.count, c.number("count_after"))});
    std::size_t rejected = 0;
    if (!c["probabilities"].empty())
      for (std::uint8_t const d : desirable)
        weights.push_back(d != 0 ? 1.0 : density_ratio_weight(c["probabilities"][rejected++]));
    double const loss = unpaired_loss<double>(
        {.logps = c["logps"], .ref_logps = c["ref_logps"], .desirable = desirable, .weights = weights}, slopes, options,
        c.number("delta"));
    test::keep_worst(worst_value, {relative_error(loss, c.number("loss"))});
    for (std::size_t i = 0; i < slopes.size(); ++i)
      test::keep_worst(worst_gradient, {relative_error(slopes[i], c["dlogps"][i])});
  }
  CHECK(cases.size() >= 100);
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
  proofs::golden("bco", "TRL", cases.size(), worst_value, worst_gradient);
}

TEST_CASE("bco: policy equal to reference with delta 0 is log 2, with slopes of half of beta") {
  for (double const beta : {0.01, 0.1, 2.0})
    for (bool const desirable : {false, true}) {
      auto const one = unpaired_objective(0.0, desirable, bco_options{beta}, 0.0);
      CHECK(one.value == doctest::Approx(std::numbers::ln2).epsilon(1e-15));
      CHECK(one.slope == (desirable ? -beta / 2 : beta / 2));
    }
  proofs::law("bco", "at policy = reference and delta = 0 the loss is log 2, the slope half of beta");
}

TEST_CASE("bco: the two losses of one response differ by its reward less delta, and their slopes by beta") {
  random_stream stream(1);
  for (int i = 0; i < 100; ++i) {
    double const ratio = 30 * stream.normal(), delta = stream.normal();
    auto const good = unpaired_objective(ratio, true, bco_options{0.2}, delta);
    auto const bad = unpaired_objective(ratio, false, bco_options{0.2}, delta);
    CHECK(bad.value - good.value == doctest::Approx(0.2 * ratio - delta).epsilon(1e-12));
    CHECK(bad.slope - good.slope == doctest::Approx(0.2).epsilon(1e-14));
  }
  proofs::law("bco", "undesirable - desirable = reward - delta, of the slopes: beta");
}

TEST_CASE("bco: the optimum of a response seen as desirable p times is the reward with logit p") {
  // d/dD [p good + (1 - p) bad] = 0 where s(r - delta) = p: the classifier that the paper is named for.
  for (double const p : {0.1, 0.5, 0.8}) {
    double const delta = 0.4, beta = 0.5, ratio = (std::log(p / (1 - p)) + delta) / beta;
    double const slope = p * unpaired_objective(ratio, true, bco_options{beta}, delta).slope +
                         (1 - p) * unpaired_objective(ratio, false, bco_options{beta}, delta).slope;
    CHECK(std::abs(slope) <= 1e-15);
  }
  proofs::law("bco", "stationary where sigmoid(reward - delta) is the share of desirable labels");
}

TEST_CASE("bco: delta is the mean of all rewards so far, however they came") {
  random_stream stream(3);
  std::vector<double> rewards(40);
  double sum = 0.0;
  for (double& r : rewards) sum += r = 3 * stream.normal();
  std::span<double const> const all(rewards);
  bco_delta const whole = updated({}, all);
  CHECK(whole.mean == doctest::Approx(sum / 40).epsilon(1e-15));
  CHECK(whole.count == 40.0);
  std::size_t const before = allocations();
  bco_delta const again = updated({}, all);
  CHECK(allocations() == before);
  CHECK(again.mean == whole.mean);
  bco_delta by_parts;
  for (std::size_t first = 0; first < 40; first += 8) by_parts = updated(by_parts, all.subspan(first, 8));
  CHECK(by_parts.mean == doctest::Approx(whole.mean).epsilon(1e-14));
  CHECK(by_parts.count == 40.0);
  proofs::law("bco", "delta is the mean of all rewards seen, however they were cut into steps");
}

TEST_CASE("bco: density ratios are p / (1 - p) between their bounds") {
  CHECK(density_ratio_weight(0.5) == doctest::Approx(1.0).epsilon(1e-7));
  CHECK(density_ratio_weight(0.8) == doctest::Approx(4.0).epsilon(1e-7));
  CHECK(density_ratio_weight(0.0) == 0.5);
  CHECK(density_ratio_weight(1.0) == 10.0);
  CHECK(density_ratio_weight(0.9, {.min_density_ratio = 0.0, .max_density_ratio = 2.0}) == 2.0);
}

TEST_CASE("bco: at the edge of the numbers it gives the exact limit or names the row") {
  extreme_cases book;
  std::vector<setting> const grid{{{}, 0.0},       {{1e6}, 0.0},  {{0.1}, 1e4},
                                  {{1e-30}, -3.0}, {{1e30}, 0.0}, {{0.1}, -1e300}};
  unpaired_scalar_extremes<double>(book, grid, limit);
  unpaired_scalar_extremes<float>(book, std::vector(grid.begin(), grid.end() - 1), limit);  // -1e300 is no float
  unpaired_batch_extremes(book, setting{{0.3}, 0.5});
  double const inf = std::numeric_limits<double>::infinity(), largest = std::numeric_limits<double>::max();
  book.expect(refusal([] { (void)updated({}, {}); }), "expected bco_delta: a reward or more");
  for (double const bad : {inf, -inf, std::nan("")})
    book.expect(refusal([&] {
                  (void)updated({}, std::vector{1.0, bad});
                }).starts_with("expected bco_delta: rewards[1] finite, got "),
                "a reward that is not finite");
  book.expect(relative_error(updated({}, std::vector{largest, largest}).mean, largest) <= 1e-15,
              "a mean of the largest numbers");
  book.expect(std::isfinite(updated({-largest, 2.0}, std::vector{largest, largest}).mean),
              "a move beyond the largest number");
  for (double const p : {-0.1, 1.1, std::nan("")})
    book.expect(refusal([&] {
                  (void)density_ratio_weight(p);
                }).starts_with("expected density_ratio_weight: probability_desirable in [0, 1], got "),
                "probability");
  book.expect(refusal([] { (void)density_ratio_weight(0.5, {.min_density_ratio = -1.0}); }),
              "expected density_ratio_options.min_density_ratio >= 0 and finite, got -1");
  book.expect(refusal([] { (void)density_ratio_weight(0.5, {.max_density_ratio = 0.1}); }),
              "expected density_ratio_options.max_density_ratio >= min_density_ratio and finite, got 0.1");
  CHECK(book.cases >= 80);
  CHECK(book.failed == 0);
  proofs::extremes("bco", book.cases, book.failed);
}
