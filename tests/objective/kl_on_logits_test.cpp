// SPDX-License-Identifier: MIT
#include <attune/objective/kl_on_logits.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <attune/backend/eigen.hpp>
#include <attune/backend/reference.hpp>
#include <attune/core/random.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"
#include "support/proofs.hpp"

using namespace attune;

namespace {

using complex = std::complex<double>;

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double missing = std::numeric_limits<double>::quiet_NaN();

auto const directions = {kl_direction::reverse, kl_direction::forward};
auto const aggregations = {loss_aggregation::token_mean, loss_aggregation::sequence_mean, loss_aggregation::sequence_sum,
                           loss_aggregation::constant};

// Three sequences over a vocabulary of 5, rows 7 apart; NaN in rows that predict nothing.
template <class B = reference_backend<double>>
struct batch {
  static constexpr std::size_t vocabulary = 5, stride = 7;
  sequences text;
  std::vector<double> logits, ref_logits, dlogits;
  B backend;
  loss_workspace<double> workspace;
  aggregation_totals totals{.tokens = 9, .sequences = 4, .constant_length = 6.0};
  metric_sum kl;

  explicit batch(std::uint64_t seed = 1) {
    random_stream stream(seed);
    for (std::size_t length : {3u, 1u, 2u}) {
      std::vector<token_id> ids;
      for (std::size_t i = 0; i < 2 + length; ++i) ids.push_back(static_cast<token_id>(stream.below(vocabulary)));
      text.push_back(std::span(ids).first(2), std::span(ids).subspan(2));
    }
    for (std::size_t i = 0; i < tokens() * stride; ++i) {
      bool const read = predicts(i / stride);
      logits.push_back(read ? 2.0 * stream.normal() : missing);
      ref_logits.push_back(read ? logits.back() + stream.normal() : missing);
    }
    dlogits.assign(logits.size(), 2.0);
  }
  std::size_t tokens() const { return text.total_tokens(); }
  bool predicts(std::size_t row) const { return row + 1 < tokens() && text.view().mask[row + 1] != 0; }
  matrix_view<double> of(std::vector<double>& values) { return {values.data(), tokens(), vocabulary, stride}; }

  double loss(exact_kl_options const& o = {}) {
    return kl_on_logits(backend, of(logits), of(ref_logits), text, of(dlogits), workspace, o, totals, &kl);
  }
};

std::string message_of(batch<> b, exact_kl_options const& o = {}) {
  auto const before = b.dlogits;
  try {
    b.loss(o);
  } catch (contract_violation const& e) {
    CHECK(b.dlogits == before);
    CHECK(b.kl.weight == 0.0);
    return e.what();
  }
  return "no error";
}

// Weight of the token that row t predicts: the definition.
template <class B>
double weight_of(batch<B> const& b, loss_aggregation aggregation, std::size_t row) {
  std::size_t const sequence = row < 5 ? 0 : row < 8 ? 1 : 2;
  double const length = sequence == 0 ? 3.0 : sequence == 1 ? 1.0 : 2.0;
  switch (aggregation) {
    case loss_aggregation::token_mean: return 1.0 / 9.0;
    case loss_aggregation::sequence_mean: return 1.0 / (4.0 * length);
    case loss_aggregation::sequence_sum: return 1.0 / 4.0;
    case loss_aggregation::constant: break;
  }
  return 1.0 / (4.0 * b.totals.constant_length);
}

template <class N>
N divergence(std::vector<N> const& x, std::vector<double> const& y, kl_direction direction) {
  N z(0), sum(0);
  double w = 0.0;
  for (std::size_t v = 0; v < x.size(); ++v) z += std::exp(x[v]), w += std::exp(y[v]);
  for (std::size_t v = 0; v < x.size(); ++v) {
    N const logp = x[v] - std::log(z), logq = N(y[v] - std::log(w));
    sum += direction == kl_direction::reverse ? std::exp(logp) * (logp - logq) : std::exp(logq) * (logq - logp);
  }
  return sum;
}

}  // namespace

