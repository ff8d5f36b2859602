// SPDX-License-Identifier: MIT
#include <attune/objective/pairwise/aot.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/proofs.hpp"

using namespace attune;

namespace {

struct batch {
  std::vector<double> chosen, rejected, ref_chosen, ref_rejected, dchosen, drejected;
  aot_workspace scratch;

  explicit batch(std::size_t pairs, std::uint64_t seed) : dchosen(pairs), drejected(pairs) {
    random_stream stream(seed, 9);
    for (auto* const values : {&chosen, &rejected, &ref_chosen, &ref_rejected})
      for (std::size_t i = 0; i < pairs; ++i) values->push_back(-20.0 + 4.0 * stream.normal());
  }
  double loss(aot_options const& o, pair_totals totals = {}, pair_ratios ratios = {}) {
    return aot_loss<double>({.chosen = chosen, .rejected = rejected, .ref_chosen = ref_chosen, .ref_rejected = ref_rejected},
                            {.chosen = dchosen, .rejected = drejected}, o, scratch, totals, ratios);
  }
};

std::vector<aot_options> grid() {
  std::vector<aot_options> all;
  for (double const beta : {0.01, 0.1, 1.0})
    for (double const e : {0.0, 0.1, 0.5})
      for (auto const comparison : {aot_comparison::paired, aot_comparison::unpaired}) all.push_back({beta, e, comparison});
  return all;
}

// The derivatives of the batch loss in one number, by dual numbers and ranks found by counting instead of by sorting.
double dual_error(batch const& b, aot_options const& o) {
  using dual = testing::dual_number<double>;
  std::size_t const n = b.chosen.size();
  bool const paired = o.comparison == aot_comparison::paired;
  std::vector<double> above(n), below(n);
  for (std::size_t i = 0; i < n; ++i) {
    above[i] = paired ? b.chosen[i] - b.rejected[i] : b.chosen[i] - b.ref_chosen[i];
    below[i] = paired ? b.ref_chosen[i] - b.ref_rejected[i] : b.rejected[i] - b.ref_rejected[i];
  }
  auto const rank = [n](std::vector<double> const& v, std::size_t i) {
    std::size_t r = 0;
    for (std::size_t j = 0; j < n; ++j) r += v[j] < v[i] || (v[j] == v[i] && j < i) ? 1 : 0;
    return r;
  };
  dpo_options const scalar{.beta = o.beta, .label_smoothing = o.label_smoothing};
  double worst = 0.0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      if (rank(above, i) == rank(below, j)) {
        double const share = 1.0 / static_cast<double>(n);
        double const up = dpo_objective(dual(above[i], 1), dual(below[j]), scalar).value.derivative * share;
        double const down = dpo_objective(dual(above[i]), dual(below[j], 1), scalar).value.derivative * share;
        worst = (std::max)(worst, testing::relative_error(b.dchosen[i], up, 1e-6));
        worst = (std::max)(worst, testing::relative_error(b.drejected[paired ? i : j], down, 1e-6));
      }
  return worst;
}

}  // namespace

TEST_CASE("aot: every element of the gradient agrees with dual numbers and with a central difference") {
  for (auto const comparison : {aot_comparison::paired, aot_comparison::unpaired}) {
    double exact = 0.0, central = 0.0;
    std::size_t combinations = 0;
    for (aot_options const& o : grid()) {
      if (o.comparison != comparison) continue;
      ++combinations;
      for (std::uint64_t seed = 0; seed < 20; ++seed) {
        batch b(6, seed);
        b.loss(o);
        exact = (std::max)(exact, dual_error(b, o));
        auto const dchosen = b.dchosen, drejected = b.drejected;
        auto const f = [&] { return b.loss(o); };
        central = (std::max)(central, testing::check_gradient(f, b.chosen, dchosen, 1.0, 1e-5).worst_error);
        central = (std::max)(central, testing::check_gradient(f, b.rejected, drejected, 1.0, 1e-5).worst_error);
      }
    }
    CHECK(exact <= 1e-12);
    CHECK(central <= 1e-8);
    proofs::derivatives(comparison == aot_comparison::paired ? "aot" : "aot_unpaired", combinations, 20, exact, central);
  }
}

