// SPDX-License-Identifier: MIT
#include <attune/objective/policy_gradient.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/policy_gradient_surrogate.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"
#include "support/proofs.hpp"

using namespace attune;
using testing::relative_error;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double most = (std::numeric_limits<double>::max)();

auto const aggregations = {loss_aggregation::token_mean, loss_aggregation::sequence_mean,
                           loss_aggregation::sequence_sum, loss_aggregation::constant};

auto const kl_losses = {
    kl_loss_options{}, kl_loss_options{.kl_loss_coef = 0.3},
    kl_loss_options{.kl_loss_coef = 0.3, .kl_loss_estimator = kl_estimator::k3},
    kl_loss_options{.kl_loss_coef = 0.3, .bias_correction = true},
    kl_loss_options{.kl_loss_coef = 0.3, .kl_loss_estimator = kl_estimator::k3, .bias_correction = true}};

struct named_surrogate {
  char const* name;
  policy_gradient_surrogate options;
  double spread;  // of log-ratios, so that bounds are met about as often as not
};

std::vector<named_surrogate> const surrogates{
    {"ppo", ppo_options{}, 0.3},
    {"ppo", ppo_options{.cliprange_high = 0.28, .dual_clip = 1.5}, 0.5},
    {"gspo", gspo_options{}, 4e-4},
    {"gspo", gspo_options{.cliprange = 0.1, .cliprange_high = 0.0}, 0.3},
    {"gspo", gspo_options{.cliprange = 0.1, .cliprange_high = 0.2, .token_advantages = true}, 0.3},
    {"cispo", cispo_options{}, 1.5},
    {"cispo", cispo_options{.epsilon_high = 1.0}, 0.3},
    {"sapo", sapo_options{}, 0.5},
    {"sapo", sapo_options{.sapo_temperature_pos = 8.0, .sapo_temperature_neg = 0.1}, 0.5},
};

// Sequences of 3, 5 and 4 tokens with 1, 3 and 2 of them masked in; NaN in the masked-out places.
struct batch {
  std::vector<token_id> tokens = std::vector<token_id>(12, 1);
  std::vector<std::size_t> offsets{0, 3, 8, 12};
  std::vector<std::uint8_t> mask{0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1};
  std::vector<double> logps, old_logps, advantages, ref_logps, slopes;
  aggregation_totals totals{.tokens = 7, .sequences = 4, .constant_length = 5};
  policy_gradient_statistics statistics;

  explicit batch(std::uint64_t seed = 0, double spread = 0.5) : slopes(12, 7.0) {
    random_stream stream(seed);
    for (std::uint8_t const m : mask) {
      logps.push_back(m != 0 ? -5.0 * stream.uniform() : missing);
      old_logps.push_back(m != 0 ? logps.back() + spread * stream.normal() : missing);
      ref_logps.push_back(m != 0 ? logps.back() + stream.normal() : missing);
      advantages.push_back(m != 0 ? stream.normal() : missing);
    }
  }
  sequences_view view() const { return {tokens, offsets, mask}; }
  policy_gradient_tokens<double> of() const {
    return {.logps = logps, .old_logps = old_logps, .advantages = advantages, .ref_logps = ref_logps};
  }
  double loss(policy_gradient_surrogate const& s, loss_aggregation a = loss_aggregation::token_mean,
              kl_loss_options kl = {}) {
    return std::visit([&](auto const& o) {
      return policy_gradient_loss<double>(of(), view(), slopes, totals, a, o, &statistics, kl);
    }, s);
  }
  double ratio_of_sequence(std::size_t b) const {
    double sum = 0.0, count = 0.0;
    for (std::size_t t = offsets[b]; t < offsets[b + 1]; ++t)
      if (mask[t] != 0) sum += logps[t] - old_logps[t], count += 1.0;
    return std::exp(sum / count);
  }
};

std::string message_of(batch b, policy_gradient_surrogate const& s, loss_aggregation a = loss_aggregation::token_mean,
                       kl_loss_options kl = {}) {
  auto const before = b.slopes;
  try {
    b.loss(s, a, kl);
  } catch (contract_violation const& e) {
    CHECK(b.slopes == before);  // nothing half-written
    CHECK(b.statistics.tokens() == 0);
    return e.what();
  }
  return "no error";
}

double real(double x) { return x; }
double real(std::complex<double> x) { return x.real(); }

