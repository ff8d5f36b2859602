// SPDX-License-Identifier: MIT
#include <attune/objective/kl.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

using namespace attune;
using testing::relative_error;

namespace {

auto const estimators = {kl_estimator::k1, kl_estimator::k2, kl_estimator::k3};

// A softmax over six outcomes and a reference: small enough to sum over, so that an expectation is exact.
struct enumerable {
  std::vector<double> logits, ref_logits;

  explicit enumerable(std::uint64_t seed) {
    random_stream stream(seed);
    for (int v = 0; v < 6; ++v) {
      logits.push_back(stream.normal());
      ref_logits.push_back(stream.normal());
    }
  }
  template <class T>
  static std::vector<T> logps_of(std::vector<T> const& x) {
    using std::exp;
    using std::log;
    T sum(0.0);
    for (T const& l : x) sum = sum + exp(l);
    std::vector<T> out;
    for (T const& l : x) out.push_back(l - log(sum));
    return out;
  }
  std::vector<double> logps() const { return logps_of(logits); }
  std::vector<double> ref_logps() const { return logps_of(ref_logits); }

  // Sum over outcomes of pi f(log pi - log ref).
  template <class F>
  double expectation(F const& f) const {
    auto const p = logps(), q = ref_logps();
    double sum = 0;
    for (std::size_t v = 0; v < p.size(); ++v) sum += std::exp(p[v]) * f(p[v] - q[v]);
    return sum;
  }
  // Its gradient as a loss: sum over outcomes y of pi(y) slope(y) d log pi(y) / d logits, samples held still.
  std::vector<double> gradient_as_loss(kl_estimator k) const {
    auto const p = logps(), q = ref_logps();
    std::vector<double> out(p.size(), 0.0);
    for (std::size_t y = 0; y < p.size(); ++y)
      for (std::size_t v = 0; v < p.size(); ++v)
        out[v] += std::exp(p[y]) * kl_estimate(p[y] - q[y], k).slope * ((y == v ? 1.0 : 0.0) - std::exp(p[v]));
    return out;
  }
  // Its gradient as a cost inside the reward: sum over outcomes y of pi(y) k(y) d log pi(y) / d logits.
  std::vector<double> gradient_as_reward(kl_estimator k) const {
    auto const p = logps(), q = ref_logps();
    std::vector<double> out(p.size(), 0.0);
    for (std::size_t y = 0; y < p.size(); ++y)
      for (std::size_t v = 0; v < p.size(); ++v)
        out[v] += std::exp(p[y]) * kl_estimate(p[y] - q[y], k).value * ((y == v ? 1.0 : 0.0) - std::exp(p[v]));
    return out;
  }
  // Gradients of KL(pi || ref) and KL(ref || pi), from their definitions by dual numbers.
  std::vector<double> gradient_of_kl(bool reverse) const {
    using dual = testing::dual_number<double>;
    auto const q = ref_logps();
    std::vector<double> out;
    for (std::size_t v = 0; v < logits.size(); ++v) {
      std::vector<dual> x(logits.begin(), logits.end());
      x[v].derivative = 1.0;
      auto const p = logps_of(x);
      dual kl(0.0);
      for (std::size_t y = 0; y < q.size(); ++y)
        kl += reverse ? exp(p[y]) * (p[y] - q[y]) : dual(std::exp(q[y])) * (dual(q[y]) - p[y]);
      out.push_back(kl.derivative);
    }
    return out;
  }
};

double distance(std::vector<double> const& a, std::vector<double> const& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

}  // namespace

TEST_CASE("kl: as a value k1 and k3 have KL(pi || ref) as expectation, and k2 has not") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    enumerable const e(seed);
    double const kl = e.expectation([](double d) { return d; });
    auto const mean = [&](kl_estimator k) { return e.expectation([&](double d) { return kl_estimate(d, k).value; }); };
    CHECK(relative_error(mean(kl_estimator::k1), kl) <= 1e-13);
    CHECK(relative_error(mean(kl_estimator::k3), kl) <= 1e-13);
    CHECK(relative_error(mean(kl_estimator::k2), kl) > 1e-3);
  }
}

