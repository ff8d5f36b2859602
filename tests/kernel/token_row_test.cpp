// SPDX-License-Identifier: MIT
#include <attune/kernel/token_row.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/eigen.hpp>
#include <attune/backend/reference.hpp>
#include <attune/core/random.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/golden_file.hpp"
#include "support/proofs.hpp"

using namespace attune;

namespace {

using complex = std::complex<double>;

constexpr double infinity = std::numeric_limits<double>::infinity();

// -inf is written as -1e308 in golden files.
std::vector<double> logits_of(golden_case const& c, std::string const& name) {
  std::vector<double> x = c[name];
  for (double& a : x)
    if (a <= -1e308) a = -infinity;
  return x;
}

double worst_of(std::vector<double> const& actual, std::vector<double> const& expected) {
  double worst = actual.size() == expected.size() ? 0.0 : infinity;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    double const error = std::abs(actual[i] - expected[i]) / std::max(1.0, std::abs(expected[i]));
    worst = std::isnan(error) ? infinity : std::max(worst, error);
  }
  return worst;
}

// One row and what is asked of it: the sum of slope times term, as the definitions have it, in any numbers.
struct row_case {
  std::vector<double> logits;
  token_id target;
  double slope, mean_slope, entropy_slope, normalizer_slope;

  template <class N>
  N value(std::vector<N> const& x) const {
    using std::exp;
    using std::log;
    double const maximum = *std::max_element(logits.begin(), logits.end());
    N sum(0), mean(0), entropy(0);
    for (N const a : x) sum += exp(a - N(maximum));
    N const normalizer = N(maximum) + log(sum);
    for (N const a : x) {
      mean += (a - normalizer) / N(static_cast<double>(x.size()));
      entropy -= exp(a - normalizer) * (a - normalizer);
    }
    return N(slope) * (x[static_cast<std::size_t>(target)] - normalizer) + N(mean_slope) * mean +
           N(entropy_slope) * entropy + N(normalizer_slope) * normalizer;
  }
  double steepness() const {
    return std::abs(slope) + std::abs(mean_slope) + std::abs(entropy_slope) + std::abs(normalizer_slope);
  }
};

template <class B>
std::vector<double> gradient_of(B const& backend, row_case const& c) {
  std::vector<double> logp(1), normalizer(1), entropy(1), gradient(c.logits.size());
  auto const row = as_matrix(c.logits.data(), 1, c.logits.size());
  std::span<token_id const> const target(&c.target, 1);
  backend.token_logps(row, target, {logp, normalizer, {}, entropy});
  row_slopes<double> slopes{std::span(&c.slope, 1)};
  if (c.mean_slope != 0.0) slopes.mean_logps = std::span(&c.mean_slope, 1);
  if (c.entropy_slope != 0.0) slopes.entropies = entropy, slopes.entropy_slopes = std::span(&c.entropy_slope, 1);
  if (c.normalizer_slope != 0.0) slopes.log_normalizers = std::span(&c.normalizer_slope, 1);
  backend.token_logps_adjoint(row, target, normalizer, slopes, as_matrix(gradient.data(), 1, c.logits.size()));
  return gradient;
}

}  // namespace

TEST_CASE("token_row: in all 15 combinations of slopes every element is the complex step's, and a central difference") {
  double worst = 0.0, worst_fd = 0.0;
  auto const check = [&](auto const& backend) {
    for (unsigned bits = 1; bits < 16; ++bits)
      for (std::uint64_t seed = 0; seed < 20; ++seed) {
        random_stream random(seed, bits);
        auto const slope = [&](unsigned bit) {
          double const s = random.normal();
          return (bits & bit) != 0 ? s : 0.0;
        };
        row_case c{{}, 0, slope(1), slope(2), slope(4), slope(8)};
        std::size_t const count = 1 + random.below(40);
        for (std::size_t v = 0; v < count; ++v) c.logits.push_back(3.0 * random.normal());
        c.target = static_cast<token_id>(random.below(count));
        std::vector<double> const gradient = gradient_of(backend, c);
        std::vector<complex> x(c.logits.begin(), c.logits.end());
        for (std::size_t v = 0; v < count; ++v) {
          x[v] += complex(0.0, 1e-30);
          double const exact = c.value(x).imag() * 1e30;
          x[v] = c.logits[v];
          worst = std::max(worst, testing::relative_error(gradient[v], exact, 0.01 * c.steepness()));
          double const difference = testing::central_difference([&] { return c.value(c.logits); }, c.logits[v]);
          worst_fd = std::max(worst_fd, testing::relative_error(gradient[v], difference, c.steepness()));
        }
      }
  };
  check(reference_backend<double>());
  check(eigen_backend<double>());
  MESSAGE("worst ", worst, ", of central differences ", worst_fd);
  CHECK(worst <= 1e-12);
  CHECK(worst_fd <= 1e-9);
  proofs::derivatives("row terms", 30, 20, worst, worst_fd);
}