// A ratio as it is, and as the papers' stop-gradient leaves it: `held` has the numbers, `logps` moves.
template <class N>
N plain_surrogate(N ratio, N logp, double A, double held_ratio, policy_gradient_surrogate const& s) {
  using std::exp;
  if (auto const* o = std::get_if<cispo_options>(&s)) return -A * std::min(held_ratio, o->epsilon_high) * logp;
  if (auto const* o = std::get_if<sapo_options>(&s)) {
    double const tau = A > 0 ? o->sapo_temperature_pos : o->sapo_temperature_neg;
    return -A * (4.0 / tau) / (1.0 + exp(-tau * (ratio - 1.0)));
  }
  auto const* ppo = std::get_if<ppo_options>(&s);
  auto const* gspo = std::get_if<gspo_options>(&s);
  double const below = ppo ? ppo->cliprange : gspo->cliprange;
  double const above = ppo ? ppo->cliprange_high : gspo->cliprange_high;
  double const low = 1.0 - below, high = 1.0 + (above > 0.0 ? above : below);
  N const clip = real(ratio) < low ? N(low) : real(ratio) > high ? N(high) : ratio;
  N const least = real(ratio) * A < real(clip) * A ? ratio * A : clip * A;
  if (ppo && ppo->dual_clip > 0.0 && A < 0.0 && real(least) < ppo->dual_clip * A) return N(-ppo->dual_clip * A);
  return -least;
}

// The whole loss once more: response by response, formulas as the papers have them, any number type.
template <class N>
N plain_loss(batch const& b, std::vector<N> const& logps, policy_gradient_surrogate const& s, loss_aggregation a,
             kl_loss_options kl) {
  using std::exp;
  N loss(0.0);
  for (std::size_t i = 0; i + 1 < b.offsets.size(); ++i) {
    std::vector<std::size_t> in;
    for (std::size_t t = b.offsets[i]; t < b.offsets[i + 1]; ++t)
      if (b.mask[t] != 0) in.push_back(t);
    double const n = static_cast<double>(in.size());
    N mean(0.0);
    for (std::size_t const t : in) mean += (logps[t] - b.old_logps[t]) / n;
    double const S = static_cast<double>(b.totals.sequences);
    double const weight = a == loss_aggregation::token_mean      ? 1.0 / static_cast<double>(b.totals.tokens)
                          : a == loss_aggregation::sequence_mean ? 1.0 / (S * n)
                          : a == loss_aggregation::sequence_sum  ? 1.0 / S
                                                                 : 1.0 / (S * b.totals.constant_length);
    auto const* gspo = std::get_if<gspo_options>(&s);
    for (std::size_t const t : in) {
      N ratio = exp(logps[t] - b.old_logps[t]);
      if (gspo) ratio = exp(mean);
      if (gspo && gspo->token_advantages) ratio = b.ratio_of_sequence(i) * exp(logps[t] - b.logps[t]);
      N one = plain_surrogate<N>(ratio, logps[t], b.advantages[t], std::exp(b.logps[t] - b.old_logps[t]), s);
      N const d = logps[t] - b.ref_logps[t];
      N const estimate = kl.kl_loss_estimator == kl_estimator::k2 ? 0.5 * d * d : exp(-d) - 1.0 + d;
      if (kl.kl_loss_coef > 0.0) one += kl.kl_loss_coef * estimate * (kl.bias_correction ? ratio : N(1.0));
      loss += weight * one;
    }
  }
  return loss;
}

// A ratio within reach of a central difference's step of a bound.
bool at_a_seam(batch const& b, std::size_t i, std::size_t t, policy_gradient_surrogate const& s) {
  std::vector<double> bounds;
  double ratio = std::exp(b.logps[t] - b.old_logps[t]), reach = 1e-3;
  if (auto const* o = std::get_if<ppo_options>(&s))
    bounds = {1.0 - o->cliprange, 1.0 + o->cliprange, 1.0 + o->cliprange_high, o->dual_clip};
  if (auto const* o = std::get_if<gspo_options>(&s)) {
    bounds = {1.0 - o->cliprange, 1.0 + o->cliprange, 1.0 + o->cliprange_high};
    ratio = b.ratio_of_sequence(i);
    reach = 1.2e-4;
  }
  return std::any_of(bounds.begin(), bounds.end(), [&](double x) { return std::abs(ratio - x) < reach * ratio; });
}

