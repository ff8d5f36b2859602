// SPDX-License-Identifier: MIT
#include <attune/objective/bradley_terry.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
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

struct batch {
  std::vector<double> chosen, rejected, margin, dchosen, drejected;

  explicit batch(std::size_t pairs, std::uint64_t seed = 0) : dchosen(pairs, 7.0), drejected(pairs, 7.0) {
    random_stream stream(seed);
    for (std::size_t i = 0; i < pairs; ++i) {
      chosen.push_back(3.0 * stream.normal());
      rejected.push_back(3.0 * stream.normal());
      margin.push_back(2.0 * stream.uniform());
    }
  }
  double loss(bradley_terry_options o = {}, std::size_t total_pairs = 0) {
    return bradley_terry_loss<double>({.chosen = chosen, .rejected = rejected, .margin = margin},
                                      {.chosen = dchosen, .rejected = drejected}, o, total_pairs);
  }
};

std::string message_of(batch b, bradley_terry_options o = {}, std::size_t total_pairs = 0) {
  auto const before = b;
  try {
    b.loss(o, total_pairs);
  } catch (contract_violation const& e) {
    CHECK(b.dchosen == before.dchosen);  // nothing half-written
    CHECK(b.drejected == before.drejected);
    return e.what();
  }
  return "no error";
}

double const coefficients[] = {0.0, 1e-4, 0.01, 0.5, 3.0};

}  // namespace

TEST_CASE("bradley_terry: equal scores give log 2 and slopes of one half") {
  auto const one = bradley_terry_objective(1.5, 1.5);
  CHECK(one.value == doctest::Approx(std::numbers::ln2).epsilon(1e-15));
  CHECK(one.chosen == -0.5);
  CHECK(one.rejected == 0.5);
}

TEST_CASE("bradley_terry: the losses of a pair and of the exchanged pair differ by the difference of scores") {
  random_stream stream(1);
  for (int i = 0; i < 100; ++i) {
    double const a = 5 * stream.normal(), b = 5 * stream.normal();
    auto const one = bradley_terry_objective(a, b);
    auto const other = bradley_terry_objective(b, a);
    CHECK(other.value - one.value == doctest::Approx(a - b).epsilon(1e-13));
    CHECK(one.chosen == -one.rejected);
    CHECK(one.chosen + other.chosen == doctest::Approx(-1.0).epsilon(1e-14));
  }
  proofs::law("bradley_terry", "the losses of a pair and of the exchanged pair differ by the difference of scores");
}

TEST_CASE("bradley_terry: without centering a common constant changes nothing, with it the scores are pulled to 0") {
  CHECK(bradley_terry_objective(3.0, 1.0).value == bradley_terry_objective(67.0, 65.0).value);
  bradley_terry_options const centered{.center_rewards_coefficient = 0.01};
  auto const plain = bradley_terry_objective(3.0, 1.0);
  auto const pulled = bradley_terry_objective(3.0, 1.0, 0.0, centered);
  CHECK(pulled.value - plain.value == doctest::Approx(0.01 * 16.0));
  CHECK(pulled.chosen - plain.chosen == doctest::Approx(0.08));
  CHECK(pulled.rejected - plain.rejected == doctest::Approx(0.08));
  proofs::law("bradley_terry", "without centering a common constant changes nothing, with it the scores are pulled to 0");
}

TEST_CASE("bradley_terry: a margin is a handicap of the chosen score") {
  CHECK(bradley_terry_objective(3.0, 1.0, 0.5).value == bradley_terry_objective(2.5, 1.0).value);
  CHECK(bradley_terry_objective(3.0, 1.0, 0.5).chosen == bradley_terry_objective(2.5, 1.0).chosen);
  proofs::law("bradley_terry", "a margin is a handicap of the chosen score");
}

