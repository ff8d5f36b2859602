// SPDX-License-Identifier: MIT
#include <attune/backend/reference.hpp>

#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <attune/testing/backend_law_case.hpp>

using namespace attune;

static_assert(Backend<reference_backend<float>> && Backend<reference_backend<double>>);

namespace {

/// double: 1e-13; float: rounding of the result, at the scale of the numbers that go in.
template <class T>
double near(std::size_t vocabulary, double scale) {
  double const v = static_cast<double>(vocabulary);
  return sizeof(T) == 8 ? 1e-13
                        : 8.0 * static_cast<double>(std::numeric_limits<T>::epsilon()) * (1.0 + std::log(v)) * scale;
}

}  // namespace

TEST_CASE_TEMPLATE("reference: log-probabilities and their adjoint agree with long double", T, float, double) {
  reference_backend<T> const backend;
  for (std::size_t v : {1u, 2u, 3u, 7u, 64u, 257u, 1000u, 32000u})
    for (std::size_t n : {0u, 1u, 5u, 64u}) {
      if (v == 32000 && n == 64) continue;
      testing::backend_law_case<T> const c(n, v, random_stream(v, n));
      double const bound = near<T>(v, c.scale);
      std::vector<T> logps(n), normalizers(n), means(n), gradient(n * c.stride);
      backend.token_logps(c.view(), c.targets, {logps, normalizers, means});
      backend.token_logps_adjoint(c.view(), c.targets, normalizers, {c.slopes, c.mean_slopes},
                                  {gradient.data(), n, v, c.stride});
      double worst = 0.0;
      double worst_gradient = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        if (c.targets[i] == no_target) continue;
        worst = std::fmax(worst, std::abs(static_cast<double>(logps[i] - c.logps[i])));
        worst = std::fmax(worst, std::abs(static_cast<double>(normalizers[i] - c.log_normalizers[i])));
        worst = std::fmax(worst, std::abs(static_cast<double>(means[i] - c.mean_logps[i])));
        double const steepness = static_cast<double>(std::abs(c.slopes[i]) + std::abs(c.mean_slopes[i]));
        for (std::size_t k = 0; k < v; ++k)
          worst_gradient =
              std::fmax(worst_gradient,
                        std::abs(static_cast<double>(gradient[i * c.stride + k] - c.gradient[i * v + k])) / steepness);
      }
      CAPTURE(v);
      CAPTURE(n);
      CHECK(worst <= bound);
      CHECK(worst_gradient <= bound);
    }
}

TEST_CASE("reference: the gradient of a row sums to zero, with and without the mean's slope") {
  reference_backend<double> const backend;
  testing::backend_law_case<double> const c(8, 100, random_stream(3));
  std::vector<double> logps(8), normalizers(8), gradient(8 * 100);
  backend.token_logps(c.view(), c.targets, {logps, normalizers});
  for (bool const with_mean : {false, true}) {
    row_slopes<double> slopes{c.slopes};
    if (with_mean) slopes.mean_logps = c.mean_slopes;
    backend.token_logps_adjoint(c.view(), c.targets, normalizers, slopes, as_matrix(gradient.data(), 8, 100));
    for (std::size_t i = 0; i < 8; ++i) {
      double sum = 0.0;
      for (std::size_t v = 0; v < 100; ++v) sum += gradient[i * 100 + v];
      CHECK(std::abs(sum) <= 1e-14);
    }
  }
}

TEST_CASE("reference: two equal logits give -log 2 and a gradient of a half each way") {
  reference_backend<double> const backend;
  double const logits[2] = {5.0, 5.0};
  token_id const target = 1;
  double logp = 0.0, normalizer = 0.0, mean = 0.0, gradient[2] = {};
  double const slope = 1.0;
  backend.token_logps(as_matrix<double const>(logits, 1, 2), {&target, 1}, {{&logp, 1}, {&normalizer, 1}, {&mean, 1}});
  CHECK(logp == -std::log(2.0));
  CHECK(mean == doctest::Approx(-std::log(2.0)).epsilon(1e-15));
  CHECK(normalizer == 5.0 + std::log(2.0));
  backend.token_logps_adjoint(as_matrix<double const>(logits, 1, 2), {&target, 1}, {&normalizer, 1}, {{&slope, 1}},
                              as_matrix(gradient, 1, 2));
  CHECK(gradient[0] == doctest::Approx(-0.5).epsilon(1e-14));
  CHECK(gradient[1] == doctest::Approx(0.5).epsilon(1e-14));
}