TEST_CASE("token_row: normalisers, entropies, means, collisions and the gradient of all together are PyTorch's") {
  auto const cases = read_golden("row_terms.txt");
  REQUIRE(cases.size() >= 80);
  double worst_value = 0.0, worst_gradient = 0.0;
  auto const check = [&](auto const& backend) {
    for (golden_case const& c : cases) {
      std::size_t const v = static_cast<std::size_t>(c.number("vocabulary"));
      std::vector<double> const logits = logits_of(c, "logits");
      auto const targets = c.integers<token_id>("targets");
      bool const whole = *std::min_element(logits.begin(), logits.end()) > -infinity;
      std::vector<double> logps(2), normalizers(2), means(2), entropies(2), collisions(2), gradient(2 * v);
      auto const matrix = as_matrix(logits.data(), 2, v);
      backend.token_logps(matrix, targets, {logps, normalizers, means, entropies, collisions});
      row_slopes<double> slopes{c["slopes"], c["mean_slopes"], entropies, c["entropy_slopes"], c["normalizer_slopes"]};
      if (!whole) slopes.mean_logps = {};
      backend.token_logps_adjoint(matrix, targets, normalizers, slopes, as_matrix(gradient.data(), 2, v));
      worst_value = std::max({worst_value, worst_of(logps, c["logps"]), worst_of(normalizers, c["log_normalizers"]),
                              worst_of(entropies, c["entropies"]), worst_of(collisions, c["collisions"])});
      if (whole) worst_value = std::max(worst_value, worst_of(means, c["mean_logps"]));
      worst_gradient = std::max(worst_gradient, worst_of(gradient, c["gradient"]));
    }
  };
  check(reference_backend<double>());
  check(eigen_backend<double>());
  MESSAGE("worst value ", worst_value, ", gradient ", worst_gradient);
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
  proofs::golden("row terms", "PyTorch", cases.size(), worst_value, worst_gradient);
}

TEST_CASE("token_row: adding a number to all logits moves the normaliser by it and nothing else") {
  random_stream random(5);
  std::vector<double> x(37), moved(37);
  for (std::size_t v = 0; v < 37; ++v) moved[v] = (x[v] = random.normal()) + 8.0;
  auto const score = [](std::vector<double> const& logits) {
    std::array<double, 5> out{};
    score_row(logits.data(), logits.size(), 3,
              row_logps<double>{{&out[0], 1}, {&out[1], 1}, {&out[2], 1}, {&out[3], 1}, {&out[4], 1}}, 0);
    return out;
  };
  auto const a = score(x), b = score(moved);
  CHECK(b[1] == doctest::Approx(a[1] + 8.0).epsilon(1e-15));
  for (std::size_t k : {0u, 2u, 3u, 4u}) CHECK(b[k] == doctest::Approx(a[k]).epsilon(1e-14));
  CHECK(a[4] <= 0.0);
  CHECK(a[4] >= -a[3] - 1e-12);  // sum p^2 >= exp(-entropy): Jensen
  proofs::law("row terms", "a shift of all logits moves log Z by itself, and logps, means, entropies and collisions not at all");
}

TEST_CASE("token_row: the gradient of log Z sums to 1, that of every other term to 0") {
  random_stream random(6);
  for (std::size_t const count : {1u, 2u, 17u, 300u}) {
    row_case c{{}, 0, 0.0, 0.0, 0.0, 0.0};
    for (std::size_t v = 0; v < count; ++v) c.logits.push_back(4.0 * random.normal());
    for (double row_case::*slope : {&row_case::slope, &row_case::mean_slope, &row_case::entropy_slope, &row_case::normalizer_slope}) {
      row_case one = c;
      one.*slope = 1.0;
      double sum = 0.0;
      for (double const g : gradient_of(eigen_backend<double>(), one)) sum += g;
      CHECK(std::abs(sum - (slope == &row_case::normalizer_slope ? 1.0 : 0.0)) <= 1e-14);
    }
  }
  proofs::law("row terms", "the gradient of log Z over a row sums to 1, of logps, means and entropies to 0");
}