TEST_CASE("aot: of one pair it is DPO's loss; unpaired, whom a rejected response stands beside does not matter") {
  for (aot_options const& o : grid())
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      batch one(1, seed);
      double const expected =
          dpo_objective(one.chosen[0] - one.ref_chosen[0], one.rejected[0] - one.ref_rejected[0],
                        {.beta = o.beta, .label_smoothing = o.label_smoothing}).value;
      CHECK(one.loss(o) == doctest::Approx(expected).epsilon(1e-13));
      batch b(5, seed);
      double const before = b.loss(o);
      auto const slopes = b.drejected;
      std::rotate(b.rejected.begin(), b.rejected.begin() + 2, b.rejected.end());
      std::rotate(b.ref_rejected.begin(), b.ref_rejected.begin() + 2, b.ref_rejected.end());
      double const after = b.loss(o);
      if (o.comparison == aot_comparison::unpaired) {
        CHECK(after == doctest::Approx(before).epsilon(1e-14));
        for (std::size_t i = 0; i < 5; ++i) CHECK(b.drejected[i] == doctest::Approx(slopes[(i + 2) % 5]).epsilon(1e-12));
      } else {
        CHECK(after != doctest::Approx(before).epsilon(1e-9));
      }
    }
  proofs::law("aot", "of one pair it is DPO's loss");
  proofs::law("aot_unpaired", "of one pair it is DPO's loss");
  proofs::law("aot_unpaired", "the order of the rejected responses does not matter");
}

TEST_CASE("aot: equal values keep their order, weights go with what lies above, and a step must be whole") {
  batch b(4, 1);
  b.chosen = b.rejected = b.ref_chosen = b.ref_rejected = {1.0, 1.0, 1.0, 1.0};
  b.loss({.beta = 0.4});
  CHECK(b.dchosen == std::vector<double>(4, -0.05));
  CHECK(b.drejected == std::vector<double>(4, 0.05));
  // Two that tie above stand, in the order in which they came, beside what lies below from the smallest up.
  batch tied(2, 1);
  tied.chosen = {1.0, 1.0};
  tied.rejected = {7.0, -3.0};
  tied.ref_chosen = tied.ref_rejected = {0.0, 0.0};
  tied.loss({.beta = 1.0, .comparison = aot_comparison::unpaired});
  auto const slope = [](double above, double below) { return dpo_objective(above, below, {.beta = 1.0}).chosen / 2.0; };
  CHECK(tied.dchosen == std::vector<double>{slope(1.0, -3.0), slope(1.0, 7.0)});
  CHECK(tied.drejected == std::vector<double>{-slope(1.0, 7.0), -slope(1.0, -3.0)});
  std::vector<double> const weights{4.0, 0.5};
  double const weighted = aot_loss<double>({.chosen = tied.chosen, .rejected = tied.rejected, .ref_chosen = tied.ref_chosen,
                                            .ref_rejected = tied.ref_rejected, .weights = weights},
                                           {.chosen = tied.dchosen, .rejected = tied.drejected},
                                           {.beta = 1.0, .comparison = aot_comparison::unpaired}, tied.scratch);
  CHECK(tied.dchosen == std::vector<double>{4.0 * slope(1.0, -3.0), 0.5 * slope(1.0, 7.0)});
  CHECK(tied.drejected == std::vector<double>{-0.5 * slope(1.0, 7.0), -4.0 * slope(1.0, -3.0)});
  CHECK(weighted == doctest::Approx((4.0 * dpo_objective(1.0, -3.0, {.beta = 1.0}).value +
                                     0.5 * dpo_objective(1.0, 7.0, {.beta = 1.0}).value) / 2.0).epsilon(1e-14));
  batch c(3, 2);
  CHECK_THROWS_WITH_AS(c.loss({}, {.pairs = 5}), doctest::Contains("the pairs of a step in one batch"), contract_violation);
  CHECK(c.loss({}, {.pairs = 3}) == c.loss({}));
  CHECK_THROWS_WITH_AS(c.loss({}, {}, {.divergence = {f_divergence_type::forward_kl}}),
                       doctest::Contains("an f-divergence has no effect on the loss aot"), contract_violation);
}

TEST_CASE("aot: allocates only while batches grow") {
  batch b(50, 3);
  b.loss({});
  std::size_t const before = allocations();
  b.loss({});
  CHECK(allocations() == before);
}
