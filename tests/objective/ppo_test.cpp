// SPDX-License-Identifier: MIT
#include <attune/objective/ppo.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <attune/backend/reference.hpp>
#include <attune/core/random.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/objective/token_objectives.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"
#include "support/proofs.hpp"

using namespace attune;
using testing::relative_error;

static_assert(TokenObjective<ppo_on_tokens<float> const, float> &&
              !TermedTokenObjective<ppo_on_tokens<float>, float>);
static_assert(TokenObjective<ppo_on_tokens<double>, double>);

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

auto const aggregations = {loss_aggregation::token_mean, loss_aggregation::sequence_mean,
                           loss_aggregation::sequence_sum, loss_aggregation::constant};

std::vector<ppo_options> option_grid() {
  std::vector<ppo_options> grid;
  for (double const high : {0.0, 0.4})
    for (double const dual_clip : {0.0, 1.5, 3.0}) grid.push_back({.cliprange_high = high, .dual_clip = dual_clip});
  return grid;
}

auto const kl_losses = {
    kl_loss_options{}, kl_loss_options{.kl_loss_coef = 0.3},
    kl_loss_options{.kl_loss_coef = 0.3, .kl_loss_estimator = kl_estimator::k3},
    kl_loss_options{.kl_loss_coef = 0.3, .bias_correction = true},
    kl_loss_options{.kl_loss_coef = 0.3, .kl_loss_estimator = kl_estimator::k3, .bias_correction = true}};

// Sequences of 3, 5 and 4 tokens with 1, 3 and 2 of them masked in; NaN in the masked-out places.
struct batch {
  std::vector<token_id> tokens = std::vector<token_id>(12, 1);
  std::vector<std::size_t> offsets{0, 3, 8, 12};
  std::vector<std::uint8_t> mask{0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1};
  std::vector<double> logps, old_logps, advantages, ref_logps, slopes;
  aggregation_totals totals{.tokens = 6, .sequences = 3, .constant_length = 5};
  policy_gradient_statistics statistics;

  explicit batch(std::uint64_t seed = 0) : slopes(12, 7.0) {
    random_stream stream(seed);
    for (std::uint8_t const m : mask) {
      logps.push_back(m != 0 ? -5.0 * stream.uniform() : missing);
      old_logps.push_back(m != 0 ? logps.back() + 0.5 * stream.normal() : missing);
      ref_logps.push_back(m != 0 ? logps.back() + stream.normal() : missing);
      advantages.push_back(m != 0 ? stream.normal() : missing);
    }
  }
  sequences_view view() const { return {tokens, offsets, mask}; }
  double loss(ppo_options o = {}, loss_aggregation a = loss_aggregation::token_mean, kl_loss_options kl = {}) {
    return ppo_loss<double>({.logps = logps, .old_logps = old_logps, .advantages = advantages, .ref_logps = ref_logps},
                            view(), slopes, totals, a, o, &statistics, kl);
  }
};

std::string message_of(batch b, ppo_options o = {}, loss_aggregation a = loss_aggregation::token_mean,
                       kl_loss_options kl = {}) {
  auto const before = b.slopes;
  try {
    b.loss(o, a, kl);
  } catch (contract_violation const& e) {
    CHECK(b.slopes == before);  // nothing half-written
    CHECK(b.statistics.tokens() == 0);
    return e.what();
  }
  return "no error";
}

// As the papers have it; T a number or a dual number.
template <class T>
T textbook(T logp, double old_logp, double advantage, ppo_options o) {
  using std::exp;
  T const A(advantage), r = exp(logp - T(old_logp));
  T const low(1 - o.cliprange), high(1 + (o.cliprange_high > 0 ? o.cliprange_high : o.cliprange));
  T const clip = r < low ? low : r > high ? high : r;
  T const surrogate = r * A < clip * A ? r * A : clip * A;  // eq. 7
  T const floor = T(o.dual_clip) * A;
  return -(o.dual_clip > 0 && advantage < 0 && surrogate < floor ? floor : surrogate);
}

}  // namespace

