// SPDX-License-Identifier: MIT
#include <attune/objective/sft.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
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

// Sequences of 3, 5 and 4 tokens with 1, 3 and 2 of them masked in; NaN in the masked-out places.
struct batch {
  std::vector<token_id> tokens = std::vector<token_id>(12, 1);
  std::vector<std::size_t> offsets{0, 3, 8, 12};
  std::vector<std::uint8_t> mask{0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1};
  std::vector<double> logps, mean_logps, log_normalizers, dlogps, dmean_logps, dlog_normalizers;

  explicit batch(std::uint64_t seed = 0) : dlogps(12, 7.0), dmean_logps(12, 7.0), dlog_normalizers(12, 7.0) {
    random_stream stream(seed), others(seed, 1);
    for (std::uint8_t const m : mask) {
      logps.push_back(m != 0 ? -5.0 * stream.uniform() : missing);
      mean_logps.push_back(m != 0 ? -3.0 - 5.0 * stream.uniform() : missing);
      log_normalizers.push_back(m != 0 ? 4.0 * others.normal() : missing);
    }
  }
  sequences_view view() const { return {tokens, offsets, mask}; }
  double loss(sft_options o = {}, sft_totals totals = {6, 3}) {
    return sft_loss<double>({logps, mean_logps, log_normalizers}, view(), {dlogps, dmean_logps, dlog_normalizers}, totals, o);
  }
};

std::string message_of(batch b, sft_options o = {}, sft_totals totals = {6, 3}) {
  auto const before = b;
  try {
    b.loss(o, totals);
  } catch (contract_violation const& e) {
    CHECK(b.dlogps == before.dlogps);  // nothing half-written
    CHECK(b.dmean_logps == before.dmean_logps);
    CHECK(b.dlog_normalizers == before.dlog_normalizers);
    return e.what();
  }
  return "no error";
}

auto const by_token = sft_normalization::token;
auto const by_sequence = sft_normalization::sequence;
auto const dft = sft_loss_type::dft;

// Every combination of options that validates.
std::vector<sft_options> option_grid() {
  std::vector<sft_options> grid;
  for (auto const normalization : {by_token, by_sequence})
    for (auto const type : {sft_loss_type::nll, dft})
      for (double const e : {0.0, 0.1, 0.9})
        for (double const z : {0.0, 1e-4, 0.5})
          if (type == sft_loss_type::nll || e == 0.0) grid.push_back({e, normalization, type, z});
  return grid;
}

// The formulas as the papers have them, DFT's weight held at a probability that is given.
template <class T>
T textbook(T logp, T mean_logp, T log_normalizer, double held_logp, sft_options o) {
  T const nll = o.loss_type == dft ? T(-std::exp(held_logp)) * logp
                                   : -(T(1.0 - o.label_smoothing) * logp + T(o.label_smoothing) * mean_logp);
  return nll + T(o.z_loss_coef) * log_normalizer * log_normalizer;
}

}  // namespace

TEST_CASE("sft: by token the loss is the mean negative log-probability, and slopes are -1 / tokens") {
  batch b;
  b.logps = {missing, missing, -1, missing, -2, -3, missing, -4, missing, missing, -5, -6};
  CHECK(b.loss() == doctest::Approx(21.0 / 6.0).epsilon(1e-15));
  for (std::size_t t = 0; t < 12; ++t) CHECK(b.dlogps[t] == (b.mask[t] != 0 ? -1.0 / 6.0 : 0.0));
  CHECK(b.dmean_logps == std::vector<double>(12, 0.0));
}

TEST_CASE("sft: by sequence every sequence weighs the same, whatever its length") {
  batch b;
  b.logps = {missing, missing, -1, missing, -2, -3, missing, -4, missing, missing, -5, -6};
  CHECK(b.loss({.normalization = by_sequence}) == doctest::Approx((1.0 + 3.0 + 5.5) / 3.0).epsilon(1e-15));
  std::vector<double> const expected{0, 0, -1.0 / 3, 0, -1.0 / 9, -1.0 / 9, 0, -1.0 / 9, 0, 0, -1.0 / 6, -1.0 / 6};
  for (std::size_t t = 0; t < 12; ++t) CHECK(b.dlogps[t] == doctest::Approx(expected[t]).epsilon(1e-15));
}