void keep_worst(double& worst, double error) {
  if (!(error <= worst)) worst = std::isnan(error) ? inf : error;
}

}  // namespace

TEST_CASE("policy gradient: value and slopes of every surrogate, aggregation and KL are the papers', <= 1e-12") {
  struct sum {
    std::size_t combinations = 0;
    double value = 0.0, slope = 0.0, difference = 0.0, clipped = 0.0, tokens = 0.0;
  };
  std::vector<std::pair<std::string, sum>> sums{{"ppo", {}}, {"gspo", {}}, {"cispo", {}}, {"sapo", {}}};
  for (named_surrogate const& s : surrogates)
    for (loss_aggregation const a : aggregations)
      for (kl_loss_options const& kl : kl_losses) {
        sum& here = std::find_if(sums.begin(), sums.end(), [&](auto const& x) { return x.first == s.name; })->second;
        ++here.combinations;
        for (std::uint64_t seed = 0; seed < 20; ++seed) {
          batch b(seed, s.spread);
          double const loss = b.loss(s.options, a, kl);
          auto const slopes = b.slopes;
          keep_worst(here.value, relative_error(loss, plain_loss(b, b.logps, s.options, a, kl), 0.1));
          std::vector<std::complex<double>> at(b.logps.begin(), b.logps.end());
          std::vector<double> moved = b.logps;
          for (std::size_t i = 0; i < 3; ++i)
            for (std::size_t t = b.offsets[i]; t < b.offsets[i + 1]; ++t) {
              if (b.mask[t] == 0) {
                keep_worst(here.slope, std::abs(slopes[t]));
                continue;
              }
              at[t] = {b.logps[t], 1e-100};
              double const derivative = plain_loss(b, at, s.options, a, kl).imag() * 1e100;
              at[t] = b.logps[t];
              keep_worst(here.slope, relative_error(slopes[t], derivative, 1e-3));
              if (at_a_seam(b, i, t, s.options)) continue;
              double const step = std::holds_alternative<gspo_options>(s.options) ? 2e-5 : 1e-4;
              double const difference = testing::central_difference(
                  [&] { return plain_loss(b, moved, s.options, a, kl); }, moved[t], step);
              keep_worst(here.difference, relative_error(slopes[t], difference, 1.0));
            }
          here.clipped += b.statistics.clipfrac.sum + b.statistics.clipfrac_lower.sum;
          here.tokens += b.statistics.clipfrac.weight;
        }
      }
  std::size_t combinations = 0;
  for (auto const& [name, here] : sums) {
    CAPTURE(name);
    CHECK(here.value <= 1e-12);
    CHECK(here.slope <= 1e-12);
    CHECK(here.difference <= 1e-9);
    if (name != "sapo") CHECK(here.clipped > 0.1 * here.tokens);  // the bounds were met
    if (name != "sapo") CHECK(here.clipped < 0.9 * here.tokens);
    combinations += here.combinations;
    proofs::derivatives(name, here.combinations, 20, here.slope, here.difference);
  }
  CHECK(combinations == 180);
}