TEST_CASE("ppo: where the policy is the old one the ratio is exactly 1, the slope -A and nothing is clipped") {
  random_stream stream(1);
  for (int i = 0; i < 50; ++i) {
    double const logp = -20 * stream.uniform(), A = stream.normal();
    auto const one = ppo_objective(logp, logp, A, {.cliprange = 1e-9, .dual_clip = 1 + 1e-9});
    CHECK(one.ratio == 1.0);
    CHECK(one.value == -A);
    CHECK(one.slope == -A);
    CHECK(!one.clipped);
    CHECK(!one.dual_clipped);
  }
  batch b;
  b.old_logps = b.logps;
  b.loss();
  CHECK(b.statistics.approxkl.mean() == 0.0);
  CHECK(b.statistics.clipfrac.mean() == 0.0);
  CHECK(b.statistics.ratio.mean() == 1.0);
  CHECK(b.statistics.ratio_squared.mean() == 1.0);
}

TEST_CASE("ppo: a bound holds where leaving it would pay, and there alone") {
  ppo_options const o{.cliprange = 0.2, .cliprange_high = 0.5, .dual_clip = 3.0};
  auto const at = [&](double ratio, double A) { return ppo_objective(std::log(ratio), 0.0, A, o); };
  CHECK(at(1.6, 2.0).value == -3.0);  // gain, above: bounded by 1.5
  CHECK(at(1.6, 2.0).slope == 0.0);
  CHECK(at(1.6, 2.0).clipped);
  CHECK(at(0.1, 2.0).slope == doctest::Approx(-0.2));  // gain, below: pulled back
  CHECK(!at(0.1, 2.0).clipped);
  CHECK(at(0.5, -2.0).value == 1.6);  // loss, below: bounded by 0.8
  CHECK(at(0.5, -2.0).slope == 0.0);
  CHECK(at(0.5, -2.0).clipped);
  CHECK(at(2.5, -2.0).slope == doctest::Approx(5.0));  // loss, above: pulled back
  CHECK(!at(2.5, -2.0).clipped);
  CHECK(at(4.0, -2.0).value == 6.0);  // loss, far above: the dual bound
  CHECK(at(4.0, -2.0).slope == 0.0);
  CHECK(at(4.0, -2.0).dual_clipped);
  CHECK(!at(4.0, -2.0).clipped);
  for (double const ratio : {0.01, 1.0, 50.0}) {  // nothing to gain: neither value nor clipping
    CHECK(at(ratio, 0.0).value == 0.0);
    CHECK(at(ratio, 0.0).slope == 0.0);
    CHECK(!at(ratio, 0.0).clipped);
    CHECK(!at(ratio, 0.0).dual_clipped);
  }
}

TEST_CASE("ppo: the loss is the surrogate's upper bound: never below the unclipped one, unless dual_clip says so") {
  random_stream stream(5);
  for (int i = 0; i < 500; ++i) {
    double const d = stream.normal(), A = stream.normal();
    CHECK(ppo_objective(d, 0.0, A).value >= -A * exponential(d));
    CHECK(ppo_objective(d, 0.0, A, {.dual_clip = 1.5}).value <= ppo_objective(d, 0.0, A).value);
  }
}

TEST_CASE("ppo: dual_clip is the two-sided clip where delta >= 1 + cliprange_high, and no other function below") {
  double worst = 0.0, below = 0.0;
  for (double const delta : {1.3, 1.5, 4.0, 1.05})
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      random_stream stream(seed);
      double const d = stream.normal(), A = stream.normal(), r = std::exp(d);
      ppo_options const o{.cliprange = 0.2, .cliprange_high = 0.28, .dual_clip = delta};
      double const two_sided = -std::min(std::min(r, delta) * A, std::min(std::max(r, 0.8), 1.28) * A);
      double const error = relative_error(ppo_objective(d, 0.0, A, o).value, two_sided);
      (delta >= 1.28 ? worst : below) = std::max(delta >= 1.28 ? worst : below, error);
    }
  CHECK(worst <= 1e-15);
  CHECK(below > 0.1);  // where TRL only recommends what INTELLECT-2 demands
  proofs::law("two-sided clip",
              "dual_clip = delta is -min(min(r, delta) A, clip(r) A) for every delta >= 1 + cliprange_high");
}

TEST_CASE("ppo: clip-higher leaves a slope to gains between the two bounds, and changes nothing else") {
  for (double r = 0.05; r < 3.0; r += 0.01)
    for (double const A : {1.0, -1.0}) {
      auto const plain = ppo_objective(std::log(r), 0.0, A, {.cliprange = 0.2});
      auto const higher = ppo_objective(std::log(r), 0.0, A, {.cliprange = 0.2, .cliprange_high = 0.28});
      bool const between = A > 0 && r > 1.2 && r <= 1.28;
      CHECK((plain.slope != higher.slope) == between);
    }
  proofs::law("dapo", "clip-higher gives a slope to gains with a ratio in (1.2, 1.28], and to no other token");
}