TEST_CASE("sft: the slopes of a whole step add up to -1, smoothed or not, by token or by sequence") {
  for (auto const normalization : {by_token, by_sequence})
    for (double const e : {0.0, 0.1, 0.9}) {
      batch b;
      b.loss({e, normalization});
      double logps = 0, mean_logps = 0;
      for (std::size_t t = 0; t < 12; ++t) {
        logps += b.dlogps[t];
        mean_logps += b.dmean_logps[t];
      }
      CHECK(logps == doctest::Approx(-(1 - e)).epsilon(1e-14));
      CHECK(mean_logps == doctest::Approx(-e).epsilon(1e-14));
    }
}

TEST_CASE("sft: all slopes of a token agree with dual numbers and complex step, DFT's weight held fixed, to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  double worst = 0.0, worst_fd = 0.0;
  auto const grid = option_grid();
  for (sft_options const& o : grid)
    for (std::uint64_t seed = 0; seed < 25; ++seed) {
      random_stream stream(seed);
      std::array<double, 3> const x{-20 * stream.uniform(), -20 * stream.uniform(), 10 * stream.normal()};
      auto const ours = sft_objective(x[0], x[1], x[2], o);
      std::array<double, 3> const slopes{ours.logp, ours.mean_logp, ours.log_normalizer};
      worst = std::max(worst, relative_error(ours.value, textbook(x[0], x[1], x[2], x[0], o)));
      for (std::size_t k = 0; k < 3; ++k) {
        auto const nudged = [&](auto step) {
          using T = decltype(step);
          std::array<T, 3> y{T(x[0]), T(x[1]), T(x[2])};
          y[k] += step;
          return y;
        };
        auto const d = nudged(dual(0, 1));
        auto const c = nudged(complex(0, 1e-100));
        for (double const exact : {sft_objective(d[0], d[1], d[2], o).value.derivative,
                                   sft_objective(c[0], c[1], c[2], o).value.imag() * 1e100,
                                   textbook(d[0], d[1], d[2], x[0], o).derivative,
                                   textbook(c[0], c[1], c[2], x[0], o).imag() * 1e100})
          worst = std::max(worst, relative_error(slopes[k], exact));
        auto moved = x;
        auto const f = [&] { return textbook(moved[0], moved[1], moved[2], x[0], o); };
        worst_fd = std::max(worst_fd, relative_error(slopes[k], testing::central_difference(f, moved[k]), 1.0));
      }
    }
  MESSAGE("worst ", worst, ", of central differences ", worst_fd);
  CHECK(worst <= 1e-12);
  CHECK(worst_fd <= 1e-9);
  proofs::derivatives("sft", grid.size(), 25, worst, worst_fd);
}

TEST_CASE("sft: every element of the batch gradient agrees with a central difference of the loss, DFT's weights held fixed") {
  double worst = 0.0;
  for (sft_options const& o : option_grid())
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      batch b(seed);
      sft_totals const totals{11, 4};
      b.loss(o, totals);
      auto const held = b.logps;
      auto const textbook_loss = [&] {
        double loss = 0.0;
        for (std::size_t i = 0; i < 3; ++i) {
          double sum = 0.0, count = 0.0;
          for (std::size_t t = b.offsets[i]; t < b.offsets[i + 1]; ++t)
            if (b.mask[t] != 0) {
              sum += textbook(b.logps[t], b.mean_logps[t], b.log_normalizers[t], held[t], o);
              count += 1.0;
            }
          loss += o.normalization == by_token ? sum / 11.0 : sum / count / 4.0;
        }
        return loss;
      };
      worst = std::max(worst, relative_error(b.loss(o, totals), textbook_loss()));
      for (std::size_t t = 0; t < 12; ++t) {
        if (b.mask[t] == 0) continue;
        auto const check = [&](double& x, double slope) {
          worst = std::max(worst, relative_error(testing::central_difference(textbook_loss, x), slope, 1.0));
        };
        check(b.logps[t], b.dlogps[t]);
        check(b.mean_logps[t], b.dmean_logps[t]);
        check(b.log_normalizers[t], b.dlog_normalizers[t]);
      }
    }
  CHECK(worst <= 1e-10);
}