TEST_CASE_TEMPLATE("kl_on_logits: value and every element of the gradient are the definition's, by complex step and by difference",
                   B, reference_backend<double>, eigen_backend<double>) {
  double worst = 0.0, worst_value = 0.0, worst_fd = 0.0;
  std::size_t combinations = 0;
  for (kl_direction const direction : directions)
    for (loss_aggregation const aggregation : aggregations)
      for (double const coef : {0.05, 2.0}) {
        ++combinations;
        exact_kl_options const o{.coef = coef, .direction = direction, .aggregation = aggregation};
        for (std::uint64_t seed = 0; seed < 20; ++seed) {
          batch<B> b(seed);
          b.dlogits.assign(b.dlogits.size(), 0.0);
          double const loss = b.loss(o);
          auto const gradient = b.dlogits;
          double expected = 0.0;
          for (std::size_t t = 0; t < b.tokens(); ++t) {
            double const* const x = b.of(b.logits).row(t);
            double const* const y = b.of(b.ref_logits).row(t);
            std::vector<complex> row(x, x + b.vocabulary);
            std::vector<double> const ref(y, y + b.vocabulary);
            double const weight = coef * weight_of(b, aggregation, t);
            if (b.predicts(t)) expected += weight * divergence(row, ref, direction).real();
            for (std::size_t v = 0; v < b.stride; ++v) {
              double exact = 0.0;
              if (b.predicts(t) && v < b.vocabulary) {
                row[v] += complex(0.0, 1e-30);
                exact = weight * divergence(row, ref, direction).imag() * 1e30;
                row[v] = x[v];
              }
              worst = std::max(worst, testing::relative_error(gradient[t * b.stride + v], exact, 0.01 * weight));
            }
          }
          worst_value = std::max(worst_value, testing::relative_error(loss, expected));
          if (seed < 5)
            for (std::size_t t = 0; t < b.tokens(); ++t)
              for (std::size_t v = 0; b.predicts(t) && v < b.vocabulary; ++v) {
                double const difference =
                    testing::central_difference([&] { return b.loss(o); }, b.logits[t * b.stride + v]);
                worst_fd = std::max(worst_fd, std::abs(gradient[t * b.stride + v] - difference) / std::max(1.0, coef));
              }
        }
      }
  MESSAGE("worst ", worst, ", value ", worst_value, ", of central differences ", worst_fd);
  CHECK(worst <= 1e-12);
  CHECK(worst_value <= 1e-12);
  CHECK(worst_fd <= 1e-9);
  proofs::derivatives("exact KL", combinations, 20, worst, worst_fd);
}

TEST_CASE("kl_on_logits: torch.nn.functional.kl_div through the door, a sequence per row") {
  double worst_value = 0.0, worst_gradient = 0.0;
  auto const cases = read_golden("row_kl.txt");
  for (golden_case const& c : cases) {
    std::size_t const v = static_cast<std::size_t>(c.number("vocabulary"));
    // Rows 0 and 2 of two sequences of two tokens are the file's; the slopes are weights, one at a time.
    for (std::size_t i : {0u, 1u}) {
      std::vector<double> x(2 * v, missing), y(2 * v, missing), g(2 * v, 0.0);
      for (std::size_t k = 0; k < v; ++k) {
        x[k] = c["logits"][i * v + k] <= -1e308 ? -inf : c["logits"][i * v + k];
        y[k] = c["ref_logits"][i * v + k] <= -1e308 ? -inf : c["ref_logits"][i * v + k];
      }
      sequences s;
      std::vector<token_id> const ids{0, 0};
      s.push_back(std::span(ids).first(1), std::span(ids).last(1));
      eigen_backend<double> backend;
      loss_workspace<double> workspace;
      double const slope = std::abs(c["slopes"][i]);
      double const loss = kl_on_logits(
          backend, as_matrix<double const>(x.data(), 2, v), as_matrix<double const>(y.data(), 2, v), s,
          as_matrix(g.data(), 2, v), workspace,
          {.coef = slope, .direction = c.number("forward") != 0 ? kl_direction::forward : kl_direction::reverse});
      worst_value = std::max(worst_value, testing::relative_error(loss, slope * c["kl"][i], 1.0));
      double const sign = c["slopes"][i] < 0.0 ? -1.0 : 1.0;
      for (std::size_t k = 0; k < v; ++k)
        worst_gradient = std::max(worst_gradient, testing::relative_error(sign * g[k], c["gradient"][i * v + k], 1.0));
    }
  }
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
}

