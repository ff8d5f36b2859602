// SPDX-License-Identifier: MIT
#include <attune/objective/cispo.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <string>

#include <attune/core/random.hpp>
#include <attune/objective/ppo.hpp>
#include <attune/objective/token_objectives.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/proofs.hpp"

using namespace attune;
using testing::relative_error;

static_assert(TokenObjective<cispo_on_tokens<float> const, float>);

TEST_CASE("cispo: the slope is the value's derivative with the weight held, by every kind of number, to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  double worst = 0.0, worst_difference = 0.0;
  std::size_t bounded = 0, all = 0;
  for (double const bound : {1.0, 1.5, 5.0, 1e6})
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      random_stream stream(seed);
      double const logp = -5.0 * stream.uniform(), old = logp + 1.5 * stream.normal(), A = stream.normal();
      cispo_options const o{.epsilon_high = bound};
      auto const ours = cispo_objective(logp, old, A, o);
      worst = std::max(worst, relative_error(ours.value, -A * std::min(std::exp(logp - old), bound) * logp));
      auto const by_dual = cispo_objective(dual(logp, 1), dual(old), dual(A), o);
      worst = std::max(worst, relative_error(ours.slope, by_dual.value.derivative));
      auto const by_step = cispo_objective(complex(logp, 1e-100), complex(old), complex(A), o);
      worst = std::max(worst, relative_error(ours.slope, by_step.value.imag() * 1e100));
      // Both policies moved together: the weight stays what it is.
      double const h = 1e-4;
      double const difference = (cispo_objective(logp + h, old + h, A, o).value -
                                 cispo_objective(logp - h, old - h, A, o).value) / (2 * h);
      worst_difference = std::max(worst_difference, relative_error(ours.slope, difference, 1.0));
      bounded += ours.clipped ? 1 : 0;
      ++all;
    }
  CHECK(worst <= 1e-12);
  CHECK(worst_difference <= 1e-9);
  CHECK(bounded > all / 10);
  CHECK(bounded < all / 2);
}

TEST_CASE("cispo: no token is without a slope, and none has more than |A| epsilon_high") {
  for (double const A : {2.0, -2.0})
    for (double d = -20.0; d <= 20.0; d += 0.25) {
      auto const one = cispo_objective(d, 0.0, A);
      CHECK(one.slope * A < 0.0);
      CHECK(std::abs(one.slope) <= 5.0 * std::abs(A));
      CHECK(one.clipped == (std::exp(d) > 5.0));
      auto const ppo = ppo_objective(d, 0.0, A, {.cliprange = 0.2});
      if (ppo.slope != 0.0 && !one.clipped) CHECK(one.slope == ppo.slope);  // inside PPO's bounds they are one
    }
  CHECK(!cispo_objective(9.0, 0.0, 0.0).clipped);
  CHECK(cispo_objective(9.0, 0.0, 0.0).slope == 0.0);
  proofs::law("cispo", "every token has a slope, of |A| epsilon_high at most");
  proofs::law("cispo", "inside PPO's bounds the slope is PPO's");
}

TEST_CASE("cispo: as the bound goes to infinity it is the policy gradient, and on fresh samples REINFORCE") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    random_stream stream(seed);
    double const logp = -3 * stream.uniform(), old = logp + stream.normal(), A = stream.normal();
    double const expected = -A * std::exp(logp - old);  // whose last digit is its own
    CHECK(testing::relative_error(cispo_objective(logp, old, A, {.epsilon_high = 1e300}).slope, expected) <= 4e-16);
    CHECK(cispo_objective(logp, logp, A, {.epsilon_high = 1.0}).slope == -A);
    CHECK(cispo_objective(logp, logp, A, {.epsilon_high = 1.0}).value == -A * logp);
  }
  proofs::law("cispo", "without a bound it is the off-policy gradient -A r; where pi is pi_old, REINFORCE's -A log pi");
}

TEST_CASE("cispo: options out of range are refused by field and value") {
  auto const why = [](double x) -> std::string {
    try {
      validate(cispo_options{.epsilon_high = x});
    } catch (contract_violation const& e) {
      return e.what();
    }
    return "no error";
  };
  for (double const x : {0.999, 0.0, -5.0, std::numeric_limits<double>::infinity(), std::nan("")})
    CHECK(why(x).starts_with("expected cispo_options.epsilon_high >= 1 and finite, got "));
  CHECK(why(1.0) == "no error");
}