TEST_CASE("policy gradient: loss, gradient and metrics are those of TRL's GRPOTrainer._compute_loss") {
  struct sum {
    std::size_t cases = 0;
    double value = 0.0, slope = 0.0;
  };
  // By TRL's names: grpo, dapo, bnpo and dr_grpo are PPO's surrogate under three aggregations.
  std::vector<std::pair<std::string, sum>> sums{
      {"ppo", {}}, {"two-sided clip", {}}, {"dapo", {}},  {"grpo", {}}, {"dr_grpo", {}},
      {"gspo", {}}, {"luspo", {}},         {"cispo", {}}, {"sapo", {}}};
  auto const cases = read_golden("policy_gradient.txt");
  CHECK(cases.size() >= 300);
  double worst_metric = 0.0;
  for (golden_case const& c : cases) {
    auto const& given = c["options"];
    double const epsilon = given[4], epsilon_high = given[5], delta = given[6];
    policy_gradient_surrogate const all[] = {
        ppo_options{.cliprange = epsilon, .cliprange_high = epsilon_high, .dual_clip = delta},
        gspo_options{.cliprange = epsilon, .cliprange_high = epsilon_high},
        cispo_options{.epsilon_high = epsilon_high},
        sapo_options{.sapo_temperature_pos = given[7], .sapo_temperature_neg = given[8]}};
    auto const which = static_cast<std::size_t>(given[0]);
    auto const aggregation = static_cast<loss_aggregation>(given[1]);
    kl_loss_options const kl{.kl_loss_coef = given[2], .kl_loss_estimator = kl_estimator::k3,
                             .bias_correction = given[3] != 0.0};
    // A sequence of its own for each row: a token of prompt, then the row, gaps included.
    auto const keep = c.integers<std::uint8_t>("mask");
    auto const longest = c.integers<std::size_t>("longest")[0];
    std::vector<std::uint8_t> mask;
    std::vector<std::size_t> offsets{0};
    std::vector<double> logps, old_logps, ref_logps, advantages, expected;
    for (std::size_t i = 0, k = 0; i < keep.size(); ++i) {
      auto const push = [&](bool in) {
        mask.push_back(in ? 1 : 0);
        logps.push_back(in ? c["logps"][k] : missing);
        old_logps.push_back(in ? c["old_logps"][k] : missing);
        ref_logps.push_back(in ? c["ref_logps"][k] : missing);
        advantages.push_back(in ? c["advantages"][k] : missing);
        expected.push_back(in ? c["dlogps"][k] : 0.0);
        k += in ? 1 : 0;
      };
      if (i % longest == 0) push(false);
      push(keep[i] != 0);
      if (i % longest + 1 == longest) offsets.push_back(mask.size());
    }
    std::vector<token_id> const tokens(mask.size(), 0);
    std::vector<double> slopes(mask.size(), 7.0);
    policy_gradient_statistics statistics;
    double const loss = std::visit([&](auto const& o) {
      return policy_gradient_loss<double>(
          {.logps = logps, .old_logps = old_logps, .advantages = advantages, .ref_logps = ref_logps},
          {tokens, offsets, mask}, slopes,
          {.tokens = c.integers<std::size_t>("totals")[0], .sequences = c.integers<std::size_t>("totals")[1],
           .constant_length = c["totals"][2]},
          aggregation, o, &statistics, kl);
    }, all[which]);
    double worst_slope = 0.0;
    for (std::size_t t = 0; t < slopes.size(); ++t)
      keep_worst(worst_slope, relative_error(slopes[t], expected[t], 1e-3));
    double const error = relative_error(loss, c.number("loss"), 1e-3);
    if (which == 0) keep_worst(worst_metric, relative_error(statistics.clipfrac.mean(), c.number("clipped")));
    if (kl.kl_loss_coef > 0.0 && !kl.bias_correction)
      keep_worst(worst_metric, relative_error(statistics.kl.mean(), c.number("kl")));
    auto const count = [&](std::string const& name) {
      sum& here = std::find_if(sums.begin(), sums.end(), [&](auto const& x) { return x.first == name; })->second;
      ++here.cases;
      keep_worst(here.value, error);
      keep_worst(here.slope, worst_slope);
    };
    char const* const names[] = {"ppo", "gspo", "cispo", "sapo"};
    count(names[which]);
    if (which == 1 && aggregation == loss_aggregation::sequence_sum) count("luspo");
    if (which == 0 && delta > 0.0) count("two-sided clip");
    if (which == 0 && aggregation == loss_aggregation::token_mean) count("dapo");
    if (which == 0 && aggregation == loss_aggregation::sequence_mean) count("grpo");
    if (which == 0 && aggregation == loss_aggregation::constant) count("dr_grpo");
  }
  CHECK(worst_metric <= 1e-12);
  for (auto const& [name, here] : sums) {
    CAPTURE(name);
    CHECK(here.cases >= 24);
    CHECK(here.value <= 1e-10);
    CHECK(here.slope <= 1e-10);
    if (name == "ppo" || name == "gspo" || name == "cispo" || name == "sapo")
      proofs::golden(name, "TRL", here.cases, here.value, here.slope);
    else  // counted once, with its surrogate
      proofs::law(name, "value and gradient are TRL's in " + std::to_string(here.cases) + " of its surrogate's golden cases");
  }
}

