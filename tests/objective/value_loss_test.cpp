// SPDX-License-Identifier: MIT
#include <attune/objective/value_loss.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"
#include "support/proofs.hpp"

using namespace attune;
using testing::relative_error;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

struct batch {
  std::vector<token_id> tokens = std::vector<token_id>(8, 1);
  std::vector<std::size_t> offsets{0, 3, 8};
  std::vector<std::uint8_t> mask{0, 0, 1, 0, 1, 1, 0, 1};
  std::vector<double> values, returns, old_values, slopes;
  aggregation_totals totals{.tokens = 4};
  value_statistics statistics;

  explicit batch(std::uint64_t seed = 0) : slopes(8, 7.0) {
    random_stream stream(seed);
    for (std::uint8_t const m : mask) {
      values.push_back(m != 0 ? stream.normal() : missing);
      returns.push_back(m != 0 ? stream.normal() : missing);
      old_values.push_back(m != 0 ? values.back() + 0.4 * stream.normal() : missing);
    }
  }
  sequences_view view() const { return {tokens, offsets, mask}; }
  double loss(value_loss_options o = {}) {
    return value_loss<double>({.values = values, .returns = returns, .old_values = old_values}, view(), slopes, totals,
                              o, &statistics);
  }
};

std::string message_of(batch b, value_loss_options o = {}) {
  auto const before = b.slopes;
  try {
    b.loss(o);
  } catch (contract_violation const& e) {
    CHECK(b.slopes == before);  // nothing half-written
    CHECK(b.statistics.error.weight == 0.0);
    return e.what();
  }
  return "no error";
}

template <class T>
T textbook(T v, double old, double target, double c) {
  auto const square = [](T x) { return x * x; };
  T const plain = square(v - T(target));
  if (c == 0) return T(0.5) * plain;
  T const held = v < T(old - c) ? T(old - c) : v > T(old + c) ? T(old + c) : v;
  T const clipped = square(held - T(target));
  return T(0.5) * (clipped > plain ? clipped : plain);
}

}  // namespace

TEST_CASE("value_loss: inside the band it is the squared error / 2; outside the larger of the two counts") {
  value_loss_options const o{.cliprange_value = 0.5};
  auto const inside = value_objective(1.25, 1.0, 3.0, o);
  CHECK(inside.value == 1.75 * 1.75 / 2);
  CHECK(inside.slope == -1.75);
  CHECK(!inside.clipped);
  auto const past = value_objective(2.0, 1.0, 3.0, o);  // on its way to the return, but too fast: held at 1.5
  CHECK(past.value == 1.5 * 1.5 / 2);
  CHECK(past.slope == 0.0);
  CHECK(past.clipped);
  auto const away = value_objective(0.0, 1.0, 3.0, o);  // away from the return: pulled back
  CHECK(away.value == 4.5);
  CHECK(away.slope == -3.0);
  CHECK(!away.clipped);
  auto const free = value_objective(2.0, 1.0, 3.0, {.cliprange_value = 0});
  CHECK(free.value == 0.5);
  CHECK(free.slope == -1.0);
  proofs::law("value_loss", "inside the band it is the squared error / 2; outside the larger of the two counts");
}

TEST_CASE("value_loss: every slope agrees with dual numbers, complex step and the formula to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  double worst = 0.0, central = 0.0;
  auto const check = [&](double a, double b) {
    double const error = relative_error(a, b);
    CHECK(error <= 1e-12);
    worst = (std::max)(worst, std::isnan(error) ? INFINITY : error);
  };
  for (double const c : {0.0, 0.05, 0.2, 1.0})
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      random_stream stream(seed);
      double const v = stream.normal(), old = v + 0.5 * stream.normal(), target = stream.normal();
      value_loss_options const o{c};
      auto const ours = value_objective(v, old, target, o);
      check(ours.slope, value_objective(dual(v, 1), dual(old), dual(target), o).value.derivative);
      check(ours.slope, value_objective(complex(v, 1e-100), complex(old), complex(target), o).value.imag() * 1e100);
      check(ours.value, textbook(v, old, target, c));
      check(ours.slope, textbook(dual(v, 1), old, target, c).derivative);
      batch b(seed);
      b.loss({c});
      auto const slopes = b.slopes;
      for (std::size_t t = 0; t < 8; ++t) {
        if (b.mask[t] == 0) {
          CHECK(slopes[t] == 0.0);
          continue;
        }
        double const room = std::abs(std::abs(b.values[t] - b.old_values[t]) - c);
        double const held = b.values[t] < b.old_values[t] ? b.old_values[t] - c : b.old_values[t] + c;
        double const rival =  // where the two branches cross
            std::abs(std::abs(held - b.returns[t]) - std::abs(b.values[t] - b.returns[t]));
        if (c == 0.0 || (room > 0.01 && rival > 0.01))
          central = (std::max)(central, relative_error(testing::central_difference([&] { return b.loss({c}); }, b.values[t]),
                                                       slopes[t], 1.0));
      }
    }
  CHECK(central <= 1e-9);
  proofs::derivatives("value_loss", 4, 100, worst, central);
}

