// SPDX-License-Identifier: MIT
#include <attune/objective/unpaired/apo_zero_unpaired.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <attune/objective/sequence_sums.hpp>

#include "support/golden_file.hpp"
#include "support/keep_worst.hpp"
#include "support/proofs.hpp"
#include "support/unpaired_proofs.hpp"

using namespace attune;
using namespace attune::test;
using testing::relative_error;

namespace {

using setting = unpaired_setting<apo_zero_unpaired_options>;

std::vector<setting> option_grid() {
  std::vector<setting> grid;
  for (double const beta : {0.01, 0.1, 0.5, 2.0})
    for (auto const& [d, u] : {std::pair(1.0, 1.0), std::pair(1.33, 1.0), std::pair(0.5, 2.0)})
      grid.push_back({{beta, d, u}, 0.0});
  return grid;
}

// As the paper has it.
template <class T>
T textbook(T ratio, bool desirable, setting const& s) {
  T const reward = T(s.options.beta) * ratio;
  return desirable ? T(s.options.desirable_weight) * (T(1) - sigmoid(reward))
                   : T(s.options.undesirable_weight) * sigmoid(reward);
}

std::pair<long double, long double> limit(long double ratio, bool desirable, setting const& s) {
  long double const weight = desirable ? s.options.desirable_weight : s.options.undesirable_weight;
  long double const t = (desirable ? -1.0L : 1.0L) * s.options.beta * ratio;
  long double const e = std::exp(-std::abs(t));
  long double const slope = weight * s.options.beta * e / (1 + e) / (1 + e);
  return {weight * (t > 0 ? 1 / (1 + e) : e / (1 + e)), desirable ? -slope : slope};
}

}  // namespace

TEST_CASE("apo_zero_unpaired: every slope agrees with dual numbers, complex step and the formula to 1e-12") {
  auto const grid = option_grid();
  derivative_errors const errors = unpaired_derivatives(
      grid, [](auto ratio, bool desirable, setting const& s) { return textbook(ratio, desirable, s); });
  CHECK(errors.elements == grid.size() * 20 * 5);
  CHECK(errors.worst <= 1e-12);
  CHECK(errors.value <= 1e-12);
  CHECK(errors.central <= 1e-8);
  proofs::derivatives("apo_zero_unpaired", grid.size(), 20, errors.worst, errors.central);
}

TEST_CASE("apo_zero_unpaired: loss and token gradients are those of TRL's KTOTrainer") {
  double worst_value = 0.0, worst_gradient = 0.0;
  std::size_t compared = 0;
  for (golden_case const& c : read_golden("kto.txt")) {
    if (c.number("apo") == 0) continue;
    ++compared;
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    auto const desirable = c.integers<std::uint8_t>("desirable");
    std::vector<token_id> const tokens(mask.size(), 0);
    sequences_view const s{tokens, offsets, mask};
    std::vector<double> sums(s.size()), ref_sums(s.size()), slopes(s.total_tokens());
    sequence_sums<double>(c["logps"], s, sums);
    sequence_sums<double>(c["ref_logps"], s, ref_sums);
    apo_zero_unpaired_options const options{c.number("beta"), c.number("desirable_weight"),
                                            c.number("undesirable_weight")};
    double const loss =
        unpaired_loss<double>({.logps = sums, .ref_logps = ref_sums, .desirable = desirable}, sums, options, 0.0);
    test::keep_worst(worst_value, {relative_error(loss, c.number("loss"))});
    broadcast_slopes<double>(sums, s, slopes);
    for (std::size_t t = 0; t < slopes.size(); ++t)
      test::keep_worst(worst_gradient, {relative_error(slopes[t], c["dlogps"][t])});
  }
  CHECK(compared >= 60);
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
  proofs::golden("apo_zero_unpaired", "TRL", compared, worst_value, worst_gradient);
}

TEST_CASE("apo_zero_unpaired: it is KTO with z0 = 0, bit for bit") {
  for (setting const& s : option_grid())
    for (double ratio = -50.0; ratio <= 50.0; ratio += 1.7)
      for (bool const desirable : {false, true}) {
        auto const one = unpaired_objective(ratio, desirable, s.options);
        auto const kto = unpaired_objective(
            ratio, desirable, kto_options{s.options.beta, s.options.desirable_weight, s.options.undesirable_weight},
            0.0);
        CHECK(one.value == kto.value);
        CHECK(one.slope == kto.slope);
      }
  proofs::law("apo_zero_unpaired", "equal to KTO with z0 = 0, bit for bit");
}

TEST_CASE("apo_zero_unpaired: of a pair, the two losses add up to APO-zero's, which is 1 at policy = reference") {
  for (double const chosen : {-3.0, 0.0, 2.0})
    for (double const rejected : {-5.0, 0.0, 1.0}) {
      double const pair = (1.0 - sigmoid(0.1 * chosen)) + sigmoid(0.1 * rejected);
      double const both = unpaired_objective(chosen, true, apo_zero_unpaired_options{}).value +
                          unpaired_objective(rejected, false, apo_zero_unpaired_options{}).value;
      CHECK(both == doctest::Approx(pair).epsilon(1e-15));
      if (chosen == 0.0 && rejected == 0.0) CHECK(both == 1.0);
    }
  proofs::law("apo_zero_unpaired", "the losses of a pair's two responses add up to APO-zero's loss of the pair");
}

TEST_CASE("apo_zero_unpaired: at the edge of the numbers it gives the exact limit or names the row") {
  extreme_cases book;
  std::vector<setting> const grid{
      {{}, 0.0}, {{.beta = 1e6}, 0.0}, {{.beta = 1e-30}, 0.0}, {{.beta = 1e30, .desirable_weight = 1e30}, 0.0}};
  unpaired_scalar_extremes<double>(book, grid, limit);
  unpaired_scalar_extremes<float>(book, grid, limit);
  unpaired_batch_extremes(book, setting{{.beta = 0.3}, 0.0});
  book.expect(unpaired_batch(2).refusal(apo_zero_unpaired_options{}, 0.1),
              "expected unpaired_loss: baseline = 0 (APO-zero has none), got 0.1");
  book.expect(unpaired_batch(2).refusal(apo_zero_unpaired_options{.desirable_weight = -1.0}, 0.0),
              "expected apo_zero_unpaired_options.desirable_weight >= 0 and finite, got -1");
  book.expect(unpaired_batch(2).refusal(apo_zero_unpaired_options{.undesirable_weight = -1.0}, 0.0),
              "expected apo_zero_unpaired_options.undesirable_weight >= 0 and finite, got -1");
  book.expect(
      unpaired_batch(2).refusal(apo_zero_unpaired_options{.desirable_weight = 0.0, .undesirable_weight = 0.0}, 0.0),
      "expected apo_zero_unpaired_options.desirable_weight > 0 or undesirable_weight > 0: with neither there is "
      "nothing to learn");
  CHECK(book.cases >= 80);
  CHECK(book.failed == 0);
  proofs::extremes("apo_zero_unpaired", book.cases, book.failed);
}
