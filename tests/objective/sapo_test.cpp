// SPDX-License-Identifier: MIT
#include <attune/objective/sapo.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <string>

#include <attune/core/random.hpp>
#include <attune/objective/token_objectives.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/proofs.hpp"

using namespace attune;
using testing::relative_error;

static_assert(TokenObjective<sapo_on_tokens<float> const, float>);

TEST_CASE("sapo: value and slope are the paper's, by dual numbers, complex step and differences") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  double worst = 0.0, worst_difference = 0.0;
  for (sapo_options const& o :
       {sapo_options{}, sapo_options{.sapo_temperature_pos = 0.01, .sapo_temperature_neg = 0.02},
        sapo_options{.sapo_temperature_pos = 10.0, .sapo_temperature_neg = 20.0}})
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      random_stream stream(seed);
      double const logp = -5.0 * stream.uniform(), old = logp + 0.7 * stream.normal(), A = stream.normal();
      auto const ours = sapo_objective(logp, old, A, o);
      double const tau = A > 0 ? o.sapo_temperature_pos : o.sapo_temperature_neg, r = std::exp(logp - old);
      double const cosh = std::cosh(tau * (r - 1.0) / 2.0);
      worst = std::max(worst, relative_error(ours.value, -A * 4.0 / tau / (1.0 + std::exp(-tau * (r - 1.0)))));
      worst = std::max(worst, relative_error(ours.slope, -A * r / (cosh * cosh)));
      auto const by_dual = sapo_objective(dual(logp, 1), dual(old), dual(A), o);
      worst = std::max(worst, relative_error(ours.slope, by_dual.value.derivative));
      auto const by_step = sapo_objective(complex(logp, 1e-100), complex(old), complex(A), o);
      worst = std::max(worst, relative_error(ours.slope, by_step.value.imag() * 1e100));
      double moved = logp;
      double const difference =
          testing::central_difference([&] { return sapo_objective(moved, old, A, o).value; }, moved);
      worst_difference = std::max(worst_difference, relative_error(ours.slope, difference, 1.0));
    }
  CHECK(worst <= 1e-12);
  CHECK(worst_difference <= 1e-7);  // values of 4 / 0.01 leave a difference few digits
}

TEST_CASE("sapo: as tau goes to 0 it is the plain policy gradient, as tau grows only r = 1 has a slope") {
  for (double const A : {1.5, -1.5})
    for (double const r : {0.1, 0.7, 1.0, 1.3, 4.0}) {
      double const d = std::log(r);
      double const tiny = 1e-6, huge = 1e6;
      CHECK(sapo_objective(d, 0.0, A, {.sapo_temperature_pos = tiny, .sapo_temperature_neg = tiny}).slope ==
            doctest::Approx(-A * r).epsilon(1e-11));
      double const sharp =
          sapo_objective(d, 0.0, A, {.sapo_temperature_pos = huge, .sapo_temperature_neg = huge}).slope;
      CHECK(sharp == doctest::Approx(r == 1.0 ? -A : 0.0));
    }
  proofs::law("sapo", "tau -> 0: the slope becomes -A r; tau -> infinity: it is 0 but at r = 1");
}

TEST_CASE("sapo: the value falls with a gain's ratio, rises with a loss's, and both flatten out") {
  double gain = 1.0, loss = -1.0;
  for (double d = -6.0; d <= 3.0; d += 0.05) {
    auto const g = sapo_objective(d, 0.0, 1.0), l = sapo_objective(d, 0.0, -1.0);
    CHECK(g.value < gain);
    CHECK(l.value > loss);
    CHECK(g.value > -4.0);
    CHECK(l.value < 4.0 / 1.05);
    CHECK(std::abs(g.slope) >= std::abs(l.slope) * (d > 0.0 ? 1.0 : 0.99));  // the larger tau lets go sooner
    gain = g.value;
    loss = l.value;
  }
  CHECK(sapo_objective(0.0, 0.0, 1.0).value == -2.0);
  CHECK(sapo_objective(5.0, 0.0, 0.0).value == 0.0);
  CHECK(!sapo_objective(5.0, 0.0, 1.0).clipped);
  proofs::law("sapo", "monotone in the ratio and bounded by 4 |A| / tau, without a kink");
}

TEST_CASE("sapo: options out of range are refused by field and value") {
  auto const why = [](sapo_options o) -> std::string {
    try {
      validate(o);
    } catch (contract_violation const& e) {
      return e.what();
    }
    return "no error";
  };
  for (double const x : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::nan("")}) {
    CHECK(why({.sapo_temperature_pos = x})
              .starts_with("expected sapo_options.sapo_temperature_pos > 0 and finite, got "));
    CHECK(why({.sapo_temperature_neg = x})
              .starts_with("expected sapo_options.sapo_temperature_neg > 0 and finite, got "));
  }
}