TEST_CASE("ppo: every slope agrees with dual numbers, complex step and the papers' formula to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  for (ppo_options const& o : option_grid())
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      random_stream stream(seed);
      double const logp = -10 * stream.uniform(), old = logp + (seed % 2 == 0 ? 0.1 : 1.5) * stream.normal();
      double const A = stream.normal();
      auto const ours = ppo_objective(logp, old, A, o);
      CAPTURE(seed);
      CHECK(relative_error(ours.slope, ppo_objective(dual(logp, 1), dual(old), dual(A), o).value.derivative) <= 1e-12);
      CHECK(relative_error(ours.slope, ppo_objective(complex(logp, 1e-100), complex(old), complex(A), o).value.imag() *
                                           1e100) <= 1e-12);
      CHECK(relative_error(ours.value, textbook(logp, old, A, o)) <= 1e-12);
      CHECK(relative_error(ours.slope, textbook(dual(logp, 1), old, A, o).derivative) <= 1e-12);
      CHECK(relative_error(ours.ratio, std::exp(logp - old)) <= 1e-15);
    }
}

TEST_CASE("ppo: finite for every finite input") {
  auto const check = []<class T>(T) {
    T const most = (std::numeric_limits<T>::max)();
    for (T const logp : {T(0), T(-1e4), T(1e4), most, -most})
      for (T const old : {T(0), T(-1e4), T(1e4), most, -most})
        for (T const A : {T(0), T(1), T(-1), most, -most})
          for (ppo_options const& o : option_grid()) {
            auto const one = ppo_objective(logp, old, A, o);
            CHECK(std::isfinite(one.value));
            CHECK(std::isfinite(one.slope));
            CHECK(std::isfinite(one.ratio));
          }
  };
  check(0.0);
  check(0.0f);
  batch b;
  double const most = (std::numeric_limits<double>::max)();
  b.logps = {missing, missing, most, missing, -most, most, missing, -most, missing, missing, most, 0};
  b.old_logps = {missing, missing, -most, missing, most, -most, missing, 0, missing, missing, 0, most};
  b.advantages = {missing, missing, -most, missing, most, -1, missing, 1, missing, missing, most, 0};
  b.ref_logps = b.old_logps;
  for (ppo_options const& o : option_grid())
    for (loss_aggregation const a : aggregations)
      for (kl_loss_options const& kl : kl_losses) {
        CHECK(std::isfinite(b.loss(o, a, kl)));
        for (double const slope : b.slopes) CHECK(std::isfinite(slope));
      }
}

TEST_CASE("ppo: every element of the batch gradient agrees with a central difference of the loss") {
  double worst = 0.0;
  std::size_t masked_out = 0;
  for (ppo_options const& o : option_grid())
    for (loss_aggregation const a : aggregations)
      for (kl_loss_options const& kl : kl_losses)
        for (std::uint64_t seed = 0; seed < 20; ++seed) {
          batch b(seed);
          b.loss(o, a, kl);
          auto const slopes = b.slopes;
          for (std::size_t t = 0; t < 12; ++t) {
            if (b.mask[t] == 0) {
              masked_out += slopes[t] == 0.0 ? 0 : 1;
              continue;
            }
            double const ratio = std::exp(b.logps[t] - b.old_logps[t]);
            bool seam = false;  // a kink within the difference's reach
            for (double const bound : {0.8, 1.2, 1.4, 1.5, 3.0}) seam = seam || std::abs(ratio - bound) < 0.01;
            if (seam) continue;
            double const difference = testing::central_difference([&] { return b.loss(o, a, kl); }, b.logps[t]);
            double const error = relative_error(difference, slopes[t], 1.0);
            worst = error <= worst ? worst : error;
          }
        }
  CHECK(worst <= 1e-9);
  CHECK(masked_out == 0);
}

