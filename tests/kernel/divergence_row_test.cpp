// SPDX-License-Identifier: MIT
#include <attune/kernel/divergence_row.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstring>
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
auto const directions = {kl_direction::reverse, kl_direction::forward};

// -inf is written as -1e308 in golden files.
std::vector<double> logits_of(golden_case const& c, std::string const& name) {
  std::vector<double> x = c[name];
  for (double& a : x)
    if (a <= -1e308) a = -infinity;
  return x;
}

template <class N>
N log_normalizer(std::vector<N> const& x, double maximum) {
  N sum(0);
  for (N const a : x) sum += std::exp(a - N(maximum));
  return N(maximum) + std::log(sum);
}

// The definition, in any numbers: KL(p || q) or KL(q || p), p of x.
template <class N>
N divergence(std::vector<N> const& x, std::vector<double> const& y, kl_direction direction) {
  double const most = *std::max_element(y.begin(), y.end()), w = log_normalizer(y, most);
  N const z = log_normalizer(x, most);
  N sum(0);
  for (std::size_t v = 0; v < x.size(); ++v) {
    N const logp = x[v] - z, logq = N(y[v] - w);
    sum += direction == kl_direction::reverse ? std::exp(logp) * (logp - logq) : std::exp(logq) * (logq - logp);
  }
  return sum;
}

struct one_row {
  double kl, normalizer, ref_normalizer;
  std::vector<double> gradient;
};

template <class B>
one_row run(B const& backend, std::vector<double> const& x, std::vector<double> const& y, kl_direction direction, double slope) {
  one_row r{0, 0, 0, std::vector<double>(x.size())};
  token_id const target = 0;
  std::size_t const count = x.size();
  auto const p = as_matrix(x.data(), 1, count), q = as_matrix(y.data(), 1, count);
  row_kl<double> const rows{{&r.kl, 1}, {&r.normalizer, 1}, {&r.ref_normalizer, 1}};
  backend.token_kl(p, q, {&target, 1}, direction, rows);
  backend.token_kl_adjoint(p, q, {&target, 1}, direction, {rows.kl, rows.log_normalizers, rows.ref_log_normalizers},
                           {&slope, 1}, as_matrix(r.gradient.data(), 1, count));
  return r;
}

}  // namespace

TEST_CASE("divergence_row: in both directions every element of the gradient is the complex step's, and a central difference") {
  double worst = 0.0, worst_fd = 0.0;
  auto const check = [&](auto const& backend) {
    for (kl_direction const direction : directions)
      for (double const away : {0.05, 1.0, 4.0})
        for (std::uint64_t seed = 0; seed < 20; ++seed) {
          random_stream random(seed, 77);
          std::size_t const count = 1 + random.below(40);
          std::vector<double> x, y;
          for (std::size_t v = 0; v < count; ++v) {
            x.push_back(2.0 * random.normal());
            y.push_back(x.back() + away * random.normal());
          }
          double const slope = random.normal();
          one_row const r = run(backend, x, y, direction, slope);
          std::vector<complex> z(x.begin(), x.end());
          for (std::size_t v = 0; v < count; ++v) {
            z[v] += complex(0.0, 1e-30);
            double const exact = slope * divergence(z, y, direction).imag() * 1e30;
            z[v] = x[v];
            worst = std::max(worst, testing::relative_error(r.gradient[v], exact, 0.01 * std::abs(slope)));
            double const difference =
                testing::central_difference([&] { return slope * divergence(x, y, direction); }, x[v]);
            worst_fd = std::max(worst_fd, testing::relative_error(r.gradient[v], difference, std::abs(slope)));
          }
        }
  };
  check(reference_backend<double>());
  check(eigen_backend<double>());
  MESSAGE("worst ", worst, ", of central differences ", worst_fd);
  CHECK(worst <= 1e-12);
  CHECK(worst_fd <= 1e-9);
  proofs::derivatives("exact KL", 12, 20, worst, worst_fd);
}

