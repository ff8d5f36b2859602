// SPDX-License-Identifier: MIT
#include <attune/objective/gspo.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/token_objectives.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/proofs.hpp"

using namespace attune;
using testing::relative_error;

static_assert(TokenObjective<gspo_on_tokens<float> const, float>);

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();

// Responses of the given lengths after a token of prompt, one advantage for each response.
struct responses {
  std::vector<token_id> tokens;
  std::vector<std::size_t> offsets{0};
  std::vector<std::uint8_t> mask;
  std::vector<double> logps, old_logps, advantages, slopes;

  responses(std::initializer_list<std::size_t> lengths, std::uint64_t seed, double spread) {
    random_stream stream(seed);
    for (std::size_t const length : lengths) {
      double const A = stream.normal();
      push(false, missing, missing, missing);
      for (std::size_t k = 0; k < length; ++k) {
        double const logp = -3.0 * stream.uniform();
        push(true, logp, logp + spread * stream.normal(), A);
      }
      offsets.push_back(tokens.size());
    }
  }
  void push(bool in, double logp, double old, double A) {
    tokens.push_back(0);
    mask.push_back(in ? 1 : 0);
    logps.push_back(logp);
    old_logps.push_back(old);
    advantages.push_back(A);
    slopes.push_back(7.0);
  }
  sequences_view view() const { return {tokens, offsets, mask}; }
  double gspo(gspo_options o = {}, policy_gradient_statistics* statistics = nullptr) {
    return gspo_loss<double>({.logps = logps, .old_logps = old_logps, .advantages = advantages}, view(), slopes,
                             aggregation_totals_of(view()), gspo_options::paper_aggregation, o, statistics);
  }
};

}  // namespace

TEST_CASE("gspo: value and slope of a response are the paper's, by dual numbers and complex step to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  double worst = 0.0;
  std::size_t clipped = 0, all = 0;
  for (gspo_options const& o : {gspo_options{}, gspo_options{.cliprange = 0.1, .cliprange_high = 0.0},
                                gspo_options{.cliprange = 1.0, .cliprange_high = 2.0}})
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      random_stream stream(seed);
      double const d = (o.cliprange < 0.01 ? 4e-4 : 0.3) * stream.normal(), A = stream.normal();
      auto const ours = gspo_objective(d, A, o);
      double const high = 1.0 + (o.cliprange_high > 0 ? o.cliprange_high : o.cliprange);
      double const s = std::exp(d), clip = std::min(std::max(s, 1.0 - o.cliprange), high);
      worst = std::max(worst, relative_error(ours.value, -std::min(s * A, clip * A)));
      worst = std::max(worst, relative_error(ours.slope, gspo_objective(dual(d, 1), dual(A), o).value.derivative));
      double const by_step = gspo_objective(complex(d, 1e-100), complex(A), o).value.imag() * 1e100;
      worst = std::max(worst, relative_error(ours.slope, by_step));
      clipped += ours.clipped ? 1 : 0;
      ++all;
    }
  CHECK(worst <= 1e-12);
  CHECK(clipped > all / 10);
}

TEST_CASE("gspo: a response of one token is PPO's, bit for bit") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    responses one({1, 1, 1}, seed, 0.2), other({1, 1, 1}, seed, 0.2);
    double const gspo = one.gspo({.cliprange = 0.1, .cliprange_high = 0.2});
    double const ppo =
        ppo_loss<double>({.logps = other.logps, .old_logps = other.old_logps, .advantages = other.advantages},
                         other.view(), other.slopes, aggregation_totals_of(other.view()),
                         loss_aggregation::sequence_mean, {.cliprange = 0.1, .cliprange_high = 0.2});
    CHECK(gspo == ppo);
    CHECK(one.slopes == other.slopes);
  }
  proofs::law("gspo", "a response of one token is PPO's");
}