TEST_CASE("token_row: uniform and certain rows have the terms that can be written down") {
  for (std::size_t const count : {1u, 2u, 16u, 1025u}) {
    std::vector<double> x(count, 2.5);
    std::array<double, 5> out{};
    row_logps<double> const to{{&out[0], 1}, {&out[1], 1}, {&out[2], 1}, {&out[3], 1}, {&out[4], 1}};
    double const size = std::log(static_cast<double>(count));
    score_row(x.data(), count, 0, to, 0);
    std::array<double, 5> const uniform{-size, 2.5 + size, -size, size, -size};
    for (std::size_t k = 0; k < 5; ++k) CHECK(out[k] == doctest::Approx(uniform[k]).epsilon(1e-14));
    std::fill(x.begin(), x.end(), -infinity);
    x[count - 1] = 7.0;
    score_row(x.data(), count, static_cast<token_id>(count - 1), to, 0);
    CHECK(out[0] == 0.0);
    CHECK(out[1] == 7.0);
    CHECK(out[3] == 0.0);
    CHECK(out[4] == 0.0);
  }
  proofs::law("row terms", "uniform rows: entropy log V, collisions -log V; certain rows: both exactly 0");
}

namespace {

// What a row at the edge of its type gives: NaN means NaN.
template <class T>
struct extreme_row {
  char const* name;
  std::vector<T> logits;
  token_id target;
  T logp, log_normalizer, entropy, collision;
  bool gradient_is_number;
};

template <class T>
std::vector<extreme_row<T>> extreme_rows() {
  constexpr T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  constexpr T most = std::numeric_limits<T>::max(), least = std::numeric_limits<T>::denorm_min();
  T const ln2 = static_cast<T>(std::log(2.0));
  return {
      {"one entry", {T(3)}, 0, T(0), T(3), T(0), T(0), true},
      {"one entry, huge", {T(3e38)}, 0, T(0), T(3e38), T(0), T(0), true},
      {"one entry, -huge", {T(-3e38)}, 0, T(0), T(-3e38), T(0), T(0), true},
      {"one entry, -inf", {-inf}, 0, nan, nan, nan, nan, false},
      {"one entry, NaN", {nan}, 0, nan, nan, nan, nan, false},
      {"two huge", {T(3e38), T(3e38)}, 1, -ln2, T(3e38), ln2, -ln2, true},
      {"two denormal", {least, least}, 1, -ln2, ln2, ln2, -ln2, true},
      {"denormal and 0", {least, T(0)}, 0, -ln2, ln2, ln2, -ln2, true},
      {"huge and 0", {T(3e38), T(0)}, 0, T(0), T(3e38), T(0), T(0), true},
      {"0 and -huge", {T(0), T(-3e38)}, 0, T(0), T(0), T(0), T(0), true},
      {"largest and lowest", {most, -most}, 0, T(0), most, T(0), T(0), true},
      {"largest and lowest, the other", {most, -most}, 1, -inf, most, T(0), T(0), true},
      {"1e4 apart", {T(0), T(1e4)}, 1, T(0), T(1e4), T(0), T(0), true},
      {"1e4 apart, the other", {T(0), T(1e4)}, 0, T(-1e4), T(1e4), T(0), T(0), true},
      {"masked beside one", {-inf, T(1)}, 1, T(0), T(1), T(0), T(0), true},
      {"a masked target", {-inf, T(1)}, 0, -inf, T(1), T(0), T(0), true},
      {"masked beside two", {T(1), -inf, T(1)}, 2, -ln2, T(1) + ln2, ln2, -ln2, true},
      {"masked beside huge", {-inf, T(3e38), -inf}, 1, T(0), T(3e38), T(0), T(0), true},
      {"all masked", {-inf, -inf, -inf}, 1, nan, nan, nan, nan, false},
      {"+inf", {T(0), inf}, 0, nan, nan, nan, nan, false},
      {"+inf twice", {inf, inf}, 0, nan, nan, nan, nan, false},
      {"+inf and -inf", {inf, -inf}, 0, nan, nan, nan, nan, false},
      {"NaN beside", {T(0), nan, T(1)}, 0, nan, nan, nan, nan, false},
      {"NaN beside -inf", {-inf, nan, T(1)}, 2, nan, nan, nan, nan, false},
  };
}

template <class T>
bool agree(T actual, T expected) {
  if (std::isnan(expected)) return std::isnan(actual);
  if (actual == expected) return true;
  return std::isfinite(actual) && std::abs(actual - expected) <= 4 * std::numeric_limits<T>::epsilon() * std::max(T(1), std::abs(expected));
}

}  // namespace