TEST_CASE("value_loss: finite for every finite input") {
  std::size_t cases = 0, failed = 0;
  auto const check = [&]<class T>(T) {
    T const most = (std::numeric_limits<T>::max)();
    for (T const v : {T(0), T(1e30), most, -most})
      for (T const old : {T(0), most, -most})
        for (T const target : {T(0), most, -most})
          for (double const c : {0.0, 0.2, 1e308}) {
            auto const one = value_objective(v, old, target, {c});
            ++cases;
            failed += std::isfinite(one.value) && std::isfinite(one.slope) ? 0 : 1;
          }
  };
  check(0.0);
  check(0.0f);
  CHECK(failed == 0);
  proofs::extremes("value_loss", cases, failed);
  batch b;
  double const most = (std::numeric_limits<double>::max)();
  b.values = {missing, missing, most, missing, -most, most, missing, 0};
  b.returns = {missing, missing, -most, missing, most, -most, missing, most};
  CHECK(std::isfinite(b.loss()));
  for (double const slope : b.slopes) CHECK(std::isfinite(slope));
}

TEST_CASE("value_loss: loss, gradient and statistics are PyTorch's") {
  auto const cases = read_golden("value_loss.txt");
  double worst_value = 0.0, worst_gradient = 0.0;
  auto const raise = [](double& worst, double ours, double theirs) {
    double const error = relative_error(ours, theirs);
    worst = (std::max)(worst, std::isnan(error) ? INFINITY : error);
  };
  CHECK(cases.size() >= 18);
  for (golden_case const& c : cases) {
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    std::vector<token_id> const tokens(mask.size(), 0);
    std::vector<double> slopes(mask.size(), 7.0);
    value_statistics s;
    double const loss =
        value_loss<double>({c["values"], c["returns"], c["old_values"]}, {tokens, offsets, mask}, slopes,
                           {.tokens = c.integers<std::size_t>("total_tokens")[0]}, {c.number("cliprange_value")}, &s);
    raise(worst_value, loss, c.number("loss"));
    for (std::size_t t = 0; t < slopes.size(); ++t) raise(worst_gradient, slopes[t], c["dvalues"][t]);
    raise(worst_value, s.clipfrac.mean(), c.number("clipfrac"));
    raise(worst_value, s.error.mean(), c.number("error"));
    raise(worst_value, s.squared_error.mean(), c.number("squared_error"));
  }
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
  proofs::golden("value_loss", "PyTorch", cases.size(), worst_value, worst_gradient);
}

TEST_CASE("value_loss: micro-batches with the step's token count give the slopes of the whole batch, bit for bit") {
  batch whole(3);
  double const loss = whole.loss();
  value_statistics sums;
  double shares = 0;
  for (std::size_t b = 0; b < 2; ++b) {
    std::size_t const first = whole.offsets[b], length = whole.offsets[b + 1] - first;
    std::vector<std::size_t> const offsets{0, length};
    auto const part = [&](auto const& all) { return std::span(all).subspan(first, length); };
    std::vector<double> slopes(length);
    shares += value_loss<double>({part(whole.values), part(whole.returns), part(whole.old_values)},
                                 {part(whole.tokens), offsets, part(whole.mask)}, slopes, {.tokens = 4}, {}, &sums);
    for (std::size_t i = 0; i < length; ++i) CHECK(slopes[i] == whole.slopes[first + i]);
  }
  CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
  CHECK(sums.error.weight == 4.0);
  CHECK(sums.squared_error.mean() == doctest::Approx(whole.statistics.squared_error.mean()).epsilon(1e-14));
}

TEST_CASE("value_loss: without clipping the old values are not looked at; slopes go over the values; no allocation") {
  batch b, without;
  without.old_values.clear();
  double const loss = without.loss({0.0});
  std::size_t const before = allocations();
  CHECK(loss == b.loss({0.0}));
  CHECK(value_loss<double>({b.values, b.returns}, b.view(), b.values, b.totals, {0.0}) == loss);
  CHECK(allocations() == before);
  CHECK(b.values == without.slopes);
}

TEST_CASE("value_loss: what is missing, broken or out of range is refused by name") {
  auto const with = [](std::vector<double> batch::*field, std::size_t t, double value) {
    batch b;
    (b.*field)[t] = value;
    return message_of(b);
  };
  CHECK(with(&batch::values, 2, missing) == "expected value_loss: values[2] finite (sequence 0, token 2), got nan");
  CHECK(with(&batch::returns, 4, inf) == "expected value_loss: returns[4] finite (sequence 1, token 1), got inf");
  CHECK(with(&batch::old_values, 7, -inf) ==
        "expected value_loss: old_values[7] finite (sequence 1, token 4), got -inf");
  auto const shortened = [](std::vector<double> batch::*field) {
    batch b;
    (b.*field).pop_back();
    return message_of(b);
  };
  CHECK(shortened(&batch::values) == "expected value_loss: values.size() == batch.total_tokens(), got 7");
  CHECK(shortened(&batch::returns) == "expected value_loss: returns.size() == batch.total_tokens(), got 7");
  CHECK(shortened(&batch::old_values) == "expected value_loss: old_values.size() == batch.total_tokens(), got 7");
  CHECK(shortened(&batch::slopes) == "expected value_loss: slopes.size() == batch.total_tokens(), got 7");
  batch b;
  b.old_values.clear();
  CHECK(message_of(b) == "expected value_loss: old_values, which cliprange_value > 0 needs");
  b = batch();
  b.totals.tokens = 3;
  CHECK(message_of(b) == "expected aggregation_totals.tokens >= the masked-in tokens of the batch, got 3");
  for (double const c : {-0.1, missing, inf})
    CHECK(message_of(batch(), {c}).starts_with("expected value_loss_options.cliprange_value >= 0 and finite, got "));
}