TEST_CASE("reference: the divergence of a fair coin from a crooked one, both ways round, and its gradient") {
  reference_backend<double> const backend;
  double const fair[2] = {7.0, 7.0}, crooked[2] = {std::log(0.9), std::log(0.1)}, slope = 2.0;
  token_id const target = 0;
  auto const p = as_matrix(fair, 1, 2), q = as_matrix(crooked, 1, 2);
  double kl = 0.0, z = 0.0, w = 9.0, gradient[2] = {1.0, 1.0};
  row_kl<double> const rows{{&kl, 1}, {&z, 1}, {&w, 1}};
  row_kl<double const> const seen{{&kl, 1}, {&z, 1}, {&w, 1}};
  backend.token_kl(p, q, {&target, 1}, kl_direction::reverse, rows);
  CHECK(kl == doctest::Approx(0.5 * std::log(0.5 / 0.9) + 0.5 * std::log(0.5 / 0.1)).epsilon(1e-14));
  CHECK(z == 7.0 + std::log(2.0));
  CHECK(std::abs(w) <= 1e-16);
  backend.token_kl_adjoint(p, q, {&target, 1}, kl_direction::reverse, seen, {&slope, 1}, as_matrix(gradient, 1, 2));
  CHECK(gradient[0] == doctest::Approx(1.0 + 2.0 * 0.5 * (std::log(0.5 / 0.9) - kl)).epsilon(1e-14));
  CHECK(gradient[1] == doctest::Approx(1.0 + 2.0 * 0.5 * (std::log(0.5 / 0.1) - kl)).epsilon(1e-14));
  backend.token_kl(p, q, {&target, 1}, kl_direction::forward, rows);
  CHECK(kl == doctest::Approx(0.9 * std::log(0.9 / 0.5) + 0.1 * std::log(0.1 / 0.5)).epsilon(1e-14));
  backend.token_kl_adjoint(p, q, {&target, 1}, kl_direction::forward, seen, {&slope, 1}, as_matrix(gradient, 1, 2));
  CHECK(gradient[0] == doctest::Approx(1.0 + (std::log(0.5 / 0.9) - (0.5 * std::log(0.5 / 0.9) + 0.5 * std::log(0.5 / 0.1))) +
                                       2.0 * (0.5 - 0.9))
                           .epsilon(1e-14));
}

TEST_CASE("reference: the gradient of a nearly certain target keeps its digits") {
  reference_backend<double> const backend;
  double const logits[2] = {0.0, 40.0};  // 1 - p = 4e-18: lost if 1 - exp(logp) were taken
  double const normalizer = 40.0 + std::log1p(std::exp(-40.0));
  token_id const target = 1;
  double const slope = 1.0;
  double gradient[2];
  double const shifted[2] = {-36.0, 4.0};
  double const near_normalizer = 4.0 + 1e-15;  // logp = -1e-15 or a few ulp of 4
  backend.token_logps_adjoint(as_matrix<double const>(shifted, 1, 2), {&target, 1}, {&near_normalizer, 1},
                              {{&slope, 1}}, as_matrix(gradient, 1, 2));
  CHECK(gradient[1] == -std::expm1(4.0 - near_normalizer));
  backend.token_logps_adjoint(as_matrix<double const>(logits, 1, 2), {&target, 1}, {&normalizer, 1}, {{&slope, 1}},
                              as_matrix(gradient, 1, 2));
  CHECK(gradient[1] >= 0.0);
  CHECK(gradient[0] == doctest::Approx(-std::exp(-40.0)).epsilon(1e-13));
}

TEST_CASE("reference: sizes that disagree and targets outside the vocabulary are refused by name") {
  reference_backend<float> const backend;
  std::vector<float> m(12, 0.0f), two(2), three(3);
  auto const logits = as_matrix<float const>(m.data(), 3, 4);
  std::vector<token_id> targets{0, 3, -1};
  auto const refuses = [](auto&& call, char const* words) {
    try {
      call();
    } catch (contract_violation const& e) {
      CHECK(std::string(e.what()).find(words) != std::string::npos);
      return true;
    }
    return false;
  };
  CHECK_NOTHROW(backend.token_logps(logits, targets, {three, three}));
  CHECK(refuses([&] { backend.token_logps(logits, targets, {two, three}); }, "row_logps.logps"));
  CHECK(refuses([&] { backend.token_logps(logits, targets, {three, two}); }, "row_logps.log_normalizers"));
  CHECK(refuses([&] { backend.token_logps(logits, targets, {three, three, two}); }, "row_logps.mean_logps"));
  CHECK(refuses([&] { backend.token_logps({m.data(), 3, 4, 3}, targets, {three, three}); }, "row_stride"));
  targets[1] = 4;
  CHECK(refuses([&] { backend.token_logps(logits, targets, {three, three}); }, "row 1: expected a target below 4"));
  targets[1] = -2;
  CHECK(refuses([&] { backend.token_logps(logits, targets, {three, three}); }, "got -2"));
  targets.pop_back();
  CHECK(refuses([&] { backend.token_logps(logits, targets, {three, three}); }, "one target per row"));
  CHECK(refuses(
      [&] {
        backend.linear_token_logps(logits, as_matrix<float const>(m.data(), 4, 3), targets, {two, two}, m);
      },
      "one width"));
  CHECK(refuses([&] { backend.linear_token_logps(as_matrix<float const>(m.data(), 0, 4), logits, {}, {}, {}); },
                "linear_workspace"));
  std::vector<std::size_t> const backwards{0, 2, 1, 3}, short_of{0, 1, 2, 2};
  CHECK(refuses([&] { backend.segment_sum(three, backwards, three); }, "in order"));
  CHECK(refuses([&] { backend.segment_sum(three, short_of, three); }, "offsets run"));
  CHECK(refuses([&] { backend.segment_broadcast(three, short_of, three); }, "offsets run"));
  CHECK(refuses([&] { backend.adamw({}, three, two, three, three); }, "adamw"));
}