TEST_CASE("divergence_row: both directions and their gradients are those of torch.nn.functional.kl_div") {
  auto const cases = read_golden("row_kl.txt");
  REQUIRE(cases.size() >= 100);
  double worst_value = 0.0, worst_gradient = 0.0;
  auto const check = [&](auto const& backend) {
    for (golden_case const& c : cases) {
      std::size_t const v = static_cast<std::size_t>(c.number("vocabulary"));
      kl_direction const direction = c.number("forward") != 0 ? kl_direction::forward : kl_direction::reverse;
      std::vector<double> const x = logits_of(c, "logits"), y = logits_of(c, "ref_logits");
      std::vector<double> kl(2), z(2), w(2), gradient(2 * v);
      std::vector<token_id> const targets{0, 0};
      auto const p = as_matrix(x.data(), 2, v), q = as_matrix(y.data(), 2, v);
      backend.token_kl(p, q, targets, direction, {kl, z, w});
      backend.token_kl_adjoint(p, q, targets, direction, {kl, z, w}, c["slopes"], as_matrix(gradient.data(), 2, v));
      for (std::size_t i = 0; i < 2; ++i)
        worst_value = std::max(worst_value, std::abs(kl[i] - c["kl"][i]) / std::max(1.0, c["kl"][i]));
      for (std::size_t i = 0; i < 2 * v; ++i) {
        double const error = std::abs(gradient[i] - c["gradient"][i]) / std::max(1.0, std::abs(c["gradient"][i]));
        worst_gradient = std::isnan(error) ? infinity : std::max(worst_gradient, error);
      }
    }
  };
  check(reference_backend<double>());
  check(eigen_backend<double>());
  MESSAGE("worst value ", worst_value, ", gradient ", worst_gradient);
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
  proofs::golden("exact KL", "PyTorch", cases.size(), worst_value, worst_gradient);
}

TEST_CASE("divergence_row: never negative, 0 with slope 0 between equal rows, and blind to a shift of either row") {
  random_stream random(3);
  for (kl_direction const direction : directions)
    for (int i = 0; i < 50; ++i) {
      std::vector<double> x(1 + random.below(60)), y = x;
      for (double& a : x) a = 3.0 * random.normal();
      for (std::size_t v = 0; v < x.size(); ++v) y[v] = x[v] + 1e-9 * random.normal();
      CHECK(run(eigen_backend<double>(), x, y, direction, 1.0).kl >= 0.0);
      one_row const itself = run(eigen_backend<double>(), x, x, direction, 1.0);
      CHECK(itself.kl == 0.0);
      for (double const g : itself.gradient) CHECK(g == 0.0);
      for (double& a : y) a = 3.0 * random.normal();
      one_row const plain = run(eigen_backend<double>(), x, y, direction, 1.0);
      for (double& a : y) a += 16.0;
      one_row const moved = run(eigen_backend<double>(), x, y, direction, 1.0);
      CHECK(moved.kl == doctest::Approx(plain.kl).epsilon(1e-12));
      double sum = 0.0;
      for (double const g : moved.gradient) sum += g;
      CHECK(std::abs(sum) <= 1e-13 * (1.0 + plain.kl));
    }
  proofs::law("exact KL", "never negative; 0 and stationary at the reference; blind to shifts; its gradient sums to 0");
}

TEST_CASE("divergence_row: the two directions trade places with their rows, and near the reference they agree") {
  random_stream random(4);
  std::vector<double> x(33), y(33);
  for (std::size_t v = 0; v < 33; ++v) y[v] = (x[v] = random.normal()) + random.normal();
  CHECK(run(eigen_backend<double>(), x, y, kl_direction::reverse, 1.0).kl ==
        run(eigen_backend<double>(), y, x, kl_direction::forward, 1.0).kl);
  for (std::size_t v = 0; v < 33; ++v) y[v] = x[v] + 1e-4 * random.normal();
  double const reverse = run(eigen_backend<double>(), x, y, kl_direction::reverse, 1.0).kl;
  CHECK(run(eigen_backend<double>(), x, y, kl_direction::forward, 1.0).kl == doctest::Approx(reverse).epsilon(1e-3));
  proofs::law("exact KL", "reverse KL of (p, q) is forward KL of (q, p); to second order the two are one");
}