TEST_CASE("sft: loss and the gradient of every logit are PyTorch's") {
  auto const cases = read_golden("sft.txt");
  CHECK(cases.size() >= 20);
  for (golden_case const& c : cases) {
    auto const tokens = c.integers<token_id>("tokens");
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    std::size_t const vocabulary = static_cast<std::size_t>(c.number("vocabulary"));
    auto const& logits = c["logits"];
    std::size_t const n = tokens.size();
    // Row t of the logits predicts token t + 1.
    std::vector<double> log_softmax(n * vocabulary), logps(n), mean_logps(n), dlogps(n), dmean_logps(n);
    for (std::size_t t = 0; t + 1 < n; ++t) {
      double normalizer = 0;
      for (std::size_t v = 0; v < vocabulary; ++v) normalizer += std::exp(logits[t * vocabulary + v]);
      for (std::size_t v = 0; v < vocabulary; ++v) {
        log_softmax[t * vocabulary + v] = logits[t * vocabulary + v] - std::log(normalizer);
        mean_logps[t + 1] += log_softmax[t * vocabulary + v] / static_cast<double>(vocabulary);
      }
      logps[t + 1] = log_softmax[t * vocabulary + static_cast<std::size_t>(tokens[t + 1])];
    }
    sft_options const o{c.number("label_smoothing"), c.number("sequence_normalization") != 0 ? by_sequence : by_token};
    double const loss = sft_loss<double>(
        {.logps = logps, .mean_logps = mean_logps}, {tokens, offsets, mask},
        {.logps = dlogps, .mean_logps = dmean_logps},
        {static_cast<std::size_t>(c.number("total_tokens")), static_cast<std::size_t>(c.number("total_sequences"))}, o);
    CHECK(relative_error(loss, c.number("loss")) <= 1e-10);
    for (std::size_t t = 0; t < n; ++t)
      for (std::size_t v = 0; v < vocabulary; ++v) {
        double const p = std::exp(log_softmax[t * vocabulary + v]);
        bool const last = t + 1 == n;
        double const hit = !last && tokens[t + 1] == static_cast<token_id>(v) ? 1.0 : 0.0;
        double const dlogit =
            last ? 0.0 : dlogps[t + 1] * (hit - p) + dmean_logps[t + 1] * (1.0 / static_cast<double>(vocabulary) - p);
        CHECK(std::abs(dlogit - c["dlogits"][t * vocabulary + v]) <=
              1e-10 * std::abs(c["dlogits"][t * vocabulary + v]) + 1e-16);
      }
  }
}