TEST_CASE("bradley_terry: every slope agrees with dual numbers and complex step to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  std::size_t combinations = 0;
  double worst = 0.0, central = 0.0;
  auto const check = [&](double a, double b) {
    double const error = relative_error(a, b);
    CHECK(error <= 1e-12);
    worst = (std::max)(worst, std::isnan(error) ? INFINITY : error);
  };
  for (double const c : coefficients)
    for (double const margin : {0.0, 0.5, 3.0, -1.0}) {
      ++combinations;
      for (std::uint64_t seed = 0; seed < 25; ++seed) {
        bradley_terry_options const o{.center_rewards_coefficient = c};
        random_stream stream(seed);
        double const scale = seed % 5 == 0 ? 30.0 : 2.0;
        double const a = scale * stream.normal(), b = scale * stream.normal();
        auto const ours = bradley_terry_objective(a, b, margin, o);
        auto const value = [&](auto x, auto y) { return bradley_terry_objective(x, y, decltype(x)(margin), o).value; };
        CAPTURE(c);
        CAPTURE(seed);
        check(ours.chosen, value(dual(a, 1), dual(b)).derivative);
        check(ours.rejected, value(dual(a), dual(b, 1)).derivative);
        check(ours.chosen, value(complex(a, 1e-100), complex(b)).imag() * 1e100);
        check(ours.rejected, value(complex(a), complex(b, 1e-100)).imag() * 1e100);
        check(ours.value, -log_sigmoid(a - b - margin) + c * (a + b) * (a + b));
        batch pairs(3, seed);
        pairs.margin.assign(3, margin);
        pairs.loss(o);
        auto const dchosen = pairs.dchosen, drejected = pairs.drejected;
        auto const f = [&] { return pairs.loss(o); };
        central = (std::max)({central, testing::check_gradient(f, pairs.chosen, dchosen, 1.0).worst_error,
                              testing::check_gradient(f, pairs.rejected, drejected, 1.0).worst_error});
      }
    }
  CHECK(central <= 1e-8);
  proofs::derivatives("bradley_terry", combinations, 25, worst, central);
}

TEST_CASE("bradley_terry: loss and gradients are PyTorch's") {
  auto const cases = read_golden("bradley_terry.txt");
  double worst_value = 0.0, worst_gradient = 0.0;
  CHECK(cases.size() >= 20);
  for (golden_case const& c : cases) {
    batch b(c["chosen"].size());
    b.chosen = c["chosen"];
    b.rejected = c["rejected"];
    b.margin = c["margin"];
    double const loss =
        b.loss({c.number("center_rewards_coefficient")}, static_cast<std::size_t>(c.number("total_pairs")));
    auto const raise = [](double& worst, double ours, double theirs) {
      double const error = relative_error(ours, theirs);
      worst = (std::max)(worst, std::isnan(error) ? INFINITY : error);
    };
    raise(worst_value, loss, c.number("loss"));
    for (std::size_t i = 0; i < b.chosen.size(); ++i) {
      raise(worst_gradient, b.dchosen[i], c["dchosen"][i]);
      raise(worst_gradient, b.drejected[i], c["drejected"][i]);
    }
  }
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
  proofs::golden("bradley_terry", "PyTorch", cases.size(), worst_value, worst_gradient);
}

TEST_CASE("bradley_terry: micro-batches with the step's pair count give the slopes of the whole batch, bit for bit") {
  bradley_terry_options const o{.center_rewards_coefficient = 0.1};
  batch whole(5, 2);
  double const loss = whole.loss(o);
  double shares = 0.0;
  for (std::size_t first = 0; first < 5; first += 2) {
    std::size_t const count = std::min<std::size_t>(2, 5 - first);
    batch part(count);
    for (std::size_t i = 0; i < count; ++i) {
      part.chosen[i] = whole.chosen[first + i];
      part.rejected[i] = whole.rejected[first + i];
      part.margin[i] = whole.margin[first + i];
    }
    shares += part.loss(o, 5);
    for (std::size_t i = 0; i < count; ++i) {
      CHECK(part.dchosen[i] == whole.dchosen[first + i]);
      CHECK(part.drejected[i] == whole.drejected[first + i]);
    }
  }
  CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
}

TEST_CASE_TEMPLATE("bradley_terry: finite for every finite pair of scores", T, float, double) {
  T const largest = std::numeric_limits<T>::max();
  std::size_t cases = 0, failed = 0;
  std::vector<T> const extremes{
      T(0), std::numeric_limits<T>::denorm_min(), T(-1e4), T(1e4), T(-3e38), T(3e38), largest, -largest};
  for (double const c : {0.0, 0.01, 1e30})
    for (T const a : extremes)
      for (T const b : extremes)
        for (T const margin : {T(0), largest, -largest}) {
          bradley_terry_options const o{.center_rewards_coefficient = c};
          auto const one = bradley_terry_objective(a, b, margin, o);
          ++cases;
          bool finite = std::isfinite(one.value) && std::isfinite(one.chosen) && std::isfinite(one.rejected);
          T dchosen = 0, drejected = 0;
          double const handicap = static_cast<double>(margin);
          T const loss = bradley_terry_loss<T>({.chosen = {&a, 1}, .rejected = {&b, 1}, .margin = {&handicap, 1}},
                                               {.chosen = {&dchosen, 1}, .rejected = {&drejected, 1}}, o);
          finite = finite && std::isfinite(loss) && std::isfinite(dchosen) && std::isfinite(drejected);
          failed += finite ? 0 : 1;
        }
  CHECK(failed == 0);
  proofs::extremes("bradley_terry", cases, failed);
  CHECK(bradley_terry_objective(T(-1e4), T(0)).value == T(1e4));  // where log(1 + exp(gap)) overflows
  CHECK(bradley_terry_objective(T(1e4), T(0)).value == T(0));
}