TEST_CASE("kl_on_logits: what is added to another loss's gradient is what comes out alone") {
  batch<> alone, both;
  alone.dlogits.assign(alone.dlogits.size(), 0.0);
  double const kl = alone.loss();
  loss_workspace<double> workspace;
  double const sft = loss_on_logits(both.backend, sft_on_tokens{}, both.of(both.logits), both.text, both.of(both.dlogits), workspace);
  auto const first = both.dlogits;
  CHECK(sft + both.loss() == doctest::Approx(sft + kl).epsilon(1e-15));
  for (std::size_t t = 0; t < both.tokens(); ++t)
    for (std::size_t v = 0; v < both.vocabulary; ++v) {
      std::size_t const i = t * both.stride + v;
      CHECK(both.dlogits[i] == doctest::Approx(first[i] + alone.dlogits[i]).epsilon(1e-14));
    }
}

TEST_CASE("kl_on_logits: at the reference the divergence is 0 and nothing is added") {
  for (kl_direction const direction : directions) {
    batch<> b;
    b.ref_logits = b.logits;
    CHECK(b.loss({.coef = 1e6, .direction = direction}) == 0.0);
    CHECK(b.dlogits == std::vector<double>(b.dlogits.size(), 2.0));
    CHECK(b.kl.weight == 6.0);
    CHECK(b.kl.sum == 0.0);
  }
  proofs::law("exact KL", "at the reference loss and gradient are exactly 0, whatever the coefficient");
}

TEST_CASE("kl_on_logits: descent on it alone leads to the reference, from anywhere and in both directions") {
  for (kl_direction const direction : directions) {
    batch<> b(3);
    double loss = 0.0;
    for (int step = 0; step < 6000; ++step) {
      b.dlogits.assign(b.dlogits.size(), 0.0);
      loss = b.loss({.coef = 9.0, .direction = direction});
      for (std::size_t t = 0; t < b.tokens(); ++t)
        for (std::size_t v = 0; b.predicts(t) && v < b.vocabulary; ++v) b.logits[t * b.stride + v] -= 2.0 * b.dlogits[t * b.stride + v];
    }
    CHECK(loss <= 1e-6);
  }
  proofs::law("exact KL", "its only minimum is the reference: descent gets there");
}

TEST_CASE("kl_on_logits: shares of micro-batches add up to the step, and totals of 0 mean this batch alone") {
  for (loss_aggregation const aggregation : aggregations) {
    batch<> whole;
    double const loss = whole.loss({.aggregation = aggregation});
    double shares = 0.0;
    for (std::size_t i = 0; i < 3; ++i) {
      batch<> b;
      auto const view = b.text.view();
      sequences part;
      part.push_back_masked(view.sequence(i), view.sequence_mask(i));
      std::size_t const first = view.offsets[i], count = view.length(i);
      shares += kl_on_logits(b.backend, b.of(b.logits).middle_rows(first, count), b.of(b.ref_logits).middle_rows(first, count),
                             part, b.of(b.dlogits).middle_rows(first, count), b.workspace, {.aggregation = aggregation}, b.totals);
      for (std::size_t t = first * b.stride; t < (first + count) * b.stride; ++t) CHECK(b.dlogits[t] == whole.dlogits[t]);
    }
    CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
    if (aggregation == loss_aggregation::constant) continue;
    batch<> b, told;
    told.totals = {.tokens = 6, .sequences = 3};
    b.totals = {};
    CHECK(b.loss({.aggregation = aggregation}) == told.loss({.aggregation = aggregation}));
  }
  CHECK(batch<>().loss() == batch<>().loss());
}

TEST_CASE("kl_on_logits: the tokens' divergences are there to report, whatever the coefficient") {
  batch<> b;
  double const loss = b.loss({.coef = 0.5});
  CHECK(b.kl.weight == 6.0);
  CHECK(b.kl.sum == doctest::Approx(loss / 0.5 * 9.0).epsilon(1e-14));
}

