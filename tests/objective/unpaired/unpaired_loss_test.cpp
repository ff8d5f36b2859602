// SPDX-License-Identifier: MIT
#include <attune/objective/unpaired/unpaired_loss.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include <attune/objective/unpaired/apo_zero_unpaired.hpp>
#include <attune/objective/unpaired/bco.hpp>
#include <attune/objective/unpaired/kto.hpp>

#include "support/allocations.hpp"
#include "support/unpaired_proofs.hpp"

using namespace attune;
using namespace attune::test;

// The least that is an objective, in a namespace of its own.
namespace elsewhere {
struct linear_options {
  double beta = 1.0;
};
inline void validate(linear_options const&) {}
inline void validate_baseline(linear_options const&, double) {}
template <class T>
value_and_slope<T> unpaired_objective(T ratio, bool desirable, linear_options o, double baseline) {
  T const slope(desirable ? -o.beta : o.beta);
  return {slope * (ratio - T(baseline)), slope};
}

struct without_baseline {};
inline void validate(without_baseline const&) {}
template <class T>
value_and_slope<T> unpaired_objective(T ratio, bool, without_baseline, double) {
  return {ratio, T(1)};
}
}  // namespace elsewhere

static_assert(UnpairedObjective<kto_options> && UnpairedObjective<bco_options>);
static_assert(UnpairedObjective<apo_zero_unpaired_options> && UnpairedObjective<elsewhere::linear_options>);
static_assert(!UnpairedObjective<elsewhere::without_baseline>);
static_assert(!UnpairedObjective<double>);

TEST_CASE("unpaired_loss: an objective of one's own is summed, weighted and divided like the others") {
  std::vector<double> const logps{1.0, 2.0, 3.0}, ref_logps{0.0, 4.0, 0.0}, weights{1.0, 2.0, 0.5};
  std::vector<std::uint8_t> const desirable{1, 0, 1};
  std::vector<double> slopes(3, 7.0);
  double const loss =
      unpaired_loss<double>({.logps = logps, .ref_logps = ref_logps, .desirable = desirable, .weights = weights},
                            slopes, elsewhere::linear_options{2.0}, 0.5, 10);
  // -2 (1 - 0.5) + 2 * 2 (-2 - 0.5) - 0.5 * 2 (3 - 0.5) = -13.5
  CHECK(loss == doctest::Approx(-1.35).epsilon(1e-15));
  CHECK(slopes[0] == doctest::Approx(-0.2).epsilon(1e-15));
  CHECK(slopes[1] == doctest::Approx(0.4).epsilon(1e-15));
  CHECK(slopes[2] == doctest::Approx(-0.1).epsilon(1e-15));
}

TEST_CASE_TEMPLATE("unpaired_loss: micro-batches with the step's count give the slopes of the whole, bit for bit", O,
                   kto_options, bco_options, apo_zero_unpaired_options) {
  double const baseline = std::is_same_v<O, apo_zero_unpaired_options> ? 0.0 : 0.6;
  unpaired_batch whole(7, 3, 5.0, true);
  double const loss = whole.loss(O{}, baseline);
  double shares = 0.0;
  for (std::size_t first = 0; first < 7; first += 3) {
    std::size_t const count = std::min<std::size_t>(3, 7 - first);
    std::vector<double> slopes(count, 7.0);
    shares += unpaired_loss<double>({.logps = std::span(whole.logps).subspan(first, count),
                                     .ref_logps = std::span(whole.ref_logps).subspan(first, count),
                                     .desirable = std::span(whole.desirable).subspan(first, count),
                                     .weights = std::span(whole.weights).subspan(first, count)},
                                    slopes, O{}, baseline, 7);
    for (std::size_t i = 0; i < count; ++i) CHECK(slopes[i] == whole.slopes[first + i]);
  }
  CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
}

TEST_CASE("unpaired_loss: weights of 1 are no weights, and a weight scales its example alone") {
  unpaired_batch plain(4, 2), ones(4, 2), doubled(4, 2);
  ones.weights.assign(4, 1.0);
  doubled.weights = {1.0, 2.0, 1.0, 1.0};
  CHECK(plain.loss(bco_options{}, 0.3) == ones.loss(bco_options{}, 0.3));
  CHECK(plain.slopes == ones.slopes);
  doubled.loss(bco_options{}, 0.3);
  CHECK(doubled.slopes[1] == 2 * plain.slopes[1]);
  CHECK(doubled.slopes[2] == plain.slopes[2]);
}

TEST_CASE("unpaired_loss: slopes may overwrite the log-probabilities they belong to") {
  unpaired_batch apart(4, 9), b(4, 9);
  double const loss = apart.loss(kto_options{}, 0.5);
  CHECK(unpaired_loss<double>({.logps = b.logps, .ref_logps = b.ref_logps, .desirable = b.desirable}, b.logps,
                              kto_options{}, 0.5) == loss);
  CHECK(b.logps == apart.slopes);
}

TEST_CASE("unpaired_loss: in float, differences of sums are taken in double") {
  std::vector<float> const logps{-801.25f, -800.0f}, ref_logps{-801.5f, -799.5f};
  std::vector<std::uint8_t> const desirable{1, 0};
  std::vector<float> slopes(2);
  float const loss = unpaired_loss<float>({.logps = logps, .ref_logps = ref_logps, .desirable = desirable}, slopes,
                                          kto_options{.beta = 0.5}, 0.125);
  auto const good = unpaired_objective(0.25, true, kto_options{.beta = 0.5}, 0.125);
  auto const bad = unpaired_objective(-0.5, false, kto_options{.beta = 0.5}, 0.125);
  CHECK(loss == static_cast<float>(good.value / 2 + bad.value / 2));
  CHECK(slopes[0] == static_cast<float>(good.slope / 2));
  CHECK(slopes[1] == static_cast<float>(bad.slope / 2));
}

TEST_CASE("unpaired_loss: it allocates nothing") {
  unpaired_batch b(100, 0, 5.0, true);
  std::size_t const before = allocations();
  b.loss(kto_options{}, 0.5);
  CHECK(allocations() == before);
}
