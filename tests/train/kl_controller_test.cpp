// SPDX-License-Identifier: MIT
#include <attune/train/kl_controller.hpp>

#include "support/temporary_folder.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace attune;
using test::message_of;

TEST_CASE("kl controller: the factor is 1 + clip(kl / target - 1, -0.2, 0.2) responses / horizon") {
  kl_controller c({.kl_coef = 0.2, .target = 6.0, .horizon = 1000.0});
  CHECK(c.kl_coef() == 0.2);
  c.update(6.6, 100);  // 10 % over: 1 + 0.1 * 0.1
  CHECK(c.kl_coef() == doctest::Approx(0.2 * 1.01).epsilon(1e-14));
  c.update(5.4, 50);  // 10 % under: 1 - 0.1 * 0.05
  CHECK(c.kl_coef() == doctest::Approx(0.2 * 1.01 * 0.995).epsilon(1e-14));
  c.update(600.0, 100);  // clipped at a fifth: 1.02
  CHECK(c.kl_coef() == doctest::Approx(0.2 * 1.01 * 0.995 * 1.02).epsilon(1e-14));
  c.update(-3.0, 100);  // an estimate may be negative: 0.98
  CHECK(c.kl_coef() == doctest::Approx(0.2 * 1.01 * 0.995 * 1.02 * 0.98).epsilon(1e-14));
}

TEST_CASE("kl controller: at the target, and without one, the coefficient keeps its bits") {
  kl_controller steered({.kl_coef = 0.3, .target = 2.5, .horizon = 10.0});
  steered.update(2.5, 64);
  CHECK(steered.kl_coef() == 0.3);
  kl_controller fixed({.kl_coef = 0.3});
  fixed.update(1e6, 1000);
  CHECK(fixed.kl_coef() == 0.3);
  kl_controller none({.kl_coef = 0.0});
  CHECK(none.kl_coef() == 0.0);
}

TEST_CASE("kl controller: more responses than five horizons leave a tenth, never less than nothing") {
  kl_controller c({.kl_coef = 1.0, .target = 1.0, .horizon = 10.0});
  c.update(0.0, 1000);
  CHECK(c.kl_coef() == 0.1);
}

TEST_CASE("kl controller: a restored one goes on with the bits of the other") {
  kl_options const options{.kl_coef = 0.2, .target = 6.0, .horizon = 300.0};
  kl_controller one(options), other(options);
  one.update(7.0, 17);
  other.restore(one.kl_coef());
  one.update(5.0, 33);
  other.update(5.0, 33);
  CHECK(one.kl_coef() == other.kl_coef());
}

TEST_CASE("kl controller: bad options are refused by name and value") {
  auto const why = [](kl_options o) { return message_of<contract_violation>([&] { kl_controller c(o); }); };
  double const nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(why({.kl_coef = -0.5}) == "expected kl_options.kl_coef >= 0 and finite, got -0.5");
  CHECK(why({.kl_coef = nan}) == "expected kl_options.kl_coef >= 0 and finite, got nan");
  CHECK(why({.target = -1.0}) == "expected kl_options.target >= 0 and finite, got -1");
  CHECK(why({.horizon = 0.0}) == "expected kl_options.horizon > 0 and finite, got 0");
  CHECK(why({.kl_coef = 0.0, .target = 1.0}) ==
        "expected kl_options.kl_coef > 0, since an adaptive one (target > 0) grows by factors, got 0");
  CHECK(why({.placement = kl_placement::loss}) ==
        "expected kl_options.estimator k2 or k3 with placement loss: as a loss, k1 has a gradient of 0 in expectation");
  CHECK(why({.placement = kl_placement::loss, .estimator = kl_estimator::k2}) == "nothing thrown");
  for (kl_options const& o : {kl_options{.bias_correction = true},
                              kl_options{.kl_coef = 0.0, .placement = kl_placement::loss, .estimator = kl_estimator::k2,
                                         .bias_correction = true}})
    CHECK(why(o) == "expected kl_options.bias_correction == false, unless placement is loss and kl_coef above 0");
  CHECK(why({.placement = kl_placement::loss, .estimator = kl_estimator::k3, .bias_correction = true}) ==
        "nothing thrown");
}