TEST_CASE("kl_on_logits: masked vocabulary entries, huge and tiny logits and coefficients have their limits or a named refusal") {
  struct extreme {
    char const* name;
    void (*set)(std::vector<double>& x, std::vector<double>& y);
    double reverse, forward;  // of that token; infinity: refused as inf, NaN: refused as nan
  };
  double const ln5 = std::log(5.0), ln4 = std::log(4.0);
  extreme const table[] = {
      {"equal", [](auto& x, auto& y) { y = x; }, 0.0, 0.0},
      {"both masked", [](auto& x, auto& y) { x = {-inf, 1, 1, 1, 1}, y = {-inf, 2, 2, 2, 2}; }, 0.0, 0.0},
      {"policy masked", [](auto& x, auto& y) { x = {-inf, 1, 1, 1, 1}, y = {1, 1, 1, 1, 1}; }, ln5 - ln4, inf},
      {"reference masked", [](auto& x, auto& y) { y = {-inf, 1, 1, 1, 1}, x = {1, 1, 1, 1, 1}; }, inf, ln5 - ln4},
      {"one left", [](auto& x, auto& y) { x = {-inf, -inf, 3, -inf, -inf}, y = {1, 1, 1, 1, 1}; }, ln5, inf},
      {"one left in both", [](auto& x, auto& y) { x = {-inf, -inf, 3, -inf, -inf}, y = x; }, 0.0, 0.0},
      {"policy all masked", [](auto& x, auto&) { x.assign(5, -inf); }, missing, missing},
      {"reference all masked", [](auto&, auto& y) { y.assign(5, -inf); }, missing, missing},
      {"NaN", [](auto& x, auto&) { x[3] = missing; }, missing, missing},
      {"NaN in the reference", [](auto&, auto& y) { y[3] = missing; }, missing, missing},
      {"+inf", [](auto& x, auto&) { x[3] = inf; }, missing, missing},
      {"+inf in the reference", [](auto&, auto& y) { y[3] = inf; }, missing, missing},
      {"huge", [](auto& x, auto& y) { x.assign(5, 3e38), y.assign(5, -3e38); }, 0.0, 0.0},
      {"largest", [](auto& x, auto& y) { x.assign(5, 1.7e308), y.assign(5, 0.0); }, 0.0, 0.0},
      {"1e4 apart", [](auto& x, auto& y) { x = {1e4, 0, 0, 0, 0}, y = {0, 0, 0, 0, 0}; }, ln5, 8e3 - ln5},
      {"3e38 apart", [](auto& x, auto& y) { x = {3e38, 0, 0, 0, 0}, y = {0, 0, 0, 0, 0}; }, ln5, 0.8 * 3e38},
      {"denormals", [](auto& x, auto& y) { x.assign(5, 5e-324), y.assign(5, -5e-324); }, 0.0, 0.0},
  };
  std::size_t cases = 0, failed = 0;
  auto const check = [&]<class B>(B const&) {
    for (extreme const& e : table)
      for (kl_direction const direction : directions)
        for (double const coef : {1.0, 1e6, 5e-324}) {
          ++cases;
          batch<B> b;
          std::vector<double> x(b.of(b.logits).row(1), b.of(b.logits).row(1) + 5), y(b.of(b.ref_logits).row(1), b.of(b.ref_logits).row(1) + 5);
          b.ref_logits = b.logits;  // the other tokens give 0
          e.set(x, y);
          std::copy(x.begin(), x.end(), b.of(b.logits).row(1));
          std::copy(y.begin(), y.end(), b.of(b.ref_logits).row(1));
          double const expected = direction == kl_direction::reverse ? e.reverse : e.forward;
          std::string said = "no error";
          double loss = missing;
          auto const before = b.dlogits;
          try {
            loss = b.loss({.coef = coef, .direction = direction, .aggregation = loss_aggregation::sequence_sum});
          } catch (contract_violation const& violation) {
            said = violation.what();
          }
          bool good;
          if (std::isfinite(expected)) {
            double const share = std::min(coef / 4.0 * expected, std::numeric_limits<double>::max());
            good = said == "no error" && std::abs(loss - share) <= 1e-12 * std::max(1.0, share);
            for (std::size_t i = 0; i < 5; ++i) good = good && std::isfinite(b.of(b.dlogits)(1, i));
            for (std::size_t i = 0; i < 5; ++i)
              if (x[i] == -inf) good = good && b.of(b.dlogits)(1, i) == 2.0;
          } else {
            good = b.dlogits == before && said == std::string("expected kl_on_logits: kl[2] finite (sequence 0, token 2), got ") +
                                                      (std::isnan(expected) ? "nan" : "inf");
          }
          if (!good) {
            ++failed;
            MESSAGE(e.name, ", coef ", coef, direction == kl_direction::reverse ? ", reverse: " : ", forward: ", said, ", ", loss);
          }
        }
  };
  check(reference_backend<double>());
  check(eigen_backend<double>());
  CHECK(failed == 0);
  proofs::extremes("exact KL", cases, failed);
}

