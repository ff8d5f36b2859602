// SPDX-License-Identifier: MIT
#include <attune/objective/sft.hpp>

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
  std::vector<double> logps, mean_logps, dlogps, dmean_logps;

  explicit batch(std::uint64_t seed = 0) : dlogps(12, 7.0), dmean_logps(12, 7.0) {
    random_stream stream(seed);
    for (std::uint8_t const m : mask) {
      logps.push_back(m != 0 ? -5.0 * stream.uniform() : missing);
      mean_logps.push_back(m != 0 ? -3.0 - 5.0 * stream.uniform() : missing);
    }
  }
  sequences_view view() const { return {tokens, offsets, mask}; }
  double loss(sft_options o = {}, sft_totals totals = {6, 3}) {
    return sft_loss<double>({.logps = logps, .mean_logps = mean_logps}, view(),
                            {.logps = dlogps, .mean_logps = dmean_logps}, totals, o);
  }
};

std::string message_of(batch b, sft_options o = {}, sft_totals totals = {6, 3}) {
  auto const before = b;
  try {
    b.loss(o, totals);
  } catch (contract_violation const& e) {
    CHECK(b.dlogps == before.dlogps);  // nothing half-written
    CHECK(b.dmean_logps == before.dmean_logps);
    return e.what();
  }
  return "no error";
}

auto const by_token = sft_normalization::token;
auto const by_sequence = sft_normalization::sequence;

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

TEST_CASE("sft: both slopes of a token agree with dual numbers and complex step to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  for (double const e : {0.0, 1e-3, 0.1, 0.5, 0.999})
    for (std::uint64_t seed = 0; seed < 25; ++seed) {
      sft_options const o{.label_smoothing = e};
      random_stream stream(seed);
      double const a = -20 * stream.uniform(), b = -20 * stream.uniform();
      auto const ours = sft_objective(a, b, o);
      CHECK(relative_error(ours.logp, sft_objective(dual(a, 1), dual(b), o).value.derivative) <= 1e-12);
      CHECK(relative_error(ours.mean_logp, sft_objective(dual(a), dual(b, 1), o).value.derivative) <= 1e-12);
      CHECK(relative_error(ours.logp, sft_objective(complex(a, 1e-100), complex(b), o).value.imag() * 1e100) <= 1e-12);
      CHECK(relative_error(ours.mean_logp, sft_objective(complex(a), complex(b, 1e-100), o).value.imag() * 1e100) <=
            1e-12);
      CHECK(relative_error(ours.value, -(1 - e) * a - e * b) <= 1e-12);
    }
}

TEST_CASE("sft: every element of the batch gradient agrees with a central difference of the loss") {
  for (auto const normalization : {by_token, by_sequence})
    for (double const e : {0.0, 0.1, 0.9})
      for (std::uint64_t seed = 0; seed < 20; ++seed) {
        batch b(seed);
        sft_options const o{e, normalization};
        sft_totals const totals{11, 4};
        b.loss(o, totals);
        auto const dlogps = b.dlogps, dmean_logps = b.dmean_logps;
        auto const f = [&] { return b.loss(o, totals); };
        for (std::size_t t = 0; t < 12; ++t) {
          if (b.mask[t] == 0) continue;
          CHECK(relative_error(testing::central_difference(f, b.logps[t]), dlogps[t], 1.0) <= 1e-10);
          CHECK(relative_error(testing::central_difference(f, b.mean_logps[t]), dmean_logps[t], 1.0) <= 1e-10);
        }
      }
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

TEST_CASE("sft: micro-batches with the step's totals give the slopes of the whole batch, bit for bit") {
  for (auto const normalization : {by_token, by_sequence}) {
    batch whole(4);
    sft_options const o{0.1, normalization};
    double const loss = whole.loss(o);
    double shares = 0.0;
    for (std::size_t b = 0; b < 3; ++b) {
      std::size_t const first = whole.offsets[b], count = whole.offsets[b + 1] - first;
      batch part(4);
      auto const cut = [&](auto& values) {
        values = {values.begin() + static_cast<long>(first), values.begin() + static_cast<long>(first + count)};
      };
      cut(part.tokens), cut(part.mask), cut(part.logps), cut(part.mean_logps), cut(part.dlogps), cut(part.dmean_logps);
      part.offsets = {0, count};
      shares += part.loss(o, {6, 3});
      for (std::size_t t = 0; t < count; ++t) {
        CHECK(part.dlogps[t] == whole.dlogps[first + t]);
        CHECK(part.dmean_logps[t] == whole.dmean_logps[first + t]);
      }
    }
    CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
  }
}

TEST_CASE("sft: what stands in masked-out places, NaN included, is not read, and their slopes are 0") {
  batch b;
  CHECK(std::isnan(b.logps[0]));
  CHECK(std::isfinite(b.loss({.label_smoothing = 0.1})));
  for (std::size_t t = 0; t < 12; ++t)
    if (b.mask[t] == 0) {
      CHECK(b.dlogps[t] == 0.0);
      CHECK(b.dmean_logps[t] == 0.0);
    }
}

TEST_CASE_TEMPLATE("sft: finite for every finite log-probability", T, float, double) {
  T const largest = std::numeric_limits<T>::max();
  for (double const e : {0.0, 0.1, 0.999})
    for (T const a : {T(0), T(-1e4), T(-3e38), -largest, largest})
      for (T const b : {T(0), T(-1e4), T(-3e38), -largest, largest}) {
        auto const one = sft_objective(a, b, {.label_smoothing = e});
        CHECK(std::isfinite(one.value));
        CHECK(std::isfinite(one.logp));
        CHECK(std::isfinite(one.mean_logp));
      }
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
  double const loss = apart.loss({.label_smoothing = 0.1});
  CHECK(sft_loss<double>({.logps = b.logps, .mean_logps = b.mean_logps}, b.view(),
                         {.logps = b.logps, .mean_logps = b.mean_logps}, {6, 3}, {.label_smoothing = 0.1}) == loss);
  CHECK(b.logps == apart.dlogps);
  CHECK(b.mean_logps == apart.dmean_logps);
}

TEST_CASE("sft: the batch loss allocates nothing") {
  batch b;
  std::size_t const before = allocations();
  b.loss({0.1, by_sequence});
  b.loss({0.1, by_token});
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