TEST_CASE("ppo: loss, gradient and statistics are PyTorch's") {
  auto const cases = read_golden("ppo.txt");
  CHECK(cases.size() >= 48);
  for (golden_case const& c : cases) {
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    std::vector<token_id> const tokens(mask.size(), 0);
    std::vector<double> slopes(mask.size(), 7.0);
    policy_gradient_statistics s;
    ppo_options const o{.cliprange = c.number("cliprange"),
                        .cliprange_high = c.number("cliprange_high"),
                        .dual_clip = c.number("dual_clip")};
    kl_loss_options const kl{.kl_loss_coef = c.number("kl_loss_coef"),
                             .kl_loss_estimator = c.number("estimator") == 2 ? kl_estimator::k2 : kl_estimator::k3};
    double const loss =
        ppo_loss<double>({c["logps"], c["old_logps"], c["advantages"], c["ref_logps"]}, {tokens, offsets, mask}, slopes,
                         {.tokens = c.integers<std::size_t>("total_tokens")[0],
                          .sequences = c.integers<std::size_t>("total_sequences")[0],
                          .constant_length = c.number("constant_length")},
                         static_cast<loss_aggregation>(c.integers<int>("aggregation")[0]), o, &s, kl);
    CHECK(relative_error(loss, c.number("loss")) <= 1e-10);
    for (std::size_t t = 0; t < slopes.size(); ++t) CHECK(relative_error(slopes[t], c["dlogps"][t]) <= 1e-10);
    CHECK(relative_error(s.approxkl.mean(), c.number("approxkl")) <= 1e-10);
    CHECK(relative_error(s.clipfrac.mean(), c.number("clipfrac")) <= 1e-10);
    CHECK(relative_error(s.clipfrac_lower.mean(), c.number("clipfrac_lower")) <= 1e-10);
    CHECK(relative_error(s.ratio.mean(), c.number("ratio")) <= 1e-10);
    CHECK(relative_error(s.ratio_squared.mean(), c.number("ratio_squared")) <= 1e-10);
    CHECK(relative_error(s.kl.mean(), c.number("kl")) <= 1e-10);
  }
}

TEST_CASE(
    "ppo: micro-batches with the step's totals give the slopes of the whole batch, bit for bit, and its statistics") {
  for (loss_aggregation const a : aggregations) {
    ppo_options const o{.dual_clip = 1.2};
    kl_loss_options const kl{.kl_loss_coef = 0.1};
    batch whole(3);
    double const loss = whole.loss(o, a, kl);
    policy_gradient_statistics sums;
    double shares = 0;
    for (std::size_t b = 0; b < 3; ++b) {
      std::size_t const first = whole.offsets[b], length = whole.offsets[b + 1] - first;
      std::vector<std::size_t> const offsets{0, length};
      auto const part = [&](auto const& all) { return std::span(all).subspan(first, length); };
      std::vector<double> slopes(length);
      shares +=
          ppo_loss<double>({part(whole.logps), part(whole.old_logps), part(whole.advantages), part(whole.ref_logps)},
                           {part(whole.tokens), offsets, part(whole.mask)}, slopes, whole.totals, a, o, &sums, kl);
      for (std::size_t i = 0; i < length; ++i) CHECK(slopes[i] == whole.slopes[first + i]);
    }
    CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
    CHECK(sums.tokens() == 6);
    CHECK(sums.clipfrac.sum == whole.statistics.clipfrac.sum);
    CHECK(sums.clipfrac_lower.sum == whole.statistics.clipfrac_lower.sum);
    CHECK(sums.approxkl.mean() == doctest::Approx(whole.statistics.approxkl.mean()).epsilon(1e-14));
    CHECK(sums.ratio.mean() == doctest::Approx(whole.statistics.ratio.mean()).epsilon(1e-14));
    CHECK(sums.kl.mean() == doctest::Approx(whole.statistics.kl.mean()).epsilon(1e-14));
  }
}

TEST_CASE("ppo: masked-out tokens, whatever and however many, change neither loss nor statistics") {
  batch const b;
  batch padded = b;  // two more tokens at the end of every sequence
  padded.offsets = {0, 5, 12, 18};
  auto const pad = [&](auto const& values, auto filler) {
    auto out = values;
    out.clear();
    for (std::size_t i = 0; i < 3; ++i) {
      out.insert(out.end(), values.begin() + static_cast<std::ptrdiff_t>(b.offsets[i]),
                 values.begin() + static_cast<std::ptrdiff_t>(b.offsets[i + 1]));
      out.insert(out.end(), 2, filler);
    }
    return out;
  };
  padded.tokens = pad(b.tokens, token_id{0});
  padded.mask = pad(b.mask, std::uint8_t{0});
  padded.logps = pad(b.logps, inf);
  padded.old_logps = pad(b.old_logps, 1e308);
  padded.advantages = pad(b.advantages, missing);
  padded.ref_logps = pad(b.ref_logps, -inf);
  padded.slopes = pad(b.slopes, 7.0);
  for (loss_aggregation const a : aggregations) {
    batch alone = b, among = padded;
    CHECK(alone.loss({}, a, {.kl_loss_coef = 0.1}) == among.loss({}, a, {.kl_loss_coef = 0.1}));
    CHECK(pad(alone.slopes, 0.0) == among.slopes);
    CHECK(alone.statistics.approxkl.mean() == among.statistics.approxkl.mean());
    CHECK(alone.statistics.ratio.mean() == among.statistics.ratio.mean());
    CHECK(alone.statistics.ratio_squared.mean() == among.statistics.ratio_squared.mean());
    CHECK(alone.statistics.kl.mean() == among.statistics.kl.mean());
    CHECK(among.statistics.tokens() == 6);
  }
}