TEST_CASE("kl_on_logits: a vocabulary of one, sequences without completions and batches without sequences") {
  std::vector<double> x(4, 3.0), y(4, -1.0), g(4, 2.0);
  sequences s;
  std::vector<token_id> const ids{0, 0};
  s.push_back(std::span(ids).first(1), std::span(ids).last(1));
  s.push_back(ids, {});
  reference_backend<double> backend;
  loss_workspace<double> workspace;
  auto const view = [](std::vector<double>& values) { return as_matrix(values.data(), 4, 1); };
  CHECK(kl_on_logits(backend, view(x), view(y), s, view(g), workspace) == 0.0);
  CHECK(g == std::vector<double>(4, 2.0));
  CHECK_THROWS_WITH_AS(kl_on_logits(backend, view(x), view(y), s, view(g), workspace, {.aggregation = loss_aggregation::sequence_mean}),
                       "expected loss_aggregation::sequence_mean: a masked-in token in every sequence; found none in sequence, got 1",
                       contract_violation);
  matrix_view<double> const none{nullptr, 0, 1, 1};
  CHECK_THROWS_WITH_AS(kl_on_logits(backend, none, none, sequences_view{}, none, workspace),
                       "expected kl_on_logits: at least one sequence", contract_violation);
}

TEST_CASE("kl_on_logits: options and shapes that are wrong are refused by name, and nothing is written") {
  for (double const coef : {0.0, -1.0, missing, inf})
    CHECK(message_of(batch<>(), {.coef = coef}).starts_with("expected exact_kl_options.coef > 0 and finite, got "));
  batch<> few;
  few.totals.tokens = 5;
  CHECK(message_of(few) == "expected aggregation_totals.tokens >= the masked-in tokens of the batch, got 5");
  batch<> b;
  auto logits = b.of(b.logits), ref_logits = b.of(b.ref_logits), dlogits = b.of(b.dlogits);
  auto const refusal = [&] {
    try {
      kl_on_logits(b.backend, logits, ref_logits, b.text, dlogits, b.workspace);
    } catch (contract_violation const& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  logits.rows -= 1;
  CHECK(refusal() == "expected kl_on_logits: logits.rows == batch.total_tokens(), got 11");
  logits = b.of(b.logits), ref_logits.rows -= 1;
  CHECK(refusal() == "expected kl_on_logits: ref_logits.rows == logits.rows, got 11");
  ref_logits = b.of(b.ref_logits), ref_logits.cols -= 1;
  CHECK(refusal() == "expected kl_on_logits: ref_logits.cols == logits.cols, got 4");
  ref_logits = b.of(b.ref_logits), dlogits.rows -= 1;
  CHECK(refusal() == "expected kl_on_logits: dlogits.rows == logits.rows, got 11");
  dlogits = b.of(b.dlogits), dlogits.cols += 1;
  CHECK(refusal() == "expected kl_on_logits: dlogits.cols == logits.cols, got 6");
}

TEST_CASE("kl_on_logits: a workspace that has seen a batch as large allocates nothing more, whoever used it") {
  batch<> b;
  b.loss();
  loss_on_logits(b.backend, sft_on_tokens{}, b.of(b.logits), b.text, b.of(b.dlogits), b.workspace);
  std::size_t const before = allocations();
  b.loss({.direction = kl_direction::forward});
  loss_on_logits(b.backend, sft_on_tokens{}, b.of(b.logits), b.text, b.of(b.dlogits), b.workspace);
  CHECK(allocations() == before);
}
