// SPDX-License-Identifier: MIT
#include <attune/testing/backend_law_case.hpp>

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

using namespace attune;

TEST_CASE("backend_law_case: the answers are those of a softmax done by hand") {
  testing::backend_law_case<double> c(1, 3, random_stream(1));
  c.logits = {std::log(1.0), std::log(2.0), std::log(5.0), 0.0, 0.0, 0.0};
  c.targets = {2};
  c.slopes = {1.0};
  c.mean_slopes = {3.0};
  c.solve();
  CHECK(static_cast<double>(c.logps[0]) == doctest::Approx(std::log(5.0 / 8.0)).epsilon(1e-15));
  CHECK(static_cast<double>(c.log_normalizers[0]) == doctest::Approx(std::log(8.0)).epsilon(1e-15));
  CHECK(static_cast<double>(c.mean_logps[0]) == doctest::Approx(std::log(10.0) / 3.0 - std::log(8.0)).epsilon(1e-15));
  double const p[3] = {0.125, 0.25, 0.625};
  for (int v = 0; v < 3; ++v)
    CHECK(static_cast<double>(c.gradient[static_cast<std::size_t>(v)]) ==
          doctest::Approx((v == 2 ? 1.0 : 0.0) - p[v] + 3.0 * (1.0 / 3.0 - p[v])).epsilon(1e-14));
}

TEST_CASE("backend_law_case: the entropy and its gradient are those of a softmax done by hand") {
  testing::backend_law_case<double> c(1, 3, random_stream(1));
  c.logits = {std::log(1.0), std::log(2.0), std::log(5.0), 0.0, 0.0, 0.0};
  c.targets = {2};
  c.entropy_slopes = {2.0};
  c.solve();
  double const p[3] = {0.125, 0.25, 0.625};
  double entropy = 0.0;
  for (double const x : p) entropy -= x * std::log(x);
  CHECK(static_cast<double>(c.entropies[0]) == doctest::Approx(entropy).epsilon(1e-15));
  for (int v = 0; v < 3; ++v)
    CHECK(static_cast<double>(c.entropy_gradient[static_cast<std::size_t>(v)]) ==
          doctest::Approx(-2.0 * p[v] * (std::log(p[v]) + entropy)).epsilon(1e-14));
}

TEST_CASE("backend_law_case: a masked entry has gradient 0, and a row without a target has nothing") {
  testing::backend_law_case<float> c(4, 8, random_stream(2));
  c.logits[1] = -std::numeric_limits<float>::infinity();
  c.solve();
  CHECK(c.gradient[1] == 0.0L);
  CHECK(c.entropy_gradient[1] == 0.0L);
  CHECK(std::isfinite(static_cast<double>(c.entropies[0])));
  CHECK(std::isfinite(static_cast<double>(c.log_normalizers[0])));
  CHECK(c.targets[2] == no_target);
  CHECK(c.logps[2] == 0.0L);
  for (std::size_t v = 0; v < 8; ++v) CHECK(c.gradient[2 * 8 + v] == 0.0L);
}