TEST_CASE("ppo: the reference, without a coefficient, is seen by the statistics alone") {
  batch with, without;
  without.ref_logps.clear();
  CHECK(with.loss() == without.loss());
  CHECK(with.slopes == without.slopes);
  CHECK(with.statistics.kl.weight == 6.0);
  CHECK(without.statistics.kl.weight == 0.0);
}

TEST_CASE("ppo: f32 is the double result within float's rounding, and allocates nothing, in place as elsewhere") {
  batch b;
  std::vector<float> logps(b.logps.begin(), b.logps.end()), old(b.old_logps.begin(), b.old_logps.end()),
      advantages(b.advantages.begin(), b.advantages.end());
  b.logps.assign(logps.begin(), logps.end());
  b.old_logps.assign(old.begin(), old.end());
  b.advantages.assign(advantages.begin(), advantages.end());
  double const loss = b.loss();
  policy_gradient_statistics statistics;
  std::size_t const before = allocations();
  float const ours = ppo_loss<float>({logps, old, advantages}, b.view(), logps, b.totals, loss_aggregation::token_mean,
                                     {}, &statistics);
  CHECK(allocations() == before);
  CHECK(static_cast<double>(ours) == doctest::Approx(loss).epsilon(1e-6));
  for (std::size_t t = 0; t < 12; ++t) CHECK(static_cast<double>(logps[t]) == doctest::Approx(b.slopes[t]).epsilon(1e-6));
  CHECK(statistics.ratio.sum == doctest::Approx(b.statistics.ratio.sum).epsilon(1e-6));
}

TEST_CASE("ppo_on_tokens: is ppo_loss; without totals the batch is the whole step") {
  batch b;
  double const loss = b.loss({}, loss_aggregation::constant);
  auto const expected = b.slopes;
  policy_gradient_statistics statistics;
  ppo_on_tokens<double> objective{.old_logps = b.old_logps,
                                  .advantages = b.advantages,
                                  .totals = {.constant_length = 5},
                                  .aggregation = loss_aggregation::constant,
                                  .statistics = &statistics};
  std::vector<double> slopes(12);
  CHECK(objective(b.view(), b.logps, slopes) == loss);
  CHECK(slopes == expected);
  CHECK(statistics.tokens() == 6);
  objective.totals = {.tokens = 12, .sequences = 6, .constant_length = 5};
  CHECK(objective(b.view(), b.logps, slopes) == doctest::Approx(loss / 2).epsilon(1e-14));
}

TEST_CASE("ppo_on_tokens: from logits to their gradient, against a central difference") {
  reference_backend<double> backend;
  loss_workspace<double> workspace;
  batch b(2);
  b.tokens = {1, 2, 0, 3, 1, 0, 2, 2, 1, 3, 0, 1};
  std::size_t const vocabulary = 4;
  std::vector<double> logits(12 * vocabulary), dlogits(12 * vocabulary);
  random_stream stream(4);
  for (double& x : logits) x = stream.normal();
  for (std::size_t t = 0; t < 12; ++t) b.old_logps[t] = b.mask[t] != 0 ? -1.4 + 0.02 * stream.normal() : missing;
  ppo_on_tokens<double> const objective{.old_logps = b.old_logps,
                                        .advantages = b.advantages,
                                        .ref_logps = b.ref_logps,
                                        .options = {.cliprange = 0.9, .cliprange_high = 20},
                                        .kl_loss = {.kl_loss_coef = 0.2}};
  auto const loss = [&](std::span<double> gradient) {
    return loss_on_logits(backend, objective, matrix_view<double const>{logits.data(), 12, vocabulary, vocabulary},
                          b.view(), matrix_view<double>{gradient.data(), 12, vocabulary, vocabulary}, workspace);
  };
  loss(dlogits);
  std::vector<double> scratch(dlogits.size());
  CHECK(testing::check_gradient([&] { return loss(scratch); }, logits, dlogits, 1e-2).worst_error <= 1e-7);
}