TEST_CASE("policy gradient: where the policy is the old one every surrogate's slope is -A, exactly") {
  double worst = 0.0;
  for (named_surrogate const& s : surrogates)
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      batch b(seed);
      b.old_logps = b.logps;
      b.totals.tokens = 8;  // 1 / tokens is exact
      if (std::holds_alternative<gspo_options>(s.options))
        for (std::size_t t = 5; t < 8; ++t) b.advantages[t] = b.advantages[4];  // one for a response, exact as a mean
      if (std::holds_alternative<gspo_options>(s.options)) b.advantages[11] = b.advantages[10];
      b.loss(s.options);
      for (std::size_t t = 0; t < 12; ++t)
        keep_worst(worst, b.mask[t] == 0 ? std::abs(b.slopes[t]) : relative_error(b.slopes[t], -b.advantages[t] / 8));
      keep_worst(worst, std::abs(b.statistics.ratio.mean() - 1.0) + std::abs(b.statistics.ratio_squared.mean() - 1.0));
      keep_worst(worst,
                 b.statistics.approxkl.mean() + b.statistics.clipfrac.mean() + b.statistics.clipfrac_lower.mean());
    }
  CHECK(worst <= 2e-16);  // the mean of three equal numbers may round
  for (char const* const name : {"ppo", "gspo", "cispo", "sapo"})
    proofs::law(name, "where pi is pi_old the slope is -A, the ratio 1, and nothing is clipped");
}

TEST_CASE("policy gradient: the corrected k3 has, over an older policy's tokens, the gradient of KL(pi || ref)") {
  // A categorical policy over five tokens and every token once, weighted by the old policy: the expectation itself.
  double worst = 0.0, uncorrected = 0.0;
  std::vector<token_id> const tokens(2, 0);
  std::vector<std::size_t> const offsets{0, 2};
  std::vector<std::uint8_t> const mask{0, 1};
  for (named_surrogate const& s : surrogates)
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      random_stream stream(seed);
      std::vector<double> logits[3];
      for (auto& l : logits) {
        double z = 0.0;
        for (int v = 0; v < 5; ++v) z += std::exp(l.emplace_back(stream.normal()));
        for (double& x : l) x -= std::log(z);
      }
      auto const& [logp, old, ref] = logits;
      for (bool const corrected : {true, false}) {
        kl_loss_options const kl_loss{
            .kl_loss_coef = 1.0, .kl_loss_estimator = kl_estimator::k3, .bias_correction = corrected};
        std::vector<double> gradient(5, 0.0), exact(5, 0.0);
        double kl = 0.0;
        for (std::size_t v = 0; v < 5; ++v) kl += std::exp(logp[v]) * (logp[v] - ref[v]);
        for (std::size_t y = 0; y < 5; ++y) {
          std::vector<double> const lp{0.0, logp[y]}, ol{0.0, old[y]}, rf{0.0, ref[y]}, A{0.0, 0.0};
          std::vector<double> slope(2);
          std::visit([&](auto const& o) {
            policy_gradient_loss<double>({lp, ol, A, rf}, {tokens, offsets, mask}, slope, {.tokens = 1},
                                         loss_aggregation::token_mean, o, nullptr, kl_loss);
          }, s.options);
          for (std::size_t v = 0; v < 5; ++v)
            gradient[v] += std::exp(old[y]) * slope[1] * ((v == y ? 1.0 : 0.0) - std::exp(logp[v]));
          exact[y] = std::exp(logp[y]) * (logp[y] - ref[y] - kl);
        }
        for (std::size_t v = 0; v < 5; ++v)
          keep_worst(corrected ? worst : uncorrected, std::abs(gradient[v] - exact[v]));
      }
    }
  CHECK(worst <= 1e-14);
  CHECK(uncorrected > 0.1);
  for (char const* const name : {"ppo", "gspo", "cispo", "sapo"})
    proofs::law(name, "k3 with bias correction has the gradient of KL(pi || ref) in expectation over the old policy");
}