TEST_CASE("sft: DFT and z-loss are TRL's compute_loss and PyTorch's, value and gradient of every logit") {
  auto const cases = read_golden("sft_terms.txt");
  REQUIRE(cases.size() >= 100);
  double worst_value[2] = {0.0, 0.0}, worst_gradient[2] = {0.0, 0.0};
  std::size_t count[2] = {0, 0};
  for (golden_case const& c : cases) {
    auto const tokens = c.integers<token_id>("tokens");
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    auto const& logits = c["logits"];
    std::size_t const n = tokens.size(), vocabulary = static_cast<std::size_t>(c.number("vocabulary"));
    std::size_t const trl = c.number("trl") != 0 ? 1 : 0;
    ++count[trl];
    std::vector<double> logps(n), means(n), normalizers(n), dlogps(n), dmeans(n), dnormalizers(n);
    for (std::size_t t = 1; t < n; ++t) {  // row t - 1 predicts token t
      double const* const row = &logits[(t - 1) * vocabulary];
      double sum = 0;
      for (std::size_t v = 0; v < vocabulary; ++v) sum += std::exp(row[v]);
      normalizers[t] = std::log(sum);
      logps[t] = row[tokens[t]] - normalizers[t];
      for (std::size_t v = 0; v < vocabulary; ++v) means[t] += (row[v] - normalizers[t]) / static_cast<double>(vocabulary);
    }
    sft_options const o{.label_smoothing = c.number("label_smoothing"),
                        .normalization = c.number("sequence_normalization") != 0 ? by_sequence : by_token,
                        .loss_type = c.number("dft") != 0 ? dft : sft_loss_type::nll,
                        .z_loss_coef = c.number("z_loss_coef")};
    double const loss = sft_loss<double>(
        {logps, means, normalizers}, {tokens, offsets, mask}, {dlogps, dmeans, dnormalizers},
        {static_cast<std::size_t>(c.number("total_tokens")), static_cast<std::size_t>(c.number("total_sequences"))}, o);
    worst_value[trl] = std::max(worst_value[trl], relative_error(loss, c.number("loss")));
    for (std::size_t t = 0; t < n; ++t)
      for (std::size_t v = 0; v < vocabulary; ++v) {
        double dlogit = 0.0;
        if (t + 1 < n) {
          double const p = std::exp(logits[t * vocabulary + v] - normalizers[t + 1]);
          double const hit = tokens[t + 1] == static_cast<token_id>(v) ? 1.0 : 0.0;
          dlogit = dlogps[t + 1] * (hit - p) + dmeans[t + 1] * (1.0 / static_cast<double>(vocabulary) - p) +
                   dnormalizers[t + 1] * p;
        }
        worst_gradient[trl] =
            std::max(worst_gradient[trl], relative_error(dlogit, c["dlogits"][t * vocabulary + v], 1e-5));
      }
  }
  for (std::size_t const k : {0u, 1u}) {
    CHECK(count[k] >= 40);
    CHECK(worst_value[k] <= 1e-10);
    CHECK(worst_gradient[k] <= 1e-10);
    proofs::golden("sft", k == 1 ? "TRL" : "PyTorch", count[k], worst_value[k], worst_gradient[k]);
  }
}

TEST_CASE("sft: DFT's slope is the probability times that of the plain loss, and its loss is never larger") {
  for (auto const normalization : {by_token, by_sequence})
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      batch plain(seed), weighed(seed);
      double const nll = plain.loss({.normalization = normalization});
      double const loss = weighed.loss({.normalization = normalization, .loss_type = dft});
      CHECK(loss >= 0.0);
      CHECK(loss <= nll);
      double largest = 0.0;
      for (std::size_t t = 0; t < 12; ++t)
        if (plain.mask[t] != 0) {
          CHECK(weighed.dlogps[t] == doctest::Approx(plain.dlogps[t] * std::exp(plain.logps[t])).epsilon(1e-15));
          largest = std::max(largest, -std::exp(plain.logps[t]) * plain.logps[t]);
        }
      CHECK(largest <= std::exp(-1.0));  // -p log p has its maximum 1/e at p = 1/e
    }
  proofs::law("sft", "dft: slope = pi * slope of nll; 0 <= loss <= nll, and at most 1/e per token");
}

TEST_CASE("sft: where the policy is certain, or has given a token up, DFT is still: loss 0, slopes -1 and 0") {
  auto const certain = sft_objective(0.0, 0.0, 0.0, {.loss_type = dft});
  CHECK(certain.value == 0.0);
  CHECK(certain.logp == -1.0);
  auto const lost = sft_objective(-800.0, 0.0, 0.0, {.loss_type = dft});
  CHECK(lost.value == 0.0);
  CHECK(lost.logp == 0.0);
  proofs::law("sft", "dft: at pi = 1 it is nll; as pi goes to 0 value and slope vanish");
}