TEST_CASE("divergence_row: against a uniform reference reverse KL is log V less the entropy") {
  random_stream random(8);
  for (std::size_t const count : {1u, 2u, 40u, 2000u}) {
    std::vector<double> x(count), y(count, -3.0);
    for (double& a : x) a = 2.0 * random.normal();
    double const entropy = softmax_entropy(x.data(), count, summarize_logits(x.data(), count, false));
    CHECK(std::abs(run(eigen_backend<double>(), x, y, kl_direction::reverse, 1.0).kl -
                   (std::log(static_cast<double>(count)) - entropy)) <= 1e-13);
  }
  proofs::law("exact KL", "against a uniform reference reverse KL is log V less the entropy");
}

TEST_CASE_TEMPLATE("divergence_row: equal bits at any alignment, and the gradient is added", T, float, double) {
  random_stream random(2);
  for (std::size_t const count : {1u, 31u, 1025u, 2500u}) {
    std::vector<T> x(count), y(count), base(count, T(1));
    for (T& a : x) a = static_cast<T>(random.normal());
    for (T& a : y) a = static_cast<T>(random.normal());
    T kl(0), z(0), w(0);
    row_kl<T> const rows{{&kl, 1}, {&z, 1}, {&w, 1}};
    divergence_row(x.data(), y.data(), count, 0, kl_direction::reverse, rows, 0);
    T const first = kl;
    row_kl<T const> const seen{{&kl, 1}, {&z, 1}, {&w, 1}};
    divergence_row_adjoint(x.data(), y.data(), count, kl_direction::reverse, seen, T(0.5), 0, base.data());
    std::vector<T> a(count + 17), b(count + 17), g(count + 17);
    for (std::size_t shift = 0; shift < 17; shift += 3) {
      std::copy(x.begin(), x.end(), a.data() + shift);
      std::copy(y.begin(), y.end(), b.data() + (16 - shift));
      std::fill(g.begin(), g.end(), T(1));
      divergence_row(a.data() + shift, b.data() + (16 - shift), count, 0, kl_direction::reverse, rows, 0);
      CHECK(kl == first);
      divergence_row_adjoint(a.data() + shift, b.data() + (16 - shift), count, kl_direction::reverse, seen, T(0.5), 0,
                             g.data() + shift);
      CHECK(std::memcmp(g.data() + shift, base.data(), count * sizeof(T)) == 0);
    }
    double sum = 0.0;
    for (T const d : base) sum += static_cast<double>(d) - 1.0;
    CHECK(std::abs(sum) <= 1e-3 * (sizeof(T) == 8 ? 1e-8 : 1.0));
  }
}