TEST_CASE("gspo: all tokens of a response have one slope, -A s / (n N), and none where the response is clipped") {
  double worst = 0.0;
  std::size_t clipped = 0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    responses r({1, 4, 9}, seed, 0.3);
    r.gspo({.cliprange = 0.1, .cliprange_high = 0.1});
    for (std::size_t b = 0; b < 3; ++b) {
      double mean = 0.0, n = 0.0;
      for (std::size_t t = r.offsets[b] + 1; t < r.offsets[b + 1]; ++t) mean += r.logps[t] - r.old_logps[t], n += 1.0;
      double const s = std::exp(mean / n), A = r.advantages[r.offsets[b] + 1];
      bool const bounded = A > 0 ? s > 1.1 : s < 0.9;
      clipped += bounded ? 1 : 0;
      for (std::size_t t = r.offsets[b] + 1; t < r.offsets[b + 1]; ++t)
        worst = std::max(worst, relative_error(r.slopes[t], bounded ? 0.0 : -A * s / (n * 3.0)));
    }
  }
  CHECK(worst <= 1e-14);
  CHECK(clipped > 20);
  proofs::law("gspo", "every token of a response has the slope -A s / (n N), or none of them has one");
}

TEST_CASE("gspo: saying a response twice over changes nothing but the number of tokens that share its slope") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    responses once({4}, seed, 0.05), twice({4}, seed, 0.05);
    for (std::size_t t = 1; t < 5; ++t) twice.push(true, once.logps[t], once.old_logps[t], once.advantages[t]);
    twice.offsets.back() = twice.tokens.size();
    policy_gradient_statistics a, b;
    CHECK(once.gspo({.cliprange = 0.05}, &a) == doctest::Approx(twice.gspo({.cliprange = 0.05}, &b)).epsilon(1e-14));
    CHECK(a.ratio.mean() == doctest::Approx(b.ratio.mean()).epsilon(1e-14));
    for (std::size_t t = 1; t < 5; ++t) {
      CHECK(once.slopes[t] == doctest::Approx(2.0 * twice.slopes[t]).epsilon(1e-13));
      CHECK(twice.slopes[t] == twice.slopes[t + 4]);
    }
  }
  proofs::law("gspo", "the ratio's scale does not hang on the length: a response said twice has the loss of one");
}

TEST_CASE("gspo: gspo-token is gspo where a response has one advantage, and keeps them apart where it has many") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    responses one({2, 5}, seed, 0.05), other({2, 5}, seed, 0.05);
    gspo_options const by_token{.cliprange = 0.05, .token_advantages = true};
    CHECK(one.gspo({.cliprange = 0.05}) == other.gspo(by_token));
    double worst = 0.0;
    for (std::size_t t = 0; t < one.slopes.size(); ++t)
      worst = std::max(worst, relative_error(one.slopes[t], other.slopes[t]));
    CHECK(worst <= 1e-15);
  }
  responses shared({3}, 1, 1e-4), own({3}, 1, 1e-4);
  shared.advantages = own.advantages = {missing, 1.0, 2.0, 6.0};
  shared.gspo({.cliprange = 0.1});
  own.gspo({.cliprange = 0.1, .token_advantages = true});
  for (std::size_t t = 1; t < 4; ++t) {
    CHECK(shared.slopes[t] == doctest::Approx(-3.0 / 3.0).epsilon(1e-3));  // the mean advantage moves all alike
    CHECK(own.slopes[t] == doctest::Approx(-own.advantages[t] / 3.0).epsilon(1e-3));
  }
  proofs::law("gspo", "gspo-token is gspo where all advantages of a response are equal");
}

TEST_CASE("gspo: options out of range are refused by field and value") {
  auto const why = [](gspo_options o) -> std::string {
    try {
      validate(o);
    } catch (contract_violation const& e) {
      return e.what();
    }
    return "no error";
  };
  for (double const x : {0.0, -0.1, 1.01, missing})
    CHECK(why({.cliprange = x}).starts_with("expected gspo_options.cliprange in (0, 1], got "));
  for (double const x : {-0.1, missing, std::numeric_limits<double>::infinity()})
    CHECK(why({.cliprange_high = x}).starts_with("expected gspo_options.cliprange_high >= 0 and finite, got "));
  CHECK(why({.cliprange = 1.0, .cliprange_high = 1e6}) == "no error");
}
