// SPDX-License-Identifier: MIT
#include <attune/objective/ppo_float_run.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/ppo.hpp>

using namespace attune;

namespace {

// Two responses behind prompts; numbers in float and the same in double.
struct batch {
  sequences text;
  std::vector<float> logps, old_logps, advantages, ref_logps, slopes;

  batch(std::size_t length, std::uint64_t seed, double spread) {
    random_stream stream(seed, 4);
    for (int b = 0; b < 2; ++b) {
      text.push_back(std::vector<token_id>(2), std::vector<token_id>(length));
      for (std::size_t i = 0; i < length + 2; ++i) {
        float const logp = static_cast<float>(-3.0 * stream.uniform());
        logps.push_back(logp);
        old_logps.push_back(logp + static_cast<float>(spread * stream.normal()));
        ref_logps.push_back(logp + static_cast<float>(2.0 * spread * stream.normal()));
        advantages.push_back(i % 7 == 3 ? 0.0f : static_cast<float>(stream.normal()));
      }
    }
    slopes.resize(logps.size());
  }
  float loss(ppo_options const& o, kl_loss_options const& kl, policy_gradient_statistics* statistics) {
    return ppo_loss<float>({logps, old_logps, advantages, ref_logps}, text, slopes, aggregation_totals_of(text),
                           loss_aggregation::token_mean, o, statistics, kl);
  }
  double in_double(ppo_options const& o, kl_loss_options const& kl, policy_gradient_statistics* statistics,
                   std::vector<double>& out) const {
    auto const wide = [](std::vector<float> const& x) { return std::vector<double>(x.begin(), x.end()); };
    out.resize(slopes.size());
    std::vector<double> const l = wide(logps), old = wide(old_logps), a = wide(advantages), r = wide(ref_logps);
    return ppo_loss<double>({l, old, a, r}, text, out, aggregation_totals_of(text), loss_aggregation::token_mean, o, statistics, kl);
  }
};

double off(double got, double exact, double scale) { return std::abs(got - exact) / (std::max)(std::abs(exact), scale); }

}  // namespace

TEST_CASE("ppo in float: loss, slopes and statistics are within 1e-6 of double's, for every bound and either KL") {
  double worst = 0.0, worst_slope = 0.0;
  std::size_t clipped = 0;
  for (ppo_options const& o : {ppo_options{}, ppo_options{.cliprange = 0.1, .cliprange_high = 0.4}, ppo_options{.dual_clip = 1.5}})
    for (kl_loss_options const& kl : {kl_loss_options{}, kl_loss_options{0.05, kl_estimator::k2}, kl_loss_options{0.3, kl_estimator::k3}})
      for (std::size_t const length : {1u, 15u, 16u, 127u, 128u, 129u, 300u})
        for (double const spread : {0.05, 1.0, 3.0}) {
          batch b(length, length, spread);
          policy_gradient_statistics ours, theirs;
          std::vector<double> exact;
          double const loss = static_cast<double>(b.loss(o, kl, &ours));
          double const expected = b.in_double(o, kl, &theirs, exact);
          double size = 0.0, largest = 0.0;
          for (std::size_t t = 0; t < exact.size(); ++t) {
            size += std::abs(exact[t]);
            largest = (std::max)(largest, std::abs(exact[t]));
          }
          worst = (std::max)(worst, off(loss, expected, size));
          for (std::size_t t = 0; t < exact.size(); ++t)
            worst_slope = (std::max)(worst_slope, off(static_cast<double>(b.slopes[t]), exact[t], largest));
          CHECK(ours.tokens() == theirs.tokens());
          CHECK(ours.clipfrac.sum == theirs.clipfrac.sum);
          CHECK(ours.clipfrac_lower.sum == theirs.clipfrac_lower.sum);
          clipped += static_cast<std::size_t>(ours.clipfrac.sum);
          for (auto const& [a, e] : {std::pair{ours.ratio, theirs.ratio}, std::pair{ours.ratio_squared, theirs.ratio_squared},
                                     std::pair{ours.approxkl, theirs.approxkl}, std::pair{ours.kl, theirs.kl}})
            CHECK(off(a.sum, e.sum, 1e-3) <= 2e-6);
        }
  CHECK(worst <= 1e-6);
  CHECK(worst_slope <= 1e-6);
  CHECK(clipped > 100);
}