namespace {

// The divergence of rows at the edge of their type; NaN means NaN.
template <class T>
struct extreme_pair {
  char const* name;
  std::vector<T> logits, ref_logits;
  T reverse, forward;
};

template <class T>
std::vector<extreme_pair<T>> extreme_pairs() {
  constexpr T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  constexpr T least = std::numeric_limits<T>::denorm_min();
  T const ln2 = static_cast<T>(std::log(2.0));
  return {
      {"one entry", {T(5)}, {T(-7)}, T(0), T(0)},
      {"one entry, huge", {T(3e38)}, {T(-3e38)}, T(0), T(0)},
      {"one entry, none", {-inf}, {T(0)}, nan, nan},
      {"one entry, none in the reference", {T(0)}, {-inf}, nan, nan},
      {"one entry, NaN", {nan}, {T(0)}, nan, nan},
      {"equal and huge", {T(3e38), T(0)}, {T(3e38), T(0)}, T(0), T(0)},
      {"equal and -huge", {T(-3e38), T(0)}, {T(-3e38), T(0)}, T(0), T(0)},
      {"both masked alike", {T(1), -inf, T(1)}, {T(2), -inf, T(2)}, T(0), T(0)},
      {"certain against even", {T(0), -inf}, {T(0), T(0)}, ln2, inf},
      {"even against certain", {T(0), T(0)}, {T(0), -inf}, inf, ln2},
      {"certain against even, by 1e4", {T(1e4), T(0)}, {T(0), T(0)}, ln2, T(5e3) - ln2},
      {"even against certain, by 1e4", {T(0), T(0)}, {T(1e4), T(0)}, T(5e3) - ln2, ln2},
      {"certain of different entries, by 1e4", {T(1e4), T(0)}, {T(0), T(1e4)}, T(1e4), T(1e4)},
      {"certain of different entries, masked", {T(0), -inf}, {-inf, T(0)}, inf, inf},
      {"denormals", {least, T(0)}, {T(0), least}, T(0), T(0)},
      {"all masked", {-inf, -inf}, {T(0), T(0)}, nan, nan},
      {"all masked in the reference", {T(0), T(0)}, {-inf, -inf}, nan, nan},
      {"all masked in both", {-inf, -inf}, {-inf, -inf}, nan, nan},
      {"NaN", {T(0), nan}, {T(0), T(0)}, nan, nan},
      {"NaN in the reference", {T(0), T(0)}, {nan, T(0)}, nan, nan},
      {"NaN where the other is masked", {T(0), nan}, {T(0), -inf}, nan, nan},
      {"+inf", {inf, T(0)}, {T(0), T(0)}, nan, nan},
      {"+inf in both", {inf, T(0)}, {inf, T(0)}, nan, nan},
      {"+inf in the reference", {T(0), T(0)}, {T(0), inf}, nan, nan},
  };
}

}  // namespace

TEST_CASE_TEMPLATE("divergence_row: at the edge of their numbers rows have the exact limit, +inf or NaN, for themselves alone",
                   B, eigen_backend<float>, eigen_backend<double>, reference_backend<float>, reference_backend<double>) {
  using T = typename B::scalar;
  B const backend;
  std::size_t failed = 0, cases = 0;
  for (extreme_pair<T> const& e : extreme_pairs<T>())
    for (kl_direction const direction : directions) {
      ++cases;
      std::size_t const v = e.logits.size();
      std::vector<T> x(3 * v, T(0.5)), y(3 * v, T(0.25)), kl(3), z(3), w(3), gradient(3 * v, T(2)), slopes(3, T(0.5));
      std::copy(e.logits.begin(), e.logits.end(), x.begin() + static_cast<std::ptrdiff_t>(v));
      std::copy(e.ref_logits.begin(), e.ref_logits.end(), y.begin() + static_cast<std::ptrdiff_t>(v));
      std::vector<token_id> const targets{0, 0, no_target};
      auto const p = as_matrix<T const>(x.data(), 3, v), q = as_matrix<T const>(y.data(), 3, v);
      backend.token_kl(p, q, targets, direction, {kl, z, w});
      backend.token_kl_adjoint(p, q, targets, direction, {kl, z, w}, slopes, as_matrix(gradient.data(), 3, v));
      T const expected = direction == kl_direction::reverse ? e.reverse : e.forward;
      bool good = kl[0] == T(0) && kl[2] == T(0);
      if (std::isnan(expected))
        good = good && std::isnan(kl[1]);
      else
        good = good && (kl[1] == expected || std::abs(kl[1] - expected) <=
                                                 8 * std::numeric_limits<T>::epsilon() * std::max(T(1), std::abs(expected)));
      for (std::size_t k = 0; k < v; ++k) {
        good = good && gradient[k] == T(2) && gradient[2 * v + k] == T(2);
        good = good && std::isnan(gradient[v + k]) != std::isfinite(expected);
        if (e.logits[k] == -std::numeric_limits<T>::infinity() && std::isfinite(expected)) good = good && gradient[v + k] == T(2);
      }
      if (!good) {
        ++failed;
        MESSAGE(e.name, direction == kl_direction::reverse ? " reverse: " : " forward: ", kl[1], ", gradient ", gradient[v]);
      }
    }
  CHECK(failed == 0);
  proofs::extremes("exact KL", cases, failed);
}