TEST_CASE("sft: z-loss adds coef log^2 Z and leaves the other slopes alone; at Z = 1 it is 0 and still") {
  for (auto const type : {sft_loss_type::nll, dft})
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      batch plain(seed), with_z(seed);
      double const before = plain.loss({.loss_type = type});
      double squares = 0.0;
      for (std::size_t t = 0; t < 12; ++t)
        if (plain.mask[t] != 0) squares += plain.log_normalizers[t] * plain.log_normalizers[t];
      CHECK(with_z.loss({.loss_type = type, .z_loss_coef = 0.25}) == doctest::Approx(before + 0.25 * squares / 6.0).epsilon(1e-14));
      CHECK(with_z.dlogps == plain.dlogps);
      CHECK(with_z.dmean_logps == plain.dmean_logps);
      CHECK(plain.dlog_normalizers == std::vector<double>(12, 0.0));
      with_z.log_normalizers.assign(12, 0.0);
      CHECK(with_z.loss({.loss_type = type, .z_loss_coef = 0.25}) == before);
      CHECK(with_z.dlog_normalizers == std::vector<double>(12, 0.0));
    }
  proofs::law("sft", "z-loss: adds coef log^2 Z to any loss type without touching its slopes; 0 and stationary at Z = 1");
}

TEST_CASE("sft: micro-batches with the step's totals give the slopes of the whole batch, bit for bit") {
  for (sft_options const& o : option_grid()) {
    batch whole(4);
    double const loss = whole.loss(o);
    double shares = 0.0;
    for (std::size_t b = 0; b < 3; ++b) {
      std::size_t const first = whole.offsets[b], count = whole.offsets[b + 1] - first;
      batch part(4);
      auto const cut = [&](auto& values) {
        values = {values.begin() + static_cast<long>(first), values.begin() + static_cast<long>(first + count)};
      };
      cut(part.tokens), cut(part.mask), cut(part.logps), cut(part.mean_logps), cut(part.log_normalizers);
      cut(part.dlogps), cut(part.dmean_logps), cut(part.dlog_normalizers);
      part.offsets = {0, count};
      shares += part.loss(o, {6, 3});
      for (std::size_t t = 0; t < count; ++t) {
        CHECK(part.dlogps[t] == whole.dlogps[first + t]);
        CHECK(part.dmean_logps[t] == whole.dmean_logps[first + t]);
        CHECK(part.dlog_normalizers[t] == whole.dlog_normalizers[first + t]);
      }
    }
    CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
  }
}

TEST_CASE("sft: what stands in masked-out places, NaN included, is not read, and their slopes are 0") {
  batch b;
  CHECK(std::isnan(b.logps[0]));
  for (sft_options const& o : option_grid()) {
    CHECK(std::isfinite(b.loss(o)));
    for (std::size_t t = 0; t < 12; ++t)
      if (b.mask[t] == 0) {
        CHECK(b.dlogps[t] == 0.0);
        CHECK(b.dmean_logps[t] == 0.0);
        CHECK(b.dlog_normalizers[t] == 0.0);
      }
  }
}

TEST_CASE_TEMPLATE("sft: finite for every finite log-probability and normaliser", T, float, double) {
  T const largest = std::numeric_limits<T>::max(), least = std::numeric_limits<T>::denorm_min();
  std::size_t cases = 0, failed = 0;
  auto const extremes = {T(0), -least, T(-1e4), T(1e4), T(-3e38), T(3e38), -largest, largest};
  for (sft_options o : {sft_options{}, {.label_smoothing = 0.1}, {.label_smoothing = 0.999}, {.loss_type = dft}})
    for (double const z : {0.0, 1e-4, 1e6, 1e300})
      for (T const a : extremes)
        for (T const b : extremes)
          for (T const c : extremes) {
            o.z_loss_coef = z;
            auto const one = sft_objective(a, b, c, o);
            ++cases;
            if (!(std::isfinite(one.value) && std::isfinite(one.logp) && std::isfinite(one.mean_logp) &&
                  std::isfinite(one.log_normalizer)))
              ++failed;
          }
  CHECK(failed == 0);
  proofs::extremes("sft", cases, failed);
  // Exact limits: an unlikely token under DFT, a rounded-up probability, a normaliser whose square is beyond T.
  CHECK(sft_objective(-largest, T(0), T(0), {.loss_type = dft}).value == T(0));
  CHECK(sft_objective(-largest, T(0), T(0), {.loss_type = dft}).logp == T(0));
  CHECK(sft_objective(least, T(0), T(0), {.loss_type = dft}).logp == T(-1));
  CHECK(sft_objective(T(0), T(0), -largest, {.z_loss_coef = 1.0}).value == largest);
  CHECK(sft_objective(T(0), T(0), -largest, {.z_loss_coef = 1.0}).log_normalizer == -largest);
  std::vector<token_id> const tokens{1, 2, 3};
  std::vector<std::size_t> const offsets{0, 3};
  std::vector<std::uint8_t> const mask{0, 1, 1};
  std::vector<T> const logps{T(0), -largest, -largest};
  std::vector<T> slopes(3);
  CHECK(sft_loss<T>({.logps = logps}, {tokens, offsets, mask}, {.logps = slopes}, {2, 1}) == largest);
}

