// SPDX-License-Identifier: MIT
#include <attune/objective/unpaired/kto.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <attune/objective/sequence_sums.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"
#include "support/keep_worst.hpp"
#include "support/proofs.hpp"
#include "support/unpaired_proofs.hpp"

using namespace attune;
using namespace attune::test;
using testing::relative_error;

namespace {

using setting = unpaired_setting<kto_options>;

std::vector<setting> option_grid() {
  std::vector<setting> grid;
  for (double const beta : {0.01, 0.1, 0.5, 2.0})
    for (auto const& [d, u] : {std::pair(1.0, 1.0), std::pair(1.33, 1.0), std::pair(0.5, 2.0)})
      for (double const kl : {0.0, 0.7, 12.0}) grid.push_back({{beta, d, u}, kl});
  return grid;
}

// As the paper has it.
template <class T>
T textbook(T ratio, bool desirable, setting const& s) {
  T const beta(s.options.beta), kl(s.baseline);
  if (desirable) return T(s.options.desirable_weight) * (T(1) - sigmoid(beta * (ratio - kl)));
  return T(s.options.undesirable_weight) * (T(1) - sigmoid(beta * (kl - ratio)));
}

std::pair<long double, long double> limit(long double ratio, bool desirable, setting const& s) {
  long double const weight = desirable ? s.options.desirable_weight : s.options.undesirable_weight;
  long double const t = (desirable ? -1.0L : 1.0L) * s.options.beta * (ratio - s.baseline);
  long double const e = std::exp(-std::abs(t));
  long double const slope = weight * s.options.beta * e / (1 + e) / (1 + e);
  return {weight * (t > 0 ? 1 / (1 + e) : e / (1 + e)), desirable ? -slope : slope};
}

std::string refusal(std::vector<double> const& logps, std::vector<double> const& ref_logps) {
  try {
    (void)kto_kl<double>(logps, ref_logps);
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("kto: every slope agrees with dual numbers, complex step and the paper's formula to 1e-12") {
  auto const grid = option_grid();
  derivative_errors const errors = unpaired_derivatives(
      grid, [](auto ratio, bool desirable, setting const& s) { return textbook(ratio, desirable, s); });
  CHECK(errors.elements == grid.size() * 20 * 5);
  CHECK(errors.worst <= 1e-12);
  CHECK(errors.value <= 1e-12);
  CHECK(errors.central <= 1e-8);
  proofs::derivatives("kto", grid.size(), 20, errors.worst, errors.central);
}

TEST_CASE("kto: loss, KL estimate and token gradients are those of TRL's KTOTrainer") {
  double worst_value = 0.0, worst_gradient = 0.0;
  std::size_t compared = 0;
  for (golden_case const& c : read_golden("kto.txt")) {
    if (c.number("apo") != 0) continue;
    ++compared;
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    auto const desirable = c.integers<std::uint8_t>("desirable");
    std::vector<token_id> const tokens(mask.size(), 0);
    sequences_view const s{tokens, offsets, mask};
    std::vector<double> sums(s.size()), ref_sums(s.size()), slopes(s.total_tokens());
    sequence_sums<double>(c["logps"], s, sums);
    sequence_sums<double>(c["ref_logps"], s, ref_sums);
    double const kl = kto_kl<double>(c["kl_logps"], c["kl_ref_logps"]);
    test::keep_worst(worst_value, {relative_error(kl, c.number("kl"), 1e-10)});
    kto_options const options{c.number("beta"), c.number("desirable_weight"), c.number("undesirable_weight")};
    double const loss =
        unpaired_loss<double>({.logps = sums, .ref_logps = ref_sums, .desirable = desirable}, sums, options, kl);
    test::keep_worst(worst_value, {relative_error(loss, c.number("loss"))});
    broadcast_slopes<double>(sums, s, slopes);
    for (std::size_t t = 0; t < slopes.size(); ++t)
      test::keep_worst(worst_gradient, {relative_error(slopes[t], c["dlogps"][t])});
  }
  CHECK(compared >= 200);
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
  proofs::golden("kto", "TRL", compared, worst_value, worst_gradient);
}

TEST_CASE("kto: policy equal to reference is half of the weight, with slopes of a quarter of weight times beta") {
  for (setting const& s : option_grid()) {
    auto const good = unpaired_objective(0.0, true, s.options, 0.0),
               bad = unpaired_objective(0.0, false, s.options, 0.0);
    CHECK(good.value == s.options.desirable_weight / 2);
    CHECK(bad.value == s.options.undesirable_weight / 2);
    CHECK(good.slope == doctest::Approx(-s.options.desirable_weight * s.options.beta / 4).epsilon(1e-15));
    CHECK(bad.slope == doctest::Approx(s.options.undesirable_weight * s.options.beta / 4).epsilon(1e-15));
  }
  proofs::law("kto", "at policy = reference the loss is half of the weight, the slope a quarter of weight times beta");
}

TEST_CASE("kto: what a desirable example loses an undesirable one gains, and gains count from z0") {
  random_stream stream(1);
  kto_options const o{.beta = 0.3};
  for (int i = 0; i < 100; ++i) {
    double const ratio = 8 * stream.normal(), kl = std::abs(3 * stream.normal());
    auto const good = unpaired_objective(ratio, true, o, kl), bad = unpaired_objective(ratio, false, o, kl);
    CHECK(good.value + bad.value == doctest::Approx(1.0).epsilon(1e-15));
    CHECK(good.slope == -bad.slope);
    auto const shifted = unpaired_objective(ratio - kl, true, o, 0.0);
    CHECK(shifted.value == good.value);
    CHECK(unpaired_objective(2 * kl - ratio, true, o, kl).slope == doctest::Approx(good.slope).epsilon(1e-13));
  }
  proofs::law(
      "kto", "desirable + undesirable = 1 at equal weights; the loss is a function of D - z0; the slope is even in it");
}

TEST_CASE("kto: monotone in the log-ratio, bounded by the weight, steepest at z0") {
  kto_options const o{.beta = 0.2, .desirable_weight = 1.5};
  double previous = 2.0, steepest = unpaired_objective(3.0, true, o, 3.0).slope;
  for (double ratio = -100.0; ratio <= 100.0; ratio += 0.5) {
    auto const one = unpaired_objective(ratio, true, o, 3.0);
    CHECK(one.value < previous);
    CHECK(one.value <= 1.5);
    CHECK(one.slope >= steepest);
    previous = one.value;
  }
  proofs::law("kto", "monotone in the log-ratio, bounded by the weight, steepest at z0");
}

TEST_CASE("kto_kl: the mean log-ratio of mismatched pairs, 0 where that is negative") {
  CHECK(kto_kl<double>(std::vector{-1.0, -2.0, -3.0}, std::vector{-4.0, -4.0, -4.0}) == 2.0);
  CHECK(kto_kl<double>(std::vector{-4.0, -4.0}, std::vector{-1.0, -2.0}) == 0.0);
  CHECK(kto_kl<double>(std::vector{-1.0, -4.0}, std::vector{-4.0, -1.0}) == 0.0);
  CHECK(kto_kl<float>(std::vector{-1.5f, -1.5f}, std::vector{-2.0f, -2.0f}) == 0.5);
  std::vector<double> const many(100, -1.0), other(100, -2.0);
  std::size_t const before = allocations();
  double const kl = kto_kl<double>(many, other);
  CHECK(allocations() == before);
  CHECK(kl == 1.0);
  proofs::law("kto", "z0 is the mean log-ratio of the mismatched pairs, never below 0");
}

TEST_CASE("kto: at the edge of the numbers it gives the exact limit or names the row") {
  extreme_cases book;
  std::vector<setting> const grid{{{}, 0.0},
                                  {{.beta = 1e6}, 0.0},
                                  {{.beta = 0.1, .desirable_weight = 2.0}, 1e4},
                                  {{.beta = 1e-30}, 3.0},
                                  {{.beta = 1e30, .undesirable_weight = 1e30}, 0.0}};
  unpaired_scalar_extremes<double>(book, grid, limit);
  unpaired_scalar_extremes<float>(book, grid, limit);
  unpaired_batch_extremes(book, setting{{.beta = 0.3}, 0.5});
  double const inf = std::numeric_limits<double>::infinity();
  book.expect(refusal({}, {}),
              "expected kto_kl: two mismatched pairs or more, which takes a step of two examples or more, got 0");
  book.expect(refusal({-1.0}, {-1.0}),
              "expected kto_kl: two mismatched pairs or more, which takes a step of two examples or more, got 1");
  book.expect(refusal({-1.0, -1.0}, {-1.0}), "expected kto_kl: ref_logps.size() == logps.size(), got 1");
  book.expect(refusal({-1.0, std::nan("")}, {-1.0, -1.0}), "expected kto_kl: logps[1] finite, got nan");
  book.expect(refusal({-1.0, -1.0}, {-inf, -1.0}), "expected kto_kl: ref_logps[0] finite, got -inf");
  double const huge = 1e308;
  book.expect(relative_error(kto_kl<double>(std::vector{huge, huge}, std::vector{0.0, 0.0}), 1e308) <= 1e-15,
              "a mean of the largest numbers");
  book.expect(kto_kl<double>(std::vector{huge, huge}, std::vector{-huge, -huge}) == std::numeric_limits<double>::max(),
              "ratios beyond the largest number");
  book.expect(kto_kl<double>(std::vector{-huge, -huge}, std::vector{huge, huge}) == 0.0,
              "ratios beyond the lowest number");
  book.expect(unpaired_batch(2).refusal(kto_options{}, -0.1),
              "expected unpaired_loss: baseline = kto_kl(...) >= 0 and finite (KTO), got -0.1");
  for (double const weight : {-1.0, std::nan(""), inf}) {
    book.expect(unpaired_batch(2)
                    .refusal(kto_options{.desirable_weight = weight}, 0.0)
                    .starts_with("expected kto_options.desirable_weight >= 0 and finite, got "),
                "desirable_weight");
    book.expect(unpaired_batch(2)
                    .refusal(kto_options{.undesirable_weight = weight}, 0.0)
                    .starts_with("expected kto_options.undesirable_weight >= 0 and finite, got "),
                "undesirable_weight");
  }
  book.expect(
      unpaired_batch(2).refusal(kto_options{.desirable_weight = 0.0, .undesirable_weight = 0.0}, 0.0),
      "expected kto_options.desirable_weight > 0 or undesirable_weight > 0: with neither there is nothing to learn");
  CHECK(book.cases >= 80);
  CHECK(book.failed == 0);
  proofs::extremes("kto", book.cases, book.failed);
}