TEST_CASE("policy gradient: micro-batches with the step's totals give the whole batch's slopes, bit for bit") {
  for (named_surrogate const& s : surrogates)
    for (loss_aggregation const a : aggregations) {
      kl_loss_options const kl{.kl_loss_coef = 0.1, .bias_correction = true};
      batch whole(3, s.spread);
      double const loss = whole.loss(s.options, a, kl);
      policy_gradient_statistics sums;
      double shares = 0.0;
      bool same = true;
      for (std::size_t b = 0; b < 3; ++b) {
        std::size_t const first = whole.offsets[b], length = whole.offsets[b + 1] - first;
        std::vector<std::size_t> const offsets{0, length};
        auto const part = [&](auto const& all) { return std::span(all).subspan(first, length); };
        std::vector<double> slopes(length);
        shares += std::visit([&](auto const& o) {
          return policy_gradient_loss<double>(
              {part(whole.logps), part(whole.old_logps), part(whole.advantages), part(whole.ref_logps)},
              {part(whole.tokens), offsets, part(whole.mask)}, slopes, whole.totals, a, o, &sums, kl);
        }, s.options);
        for (std::size_t i = 0; i < length; ++i) same = same && slopes[i] == whole.slopes[first + i];
      }
      CHECK(same);
      CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
      CHECK(sums.tokens() == 6);
      CHECK(sums.clipfrac.sum == whole.statistics.clipfrac.sum);
      CHECK(sums.ratio_squared.mean() == doctest::Approx(whole.statistics.ratio_squared.mean()).epsilon(1e-14));
      CHECK(sums.kl.mean() == doctest::Approx(whole.statistics.kl.mean()).epsilon(1e-14));
    }
  for (char const* const name : {"ppo", "gspo", "cispo", "sapo", "bnpo"})
    proofs::law(name, "the shares of a step's micro-batches are the whole batch's, bit for bit, whatever the cut");
}

TEST_CASE(
    "policy gradient: bnpo is token_mean of one batch; over micro-batches of other lengths TRL's mean is another") {
  batch b(5);
  b.totals = aggregation_totals_of(b.view());
  double const bnpo = b.loss(ppo_options{});
  double sum = 0.0, mean_of_means = 0.0;
  for (std::size_t i = 0; i < 3; ++i) {
    double here = 0.0, count = 0.0;
    for (std::size_t t = b.offsets[i]; t < b.offsets[i + 1]; ++t)
      if (b.mask[t] != 0) {
        here += ppo_objective(b.logps[t], b.old_logps[t], b.advantages[t]).value;
        count += 1.0;
      }
    sum += here;
    mean_of_means += here / count / 3.0;  // three micro-batches of a sequence, each normalised by itself
  }
  CHECK(bnpo == doctest::Approx(sum / 6.0).epsilon(1e-14));
  CHECK(std::abs(mean_of_means - bnpo) > 0.01);
  proofs::law("bnpo", "token_mean over the optimiser step is bnpo of one batch, for any cut into micro-batches");
}

TEST_CASE("policy gradient: f32 is the double result rounded, in place, and allocates nothing") {
  for (named_surrogate const& s : surrogates) {
    batch b(1, s.spread);
    std::vector<float> logps(b.logps.begin(), b.logps.end()), old(b.old_logps.begin(), b.old_logps.end()),
        advantages(b.advantages.begin(), b.advantages.end()), ref(b.ref_logps.begin(), b.ref_logps.end());
    b.logps.assign(logps.begin(), logps.end());
    b.old_logps.assign(old.begin(), old.end());
    b.advantages.assign(advantages.begin(), advantages.end());
    b.ref_logps.assign(ref.begin(), ref.end());
    kl_loss_options const kl{.kl_loss_coef = 0.1, .bias_correction = true};
    double const loss = b.loss(s.options, loss_aggregation::sequence_mean, kl);
    std::size_t const before = allocations();
    float const ours = std::visit([&](auto const& o) {
      return policy_gradient_loss<float>({logps, old, advantages, ref}, b.view(), std::span(logps), b.totals,
                                         loss_aggregation::sequence_mean, o, nullptr, kl);
    }, s.options);
    CHECK(allocations() == before);
    CHECK(ours == static_cast<float>(loss));
    bool same = true;
    for (std::size_t t = 0; t < 12; ++t) same = same && logps[t] == static_cast<float>(b.slopes[t]);
    CHECK(same);
  }
}