TEST_CASE("ppo: options out of range are refused by field and value, k1 in a loss with the reason") {
  batch const b;
  auto const with_kl = [&](kl_loss_options kl) { return message_of(b, {}, loss_aggregation::token_mean, kl); };
  for (double const x : {0.0, -0.1, 1.01, missing})
    CHECK(message_of(b, {.cliprange = x}).starts_with("expected ppo_options.cliprange in (0, 1], got "));
  for (double const x : {-0.1, missing, inf})
    CHECK(
        message_of(b, {.cliprange_high = x}).starts_with("expected ppo_options.cliprange_high >= 0 and finite, got "));
  for (double const x : {1.0, 0.5, -3.0, missing, inf})
    CHECK(message_of(b, {.dual_clip = x}).starts_with("expected ppo_options.dual_clip > 1 and finite, or 0, got "));
  for (double const x : {-0.1, missing, inf})
    CHECK(with_kl({.kl_loss_coef = x}).starts_with("expected kl_loss_options.kl_loss_coef >= 0 and finite, got "));
  CHECK(with_kl({.bias_correction = true}) ==
        "expected kl_loss_options.bias_correction == false, since kl_loss_coef is 0 and there is nothing to correct");
  CHECK(with_kl({.kl_loss_estimator = kl_estimator::k1}) ==
        "expected kl_loss_options.kl_loss_estimator k2 or k3: the gradient of k1 is 0 in expectation, so that as a "
        "loss it "
        "pulls nowhere (it belongs in the rewards)");
  CHECK(message_of(b, {.cliprange = 1.0, .cliprange_high = 1e6, .dual_clip = 3}) == "no error");
  CHECK(with_kl({.kl_loss_coef = 1, .bias_correction = true}) == "no error");
}

TEST_CASE("ppo: sizes that disagree, numbers that are not finite, and an empty batch are refused by name") {
  auto const with = [](std::vector<double> batch::*field, std::size_t t, double value) {
    batch b;
    (b.*field)[t] = value;
    return message_of(b);
  };
  CHECK(with(&batch::logps, 2, missing) ==
        "expected policy_gradient_loss: logps[2] finite (sequence 0, token 2), got nan");
  CHECK(with(&batch::old_logps, 5, inf) ==
        "expected policy_gradient_loss: old_logps[5] finite (sequence 1, token 2), got inf");
  CHECK(with(&batch::advantages, 11, -inf) ==
        "expected policy_gradient_loss: advantages[11] finite (sequence 2, token 3), got -inf");
  CHECK(with(&batch::ref_logps, 4, missing) ==
        "expected policy_gradient_loss: ref_logps[4] finite (sequence 1, token 1), got nan");
  auto const shortened = [](std::vector<double> batch::*field) {
    batch b;
    (b.*field).pop_back();
    return message_of(b);
  };
  CHECK(shortened(&batch::logps) == "expected policy_gradient_loss: logps.size() == batch.total_tokens(), got 11");
  CHECK(shortened(&batch::old_logps) ==
        "expected policy_gradient_loss: old_logps.size() == batch.total_tokens(), got 11");
  CHECK(shortened(&batch::advantages) ==
        "expected policy_gradient_loss: advantages.size() == batch.total_tokens(), got 11");
  CHECK(shortened(&batch::ref_logps) ==
        "expected policy_gradient_loss: ref_logps.size() == batch.total_tokens(), got 11");
  CHECK(shortened(&batch::slopes) == "expected policy_gradient_loss: slopes.size() == batch.total_tokens(), got 11");
  batch without;
  without.ref_logps.clear();
  CHECK(message_of(without, {}, loss_aggregation::token_mean, {.kl_loss_coef = 0.1}) ==
        "expected policy_gradient_loss: ref_logps, which kl_loss_coef > 0 needs");
  batch few;
  few.totals.tokens = 5;
  CHECK(message_of(few) == "expected aggregation_totals.tokens >= the masked-in tokens of the batch, got 5");
  CHECK_THROWS_AS(ppo_loss<double>({}, sequences_view{}, {}, {1, 1}), contract_violation);
}