TEST_CASE("sft: without label smoothing the means over the vocabulary may be left out") {
  batch with, without;
  double const loss = sft_loss<double>({.logps = without.logps}, without.view(), {.logps = without.dlogps}, {6, 3});
  CHECK(loss == with.loss());
  CHECK(without.dlogps == with.dlogps);
}

TEST_CASE("sft: a batch without a supervised token adds nothing to a step that has some elsewhere") {
  batch b;
  b.mask.assign(12, 0);
  CHECK(b.loss({}, {5, 3}) == 0.0);
  CHECK(b.dlogps == std::vector<double>(12, 0.0));
}

TEST_CASE("sft: slopes may overwrite the log-probabilities they belong to") {
  batch apart, b;
  sft_options const o{.label_smoothing = 0.1, .z_loss_coef = 0.2};
  double const loss = apart.loss(o);
  CHECK(sft_loss<double>({b.logps, b.mean_logps, b.log_normalizers}, b.view(), {b.logps, b.mean_logps, b.log_normalizers},
                         {6, 3}, o) == loss);
  CHECK(b.logps == apart.dlogps);
  CHECK(b.mean_logps == apart.dmean_logps);
  CHECK(b.log_normalizers == apart.dlog_normalizers);
}

TEST_CASE("sft: the batch loss allocates nothing") {
  batch b;
  std::size_t const before = allocations();
  b.loss({0.1, by_sequence});
  b.loss({0.1, by_token});
  b.loss({.loss_type = dft, .z_loss_coef = 0.1});
  CHECK(allocations() == before);
}

TEST_CASE("sft: a supervised log-probability that is not finite is refused by field, sequence, token and value") {
  batch b;
  b.logps[7] = -inf;
  CHECK(message_of(b) == "expected sft_loss: logps[7] finite (sequence 1, token 4), got -inf");
  b.logps[7] = missing;
  CHECK(message_of(b) == "expected sft_loss: logps[7] finite (sequence 1, token 4), got nan");
  b = batch();
  b.mean_logps[10] = inf;
  CHECK(message_of(b) == "no error");  // not read without label smoothing
  CHECK(message_of(b, {.label_smoothing = 0.1}) ==
        "expected sft_loss: mean_logps[10] finite (sequence 2, token 2), got inf");
  b = batch();
  b.log_normalizers[5] = inf;
  CHECK(message_of(b, {.loss_type = dft}) == "no error");
  CHECK(message_of(b, {.loss_type = dft, .z_loss_coef = 0.1}) ==
        "expected sft_loss: log_normalizers[5] finite (sequence 1, token 2), got inf");
}