TEST_CASE(
    "policy gradient: at the edge of what numbers can say every surrogate has its limit, in double and in float") {
  // A response of one token with log-ratio d: ratio 0, 1 or the largest number. Value and slope for A = 1 and A = -1;
  // CISPO's value is its slope times logp, which is d.
  struct limit {
    double value, slope;
  };
  struct row {
    char const* name;
    policy_gradient_surrogate options;
    limit gain[3], loss[3];  // at ratio 0, 1, largest
  };
  auto const sigmoid_of = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  double const soft_gain = 4.0 * sigmoid_of(-1.0), soft_loss = 4.0 / 1.05 * sigmoid_of(-1.05);
  std::vector<row> const rows{
      {"ppo", ppo_options{}, {{0, 0}, {-1, -1}, {-1.2, 0}}, {{0.8, 0}, {1, 1}, {most, most}}},
      {"ppo", ppo_options{.dual_clip = 3.0}, {{0, 0}, {-1, -1}, {-1.2, 0}}, {{0.8, 0}, {1, 1}, {3, 0}}},
      {"gspo", gspo_options{}, {{0, 0}, {-1, -1}, {-1.0004, 0}}, {{0.9997, 0}, {1, 1}, {most, most}}},
      {"gspo",
       gspo_options{.token_advantages = true},
       {{0, 0}, {-1, -1}, {-1.0004, 0}},
       {{0.9997, 0}, {1, 1}, {most, most}}},
      {"cispo",
       cispo_options{},
       {{missing, 0}, {missing, -1}, {missing, -5}},
       {{missing, 0}, {missing, 1}, {missing, 5}}},
      {"sapo", sapo_options{}, {{-soft_gain, 0}, {-2, -1}, {-4, 0}}, {{soft_loss, 0}, {2 / 1.05, 1}, {4 / 1.05, 0}}}};
  struct drawn {
    double d;
    std::size_t at;
  };
  auto const log_ratios = {drawn{-1e4, 0}, drawn{-3e38, 0}, drawn{-1e308, 0}, drawn{0.0, 1},  drawn{5e-324, 1},
                           drawn{1e-310, 1}, drawn{1e4, 2}, drawn{3e38, 2},   drawn{1e308, 2}};
  for (char const* const name : {"ppo", "gspo", "cispo", "sapo"}) {
    std::size_t cases = 0, failed = 0;
    for (row const& r : rows) {
      if (std::string(r.name) != name) continue;
      for (drawn const& x : log_ratios)
        for (double const A : {1.0, -1.0, 0.0, 5e-324}) {
          auto const check = [&]<class T>(T) {
            if (std::is_same_v<T, float> && std::abs(x.d) > 3e38) return;
            std::vector<token_id> const tokens(2, 0);
            std::vector<std::size_t> const offsets{0, 2};
            std::vector<std::uint8_t> const mask{0, 1};
            T const nan = std::numeric_limits<T>::quiet_NaN();
            std::vector<T> const lp{nan, static_cast<T>(x.d)}, old{nan, T(0)}, a{nan, static_cast<T>(A)};
            std::vector<T> slope(2);
            policy_gradient_statistics statistics;
            double const loss = static_cast<double>(std::visit([&](auto const& o) {
              return policy_gradient_loss<T>({lp, old, a}, {tokens, offsets, mask}, std::span(slope), {.tokens = 1},
                                             loss_aggregation::token_mean, o, &statistics);
            }, r.options));
            limit want{0.0, 0.0};
            if (A == 1.0) want = r.gain[x.at];
            if (A == -1.0) want = r.loss[x.at];
            if (std::isnan(want.value)) want.value = saturate_cast<double>(want.slope * static_cast<double>(lp[1]));
            double const largest = static_cast<double>((std::numeric_limits<T>::max)());
            double const rounding = std::is_same_v<T, float> ? 1e-7 : 1e-15;
            auto const close = [&](double got, double limit_value) {
              limit_value = std::clamp(limit_value, -largest, largest);
              if (A == 5e-324) return std::isfinite(got);  // times what may be the largest number
              return relative_error(got, limit_value, rounding) <= rounding;
            };
            ++cases;
            bool const good = close(loss, want.value) && close(static_cast<double>(slope[1]), want.slope) &&
                              std::isfinite(statistics.ratio.sum);
            failed += good ? 0 : 1;
            CAPTURE(name);
            CAPTURE(x.d);
            CAPTURE(A);
            CAPTURE(loss);
            CAPTURE(slope[1]);
            if (!good) CHECK_MESSAGE(good, "value ", want.value, ", slope ", want.slope);
          };
          check(0.0);
          check(0.0f);
        }
      // What is no number is refused by span, place and row, and nothing is written.
      struct wrong {
        std::vector<double> batch::* field;
        char const* name;
      };
      for (wrong const& w : {wrong{&batch::logps, "logps"}, wrong{&batch::old_logps, "old_logps"},
                             wrong{&batch::advantages, "advantages"}, wrong{&batch::ref_logps, "ref_logps"}})
        for (double const bad : {missing, inf, -inf}) {
          batch b;
          (b.*w.field)[5] = bad;
          auto const why = message_of(b, r.options);
          ++cases;
          failed += why.starts_with(std::string("expected policy_gradient_loss: ") + w.name +
                                    "[5] finite (sequence 1, token 2), got ") ? 0 : 1;
        }
      // Every span at once at the largest number of either sign, under every aggregation and KL.
      for (loss_aggregation const a : aggregations)
        for (kl_loss_options const& kl : kl_losses) {
          batch b;
          b.logps = {missing, missing, most, missing, -most, most, missing, -most, missing, missing, most, 0};
          b.old_logps = {missing, missing, -most, missing, most, -most, missing, 0, missing, missing, 0, most};
          b.advantages = {missing, missing, -most, missing, most, -1, missing, 1, missing, missing, most, 0};
          b.ref_logps = b.old_logps;
          bool finite = std::isfinite(b.loss(r.options, a, kl));
          for (double const slope : b.slopes) finite = finite && std::isfinite(slope);
          ++cases;
          failed += finite ? 0 : 1;
        }
    }
    CAPTURE(name);
    CHECK(failed == 0);
    CHECK(cases >= 80);
    proofs::extremes(name, cases, failed);
  }
}