TEST_CASE("kl: as a loss k1 pulls nowhere, k2 down KL(pi || ref) and k3 down KL(ref || pi)") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    enumerable const e(seed);
    auto const reverse = e.gradient_of_kl(true), forward = e.gradient_of_kl(false);
    CHECK(distance(e.gradient_as_loss(kl_estimator::k1), std::vector<double>(6, 0.0)) <= 1e-15);
    CHECK(distance(e.gradient_as_loss(kl_estimator::k2), reverse) <= 1e-14);
    CHECK(distance(e.gradient_as_loss(kl_estimator::k3), forward) <= 1e-14);
    CHECK(distance(reverse, forward) > 1e-2);  // so that the two cannot be taken for each other
  }
}

TEST_CASE("kl: in a reward k1 pulls down KL(pi || ref), and k3 down KL(pi || ref) - KL(ref || pi)") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    enumerable const e(seed);
    auto const reverse = e.gradient_of_kl(true), forward = e.gradient_of_kl(false);
    std::vector<double> difference;
    for (std::size_t v = 0; v < reverse.size(); ++v) difference.push_back(reverse[v] - forward[v]);
    CHECK(distance(e.gradient_as_reward(kl_estimator::k1), reverse) <= 1e-14);
    CHECK(distance(e.gradient_as_reward(kl_estimator::k3), difference) <= 1e-14);
  }
}

TEST_CASE("kl: k3 with its sign lost estimates chi^2 - KL") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    enumerable const e(seed);
    double const kl = e.expectation([](double d) { return d; });
    double const chi_squared = e.expectation([](double d) { return std::exp(d); }) - 1.0;
    double const lost = e.expectation([](double d) { return std::exp(d) - 1.0 - d; });
    CHECK(relative_error(lost, chi_squared - kl) <= 1e-12);
    CHECK(relative_error(lost, kl) > 1e-2);
    CHECK(relative_error(e.expectation([](double d) { return kl_estimate(d, kl_estimator::k3).value; }), kl) <= 1e-13);
  }
}

TEST_CASE("kl: slopes agree with dual numbers and complex step to 1e-12, values with the note's formulas") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  random_stream stream(7);
  for (kl_estimator const k : estimators)
    for (int i = 0; i < 400; ++i) {
      double const d = (i % 4 == 0 ? 0.1 : 4.0) * stream.normal();
      auto const ours = kl_estimate(d, k);
      CHECK(relative_error(ours.slope, kl_estimate(dual(d, 1), k).value.derivative) <= 1e-12);
      CHECK(relative_error(ours.slope, kl_estimate(complex(d, 1e-100), k).value.imag() * 1e100) <= 1e-12);
      long double const x = static_cast<long double>(d);
      long double const value = k == kl_estimator::k1 ? x : k == kl_estimator::k2 ? x * x / 2 : std::expm1(-x) + x;
      CHECK(relative_error(ours.value, static_cast<double>(value)) <= 1e-14);
    }
}

TEST_CASE("kl: k3 keeps its digits next to 0, where its terms cancel, and is smooth where its two forms meet") {
  for (double const d : {1e-300, 1e-20, 1e-12, 1e-8, 1e-4}) {
    for (double const x : {d, -d}) {
      auto const one = kl_estimate(x, kl_estimator::k3);
      CHECK(one.value >= 0.0);
      CHECK(relative_error(one.value, x * x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5))), 1e-307) <= 1e-15);
      CHECK(relative_error(one.slope, -std::expm1(-x)) <= 1e-15);
    }
  }
  for (double const seam : {0.5, -0.5}) {
    auto const below = kl_estimate(std::nextafter(seam, 0.0), kl_estimator::k3);
    auto const above = kl_estimate(seam, kl_estimator::k3);
    CHECK(relative_error(below.value, above.value) <= 3e-15);
    CHECK(relative_error(below.slope, above.slope) <= 3e-15);
  }
  for (kl_estimator const k : estimators) CHECK(kl_estimate(0.0, k).value == 0.0);
}

TEST_CASE("kl: finite for every finite input") {
  auto const check = []<class T>(T) {
    for (kl_estimator const k : estimators)
      for (T const d : {T(0), T(1e3), T(-1e3), T(1e30), T(-1e30), (std::numeric_limits<T>::max)(),
                        std::numeric_limits<T>::lowest(), std::numeric_limits<T>::denorm_min()}) {
        auto const one = kl_estimate(d, k);
        CHECK(std::isfinite(one.value));
        CHECK(std::isfinite(one.slope));
        CHECK((k == kl_estimator::k1 || one.value >= 0));
      }
  };
  check(0.0);
  check(0.0f);
  CHECK(std::isnan(kl_estimate(std::nan(""), kl_estimator::k3).value));
}