TEST_CASE("sft: a z_loss_coef out of range, DFT with label smoothing, or z-loss without normalisers, is refused by name") {
  for (double const z : {-0.1, missing, inf})
    CHECK(message_of(batch(), {.z_loss_coef = z}).starts_with("expected sft_options.z_loss_coef >= 0 and finite, got "));
  CHECK(message_of(batch(), {.label_smoothing = 0.1, .loss_type = dft}) ==
        "expected sft_options.label_smoothing == 0 with loss_type dft, which has no uniform distribution to mix in, got 0.1");
  batch b;
  b.log_normalizers.clear();
  CHECK(message_of(b) == "no error");
  CHECK(message_of(b, {.z_loss_coef = 0.1}) ==
        "expected sft_loss: logps.log_normalizers.size() == s.total_tokens(), which z_loss_coef > 0 needs, got 0");
  b = batch();
  b.dlog_normalizers.clear();
  CHECK(message_of(b, {.z_loss_coef = 0.1}) ==
        "expected sft_loss: slopes.log_normalizers.size() == s.total_tokens(), which z_loss_coef > 0 needs, got 0");
  CHECK(terms_of(sft_options{}) == token_terms{});
  CHECK(terms_of(sft_options{.label_smoothing = 0.1, .z_loss_coef = 0.1}) ==
        token_terms{.mean_logps = true, .log_normalizers = true});
}

TEST_CASE("sft: label smoothing out of range, or without the means it needs, is refused by name") {
  for (double const e : {-0.1, 1.0, 2.0, missing})
    CHECK(message_of(batch(), {.label_smoothing = e})
              .starts_with("expected sft_options.label_smoothing in [0, 1), got "));
  batch b;
  b.mean_logps.clear();
  CHECK(message_of(b) == "no error");
  CHECK(message_of(b, {.label_smoothing = 0.1}) ==
        "expected sft_loss: logps.mean_logps.size() == s.total_tokens(), which label_smoothing > 0 needs, got 0");
  b = batch();
  b.dmean_logps.clear();
  CHECK(message_of(b, {.label_smoothing = 0.1}) ==
        "expected sft_loss: slopes.mean_logps.size() == s.total_tokens(), which label_smoothing > 0 needs, got 0");
}

TEST_CASE("sft: totals smaller than the batch, or of a step without a supervised token, are refused by name") {
  CHECK(message_of(batch(), {}, {0, 3}) == "expected sft_loss: totals.tokens > 0, a step with a supervised token");
  CHECK(message_of(batch(), {}, {5, 3}) ==
        "expected sft_loss: totals.tokens >= the masked-in tokens of this batch, got 5");
  CHECK(message_of(batch(), {.normalization = by_sequence}, {0, 2}) ==
        "expected sft_loss: totals.sequences >= s.size(), got 2");
  CHECK(message_of(batch(), {.normalization = by_sequence}, {0, 3}) == "no error");
  CHECK(message_of(batch(), {}, {6, 0}) == "no error");
}

TEST_CASE("sft: by sequence a sequence without a supervised token has no mean and is refused by number") {
  batch b;
  b.mask[2] = 0;
  CHECK(message_of(b) == "no error");
  CHECK(message_of(b, {.normalization = by_sequence}) ==
        "expected sft_loss: a masked-in token in every sequence, for its mean; found none in sequence, got 0");
}

TEST_CASE("sft: an empty batch and sizes that disagree are refused by name") {
  CHECK_THROWS_WITH_AS((void)sft_loss<double>({}, {}, {}, {1, 1}), "expected sft_loss: at least one sequence",
                       contract_violation);
  auto const shortened = [](auto field) {
    batch b;
    (b.*field).pop_back();
    return message_of(b);
  };
  CHECK(shortened(&batch::logps) == "expected sft_loss: logps.logps.size() == s.total_tokens(), got 11");
  CHECK(shortened(&batch::dlogps) == "expected sft_loss: slopes.logps.size() == s.total_tokens(), got 11");
  CHECK(shortened(&batch::mean_logps).starts_with("expected sft_loss: logps.mean_logps.size() == s.total_tokens()"));
  CHECK(shortened(&batch::dmean_logps).starts_with("expected sft_loss: slopes.mean_logps.size() == s.total_tokens()"));
  CHECK(shortened(&batch::mask) == "expected sequences_view: mask.size() == tokens.size(), got 11");
  CHECK(shortened(&batch::offsets) == "expected sequences_view: offsets run from 0 to tokens.size()");
}