TEST_CASE("policy gradient: batches of nothing are refused or nothing, whatever the surrogate") {
  for (named_surrogate const& s : surrogates) {
    batch none;
    none.offsets = {0};
    none.tokens.clear();
    none.mask.clear();
    none.logps = none.old_logps = none.advantages = none.ref_logps = none.slopes = {};
    CHECK(message_of(none, s.options) == "expected policy_gradient_loss: at least one sequence");
    batch masked;
    masked.mask.assign(12, 0);
    CHECK(masked.loss(s.options) == 0.0);  // a micro-batch without a token of a step that has some
    CHECK(masked.slopes == std::vector<double>(12, 0.0));
    CHECK(masked.statistics.tokens() == 0);
    CHECK(message_of(masked, s.options, loss_aggregation::sequence_mean)
              .ends_with("a masked-in token in every sequence; found none in sequence, got 0"));
    masked.totals.tokens = 0;
    CHECK(message_of(masked, s.options) == "expected aggregation_totals.tokens > 0, a step with a masked-in token");
    batch empty;  // a sequence of no token among the others
    empty.offsets = {0, 3, 3, 12};
    CHECK(std::isfinite(empty.loss(s.options)));
    batch alone;
    alone.ref_logps.clear();
    CHECK(message_of(alone, s.options, loss_aggregation::token_mean, {.kl_loss_coef = 0.1}) ==
          "expected policy_gradient_loss: ref_logps, which kl_loss_coef > 0 needs");
    batch shorter;
    shorter.slopes.pop_back();
    CHECK(message_of(shorter, s.options) ==
          "expected policy_gradient_loss: slopes.size() == batch.total_tokens(), got 11");
  }
}

namespace {

// A method of somebody's own: the plain policy gradient, -A r.
struct unclipped_options {
  static constexpr loss_aggregation paper_aggregation = loss_aggregation::sequence_sum;
};
void validate(unclipped_options const&) {}
ratio_level ratio_level_of(unclipped_options const&) { return ratio_level::token; }
policy_gradient_value_and_slope<double> policy_gradient_objective(double logp, double old_logp, double A,
                                                                  unclipped_options const&) {
  double const ratio = std::exp(logp - old_logp);
  return {-A * ratio, -A * ratio, ratio, false, false};
}

}  // namespace

TEST_CASE("policy gradient: a surrogate of one's own has the rest for nothing") {
  static_assert(PolicyGradientSurrogate<unclipped_options> && PolicyGradientSurrogate<ppo_options>);
  static_assert(!PolicyGradientSurrogate<kl_loss_options> && !PolicyGradientSurrogate<int>);
  batch b(2, 0.01);
  policy_gradient_on_tokens<double, unclipped_options> const mine{.old_logps = b.old_logps, .advantages = b.advantages};
  ppo_on_tokens<double> const ppo{.old_logps = b.old_logps,
                                  .advantages = b.advantages,
                                  .aggregation = loss_aggregation::sequence_sum,
                                  .options = {.cliprange = 0.5}};  // which nothing reaches
  std::vector<double> one(12), other(12);
  CHECK(mine(b.view(), b.logps, one) == ppo(b.view(), b.logps, other));
  CHECK(one == other);
}