TEST_CASE("ppo in float: before anything has moved the ratio is 1, exactly") {
  batch b(200, 1, 0.0);
  policy_gradient_statistics statistics;
  b.loss({}, {}, &statistics);
  CHECK(statistics.ratio.sum == 400.0);
  CHECK(statistics.ratio_squared.sum == 400.0);
  CHECK(statistics.approxkl.sum == 0.0);
  CHECK(statistics.clipfrac.sum == 0.0);
  for (std::size_t t = 0; t < b.slopes.size(); ++t)
    CHECK(b.slopes[t] == (b.text.view().mask[t] != 0 ? -b.advantages[t] * (1.0f / 400.0f) : 0.0f));
}

TEST_CASE("ppo in float: what float could not hold goes through double, to the bit") {
  auto const agrees = [](batch b, kl_loss_options const& kl = {}) {
    std::vector<double> exact;
    double const expected = b.in_double({}, kl, nullptr, exact);
    bool same = b.loss({}, kl, nullptr) == saturate_cast<float>(expected);
    for (std::size_t t = 0; t < exact.size(); ++t) same = same && b.slopes[t] == saturate_cast<float>(exact[t]);
    return same;
  };
  kl_loss_options const k3{0.1, kl_estimator::k3};
  batch far(20, 1, 0.1);
  for (float& x : far.old_logps) x -= 60.0f;
  CHECK(agrees(far));
  batch steep(20, 1, 0.1);
  for (float& x : steep.advantages) x *= 1e30f;
  CHECK(agrees(steep));
  batch strange(20, 1, 0.1);
  for (float& x : strange.ref_logps) x -= 1e4f;
  CHECK(agrees(strange, k3));
  batch corrected(20, 1, 0.1);
  CHECK(agrees(corrected, {0.1, kl_estimator::k3, true}));
  CHECK_FALSE(agrees(batch(20, 1, 0.1), k3));  // and this one does not, or the case says nothing
}

TEST_CASE("ppo in float: slopes may take the place of the log-probabilities they belong to") {
  batch apart(150, 3, 0.3), b(150, 3, 0.3);
  kl_loss_options const kl{0.05, kl_estimator::k3};
  float const loss = apart.loss({}, kl, nullptr);
  CHECK(ppo_loss<float>({b.logps, b.old_logps, b.advantages, b.ref_logps}, b.text, std::span(b.logps), aggregation_totals_of(b.text),
                        loss_aggregation::token_mean, {}, nullptr, kl) == loss);
  CHECK(b.logps == apart.slopes);
}

TEST_CASE("ppo in float: e^x - 1 and e^x - 1 - x are within four and eight units in the last place for |x| <= 80, and 0 at 0") {
  random_stream stream(5);
  using L = ppo_float_lanes;
  auto const units_off = [](float got, long double exact) {
    float const rounded = std::abs(static_cast<float>(exact));
    long double const unit = std::nextafter(rounded, std::numeric_limits<float>::infinity()) - rounded;
    return static_cast<double>(std::abs(static_cast<long double>(got) - exact) / unit);
  };
  double worst_less_one = 0.0, worst_excess = 0.0;
  for (int i = 0; i < 200000; ++i) {
    float const x = static_cast<float>((i % 3 == 0 ? 80.0 : i % 3 == 1 ? 2.0 : 0.1) * (2.0 * stream.uniform() - 1.0));
    L::values less_one, excess;
    L::exponential_less_one(L::values{} + x, less_one, excess);
    long double const exact = std::expm1(static_cast<long double>(x));
    worst_less_one = (std::max)(worst_less_one, units_off(less_one[0], exact));
    worst_excess = (std::max)(worst_excess, units_off(excess[0], exact - static_cast<long double>(x)));
  }
  CHECK(worst_less_one <= 4.0);
  CHECK(worst_excess <= 8.0);  // worst just beyond ln 2 / 2, where numbers near 1 leave 0.07
  L::values less_one, excess;
  L::exponential_less_one(L::values{}, less_one, excess);
  float const less_one_at_0 = less_one[0], excess_at_0 = excess[0];
  CHECK(less_one_at_0 == 0.0f);
  CHECK(excess_at_0 == 0.0f);
}

