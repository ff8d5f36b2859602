// SPDX-License-Identifier: MIT
#include <attune/objective/token_run.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/kl.hpp>
#include <attune/testing/gradient_check.hpp>

using namespace attune;

TEST_CASE("sum_of_run: is the sum, for every number of tokens") {
  random_stream stream(1);
  std::vector<double> x(token_run::size);
  for (double& value : x) value = stream.normal();
  for (std::size_t count = 0; count <= x.size(); ++count) {
    long double exact = 0.0L, size = 0.0L;
    for (std::size_t k = 0; k < count; ++k) {
      exact += static_cast<long double>(x[k]);
      size += std::abs(static_cast<long double>(x[k]));
    }
    CHECK(std::abs(static_cast<long double>(sum_of_run(x.data(), count)) - exact) <= 1e-15L * size);
  }
}

TEST_CASE("kl_estimates: are those of one token, next to 0 and far from it, by either estimator") {
  for (kl_estimator const estimator : {kl_estimator::k2, kl_estimator::k3}) {
    double worst = 0.0, worst_slope = 0.0;
    token_run run;
    for (double scale = 1e-9; scale < 700.0; scale *= 1.7) {
      for (std::size_t k = 0; k < token_run::size; ++k)
        run.log_ratio[k] = scale * (static_cast<double>(k) - 63.5) / 64.0;
      kl_estimates(run, token_run::size, estimator);
      for (std::size_t k = 0; k < token_run::size; ++k) {
        auto const one = kl_estimate(run.log_ratio[k], estimator);
        worst = (std::max)(worst, testing::relative_error(run.kl[k], one.value));
        worst_slope = (std::max)(worst_slope, testing::relative_error(run.kl_slope[k], one.slope));
      }
    }
    CHECK(worst <= 4e-15);
    CHECK(worst_slope <= 4e-15);
  }
}

TEST_CASE("kl_estimates: finite for every finite log-ratio") {
  token_run run;
  double const largest = std::numeric_limits<double>::max();
  std::vector<double> const edges{0.0, 5e-324, -5e-324, 1e4, -1e4, 3e38, -3e38, largest, -largest, 0.5, -0.5, 710.0, -710.0};
  std::copy(edges.begin(), edges.end(), run.log_ratio);
  for (kl_estimator const estimator : {kl_estimator::k2, kl_estimator::k3}) {
    kl_estimates(run, edges.size(), estimator);
    for (std::size_t k = 0; k < edges.size(); ++k) {
      auto const one = kl_estimate(edges[k], estimator);
      CHECK(std::isfinite(run.kl[k]));
      CHECK(std::isfinite(run.kl_slope[k]));
      CHECK(testing::relative_error(run.kl[k], one.value, 1e-300) <= 4e-15);
      CHECK(testing::relative_error(run.kl_slope[k], one.slope, 1e-300) <= 4e-15);
    }
  }
}