TEST_CASE("bradley_terry: float scores give the double result, rounded") {
  std::vector<float> const chosen{1.25f}, rejected{0.5f};
  float dchosen = 0, drejected = 0;
  float const loss = bradley_terry_loss<float>({.chosen = chosen, .rejected = rejected},
                                               {.chosen = {&dchosen, 1}, .rejected = {&drejected, 1}});
  auto const exact = bradley_terry_objective(1.25, 0.5);
  CHECK(loss == static_cast<float>(exact.value));
  CHECK(dchosen == static_cast<float>(exact.chosen));
  CHECK(drejected == static_cast<float>(exact.rejected));
}

TEST_CASE("bradley_terry: slopes may overwrite the scores they belong to") {
  batch apart(4, 9), b(4, 9);
  double const loss = apart.loss();
  CHECK(bradley_terry_loss<double>({.chosen = b.chosen, .rejected = b.rejected, .margin = b.margin},
                                   {.chosen = b.chosen, .rejected = b.rejected}) == loss);
  CHECK(b.chosen == apart.dchosen);
  CHECK(b.rejected == apart.drejected);
}

TEST_CASE("bradley_terry: the batch loss allocates nothing") {
  batch b(100);
  std::size_t const before = allocations();
  b.loss({.center_rewards_coefficient = 0.01});
  CHECK(allocations() == before);
}

TEST_CASE("bradley_terry: a score or margin that is not finite is refused by field, pair and value") {
  batch const good(4);
  auto const with = [&](std::vector<double> batch::*field, std::size_t i, double value) {
    batch b = good;
    (b.*field)[i] = value;
    return message_of(b);
  };
  CHECK(with(&batch::chosen, 3, std::nan("")) == "expected bradley_terry_loss: chosen[3] finite, got nan");
  CHECK(with(&batch::rejected, 0, -HUGE_VAL) == "expected bradley_terry_loss: rejected[0] finite, got -inf");
  CHECK(with(&batch::margin, 2, HUGE_VAL) == "expected bradley_terry_loss: margin[2] finite, got inf");
  CHECK(message_of(good) == "no error");
}

TEST_CASE("bradley_terry: options out of range, an empty batch and sizes that disagree are refused by name") {
  for (double const c : {-0.01, std::nan(""), HUGE_VAL})
    CHECK(message_of(batch(2), {.center_rewards_coefficient = c})
              .starts_with("expected bradley_terry_options.center_rewards_coefficient >= 0 and finite, got "));
  CHECK(message_of(batch(0)) == "expected bradley_terry_loss: at least one pair");
  CHECK(message_of(batch(3), {}, 2) == "expected bradley_terry_loss: total_pairs >= chosen.size(), got 2");
  auto const shortened = [](std::vector<double> batch::*field) {
    batch b(3);
    (b.*field).pop_back();
    return message_of(b);
  };
  CHECK(shortened(&batch::rejected) == "expected bradley_terry_loss: rejected.size() == chosen.size(), got 2");
  CHECK(shortened(&batch::margin) == "expected bradley_terry_loss: margin.size() == chosen.size(), got 2");
  CHECK(shortened(&batch::dchosen) == "expected bradley_terry_loss: slopes.chosen.size() == chosen.size(), got 2");
  CHECK(shortened(&batch::drejected) == "expected bradley_terry_loss: slopes.rejected.size() == chosen.size(), got 2");
}

TEST_CASE("bradley_terry: the batch has the bits of the objective of each pair") {
  random_stream stream(77);
  std::vector<double> chosen, rejected, margin;
  for (int i = 0; i < 300; ++i) {
    double const spread = i % 3 == 0 ? 0.1 : i % 3 == 1 ? 5.0 : 500.0;
    chosen.push_back(spread * stream.normal());
    rejected.push_back(spread * stream.normal());
    margin.push_back(stream.uniform());
  }
  for (double const c : {0.0, 0.01})
    for (bool const with_margin : {false, true}) {
      std::vector<double> dchosen(300), drejected(300);
      bradley_terry_options const o{c};
      double const loss = bradley_terry_loss<double>(
          {.chosen = chosen, .rejected = rejected, .margin = with_margin ? margin : std::vector<double>()},
          {.chosen = dchosen, .rejected = drejected}, o);
      double expected = 0.0;
      std::size_t different = 0;
      for (std::size_t i = 0; i < 300; ++i) {
        auto const one = bradley_terry_objective(chosen[i], rejected[i], with_margin ? margin[i] : 0.0, o);
        expected += one.value / 300.0;
        different += dchosen[i] == one.chosen / 300.0 && drejected[i] == one.rejected / 300.0 ? 0 : 1;
      }
      CHECK(loss == expected);
      CHECK(different == 0);
    }
}