TEST_CASE_TEMPLATE("token_row: at the edge of its numbers a row has its exact limit, or NaN for itself alone", B,
                   eigen_backend<float>, eigen_backend<double>, reference_backend<float>, reference_backend<double>) {
  using T = typename B::scalar;
  B const backend;
  std::size_t failed = 0;
  auto const rows = extreme_rows<T>();
  for (extreme_row<T> const& r : rows) {
    // Between two sound rows, which must not notice.
    std::size_t const v = r.logits.size();
    std::vector<T> logits(3 * v, T(0.5)), out[5], gradient(3 * v, T(9)), slopes(3, T(0.5));
    std::copy(r.logits.begin(), r.logits.end(), logits.begin() + static_cast<std::ptrdiff_t>(v));
    for (auto& values : out) values.resize(3);
    std::vector<token_id> const targets{0, r.target, 0};
    auto const matrix = as_matrix<T const>(logits.data(), 3, v);
    backend.token_logps(matrix, targets, {out[0], out[1], out[2], out[3], out[4]});
    backend.token_logps_adjoint(matrix, targets, out[1], {slopes, {}, out[3], slopes, slopes},
                                as_matrix(gradient.data(), 3, v));
    bool good = agree(out[0][1], r.logp) && agree(out[1][1], r.log_normalizer) && agree(out[3][1], r.entropy) &&
                agree(out[4][1], r.collision);
    for (std::size_t k = 0; k < v; ++k) {
      good = good && std::isfinite(gradient[k]) && std::isfinite(gradient[2 * v + k]);
      good = good && std::isnan(gradient[v + k]) != r.gradient_is_number;
      if (std::isinf(r.logits[k]) && r.gradient_is_number) good = good && gradient[v + k] == T(0);
    }
    if (!good) {
      ++failed;
      MESSAGE(r.name, ": ", out[0][1], " ", out[1][1], " ", out[3][1], " ", out[4][1], " ", gradient[v]);
    }
  }
  CHECK(failed == 0);
  proofs::extremes("row terms", rows.size(), failed);
}

TEST_CASE("token_row: the gradient may take the place of its logits") {
  std::vector<double> const x{0.3, -1.2, 2.5, 0.7, -infinity};
  std::array<double, 6> const n{0.1, 0.2, 0.3, 0.4, 0.5, 2.9};
  for (token_id const target : {0, 2, 4}) {
    std::vector<double> apart(5), in_place = x;
    row_slopes<double> const slopes{{&n[0], 1}, {&n[1], 1}, {&n[2], 1}, {&n[3], 1}, {&n[4], 1}};
    score_row_adjoint(x.data(), 5, target, n[5], slopes, 0, apart.data());
    score_row_adjoint(in_place.data(), 5, target, n[5], slopes, 0, in_place.data());
    CHECK(in_place == apart);
  }
}

TEST_CASE("token_row: a NaN among the slopes makes the row's gradient NaN, in place too") {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  for (std::size_t k = 0; k < 6; ++k) {
    std::array<double, 6> n{0.1, 0.2, 0.3, 0.4, 0.5, 3.0};
    n[k] = nan;
    std::vector<double> x{1.0, 2.0, -infinity};
    score_row_adjoint(x.data(), 3, 1, n[5],
                      row_slopes<double>{{&n[0], 1}, {&n[1], 1}, {&n[2], 1}, {&n[3], 1}, {&n[4], 1}}, 0, x.data());
    for (double const g : x) CHECK(std::isnan(g));
  }
}