TEST_CASE("ppo in float: what the mask leaves out has no part in anything, whatever it holds, and a slope of 0") {
  for (std::size_t const length : {5u, 16u, 40u, 700u}) {
    batch clean(length, 2, 0.4), b(length, 2, 0.4);
    auto const mask = b.text.view().mask;
    for (std::size_t t = 0; t < mask.size(); ++t)
      if (mask[t] == 0) {
        b.logps[t] = std::numeric_limits<float>::quiet_NaN();
        b.old_logps[t] = -std::numeric_limits<float>::infinity();
        b.advantages[t] = 3e38f;
        b.ref_logps[t] = std::numeric_limits<float>::quiet_NaN();
        b.slopes[t] = 7.0f;
      }
    kl_loss_options const kl{0.3, kl_estimator::k3};
    policy_gradient_statistics ours, theirs;
    CHECK(b.loss({}, kl, &ours) == clean.loss({}, kl, &theirs));
    CHECK(b.slopes == clean.slopes);
    CHECK(ours.ratio.sum == theirs.ratio.sum);
    CHECK(ours.kl.sum == theirs.kl.sum);
    CHECK(ours.tokens() == 2 * length);
    for (std::size_t t = 0; t < mask.size(); ++t)
      if (mask[t] == 0) CHECK((b.slopes[t] == 0.0f && !std::signbit(b.slopes[t])));
  }
}

TEST_CASE("ppo in float: asked for statistics or not, loss and slopes are the same bits") {
  batch a(333, 4, 0.5), b(333, 4, 0.5);
  kl_loss_options const kl{0.1, kl_estimator::k2};
  policy_gradient_statistics statistics;
  CHECK(a.loss({.dual_clip = 1.5}, kl, &statistics) == b.loss({.dual_clip = 1.5}, kl, nullptr));
  CHECK(a.slopes == b.slopes);
}

TEST_CASE("ppo in float: every aggregation gives its tokens the weight that double gives them") {
  kl_loss_options const kl{0.05, kl_estimator::k3};
  for (loss_aggregation const aggregation :
       {loss_aggregation::token_mean, loss_aggregation::sequence_mean, loss_aggregation::sequence_sum, loss_aggregation::constant}) {
    batch b(23, 6, 0.3);
    aggregation_totals totals{.tokens = 100, .sequences = 5, .constant_length = 40.0};
    auto const wide = [](std::vector<float> const& x) { return std::vector<double>(x.begin(), x.end()); };
    std::vector<double> const l = wide(b.logps), old = wide(b.old_logps), a = wide(b.advantages), r = wide(b.ref_logps);
    std::vector<double> exact(l.size());
    double const expected = ppo_loss<double>({l, old, a, r}, b.text, exact, totals, aggregation, {}, nullptr, kl);
    float const got = ppo_loss<float>({b.logps, b.old_logps, b.advantages, b.ref_logps}, b.text, b.slopes, totals, aggregation, {}, nullptr, kl);
    double const largest = std::abs(*std::max_element(exact.begin(), exact.end(), [](double x, double y) { return std::abs(x) < std::abs(y); }));
    CHECK(off(static_cast<double>(got), expected, largest) <= 1e-5);
    for (std::size_t t = 0; t < exact.size(); ++t) CHECK(off(static_cast<double>(b.slopes[t]), exact[t], largest) <= 1e-6);
  }
}
