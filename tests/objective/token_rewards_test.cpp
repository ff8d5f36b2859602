// SPDX-License-Identifier: MIT
#include <attune/objective/token_rewards.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"

using namespace attune;
using testing::relative_error;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

// The second sequence has a gap, and a masked-out token after its last completion token.
struct batch {
  std::vector<token_id> tokens = std::vector<token_id>(9, 1);
  std::vector<std::size_t> offsets{0, 3, 9};
  std::vector<std::uint8_t> mask{0, 1, 1, 0, 1, 1, 0, 1, 0};
  std::vector<double> logps{missing, -1, -2, missing, -1, -3, inf, -2, missing};
  std::vector<double> ref_logps{missing, -2, -1, -inf, -1, -1, missing, -4, missing};
  std::vector<double> scores{10, 20}, rewards = std::vector<double>(9, 7.0);

  sequences_view view() const { return {tokens, offsets, mask}; }
  void run(token_rewards_options o = {}) {
    token_rewards<double>({.logps = logps, .ref_logps = ref_logps, .scores = scores}, view(), rewards, o);
  }
};

std::string message_of(batch b, token_rewards_options o = {}) {
  auto const before = b.rewards;
  try {
    b.run(o);
  } catch (contract_violation const& e) {
    CHECK(b.rewards == before);  // nothing half-written
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("token_rewards: each token pays for its log-ratio, and the last masked-in one bears the score") {
  batch b;
  b.run({.kl_coef = 0.5});
  CHECK(b.rewards == std::vector<double>{0, -0.5, 10.5, 0, 0, 21.0 - 20.0, 0, 19, 0});
  b.run({.kl_coef = 0.5, .estimator = kl_estimator::k2});
  CHECK(b.rewards == std::vector<double>{0, -0.25, 9.75, 0, 0, -1, 0, 19, 0});
}

TEST_CASE("token_rewards: under k1 a sequence's rewards add up to score - kl_coef log(pi / ref)") {
  batch b;
  b.run({.kl_coef = 0.3});
  CHECK(b.rewards[1] + b.rewards[2] == doctest::Approx(10 - 0.3 * (1 - 1)));
  CHECK(b.rewards[4] + b.rewards[5] + b.rewards[7] == doctest::Approx(20 - 0.3 * (0 - 2 + 2)));
}

TEST_CASE("token_rewards: a policy equal to its reference pays nothing, whatever the estimator") {
  for (auto const estimator : {kl_estimator::k1, kl_estimator::k2, kl_estimator::k3}) {
    batch b;
    b.ref_logps = b.logps;
    b.run({.kl_coef = 3, .estimator = estimator});
    CHECK(b.rewards == std::vector<double>{0, 0, 10, 0, 0, 0, 0, 20, 0});
  }
}

TEST_CASE("token_rewards: are TRL's, in PyTorch") {
  auto const cases = read_golden("token_rewards.txt");
  CHECK(cases.size() >= 15);
  for (golden_case const& c : cases) {
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    std::vector<token_id> const tokens(mask.size(), 0);
    std::vector<double> rewards(mask.size(), 7.0);
    auto const estimator = static_cast<kl_estimator>(c.integers<int>("estimator")[0] - 1);
    token_rewards<double>({c["logps"], c["ref_logps"], c["scores"]}, {tokens, offsets, mask}, rewards,
                          {c.number("kl_coef"), estimator});
    for (std::size_t t = 0; t < rewards.size(); ++t) CHECK(relative_error(rewards[t], c["rewards"][t], 1e-3) <= 1e-12);
  }
}

TEST_CASE("token_rewards: f32 is the double result rounded; in place; finite for finite input; allocates nothing") {
  batch b;
  b.run();
  std::vector<float> logps(b.logps.begin(), b.logps.end()), ref(b.ref_logps.begin(), b.ref_logps.end());
  std::size_t const before = allocations();
  token_rewards<float>({logps, ref, b.scores}, b.view(), logps);
  CHECK(allocations() == before);
  for (std::size_t t = 0; t < 9; ++t) CHECK(logps[t] == static_cast<float>(b.rewards[t]));
  double const most = (std::numeric_limits<double>::max)();
  b.logps[1] = b.logps[5] = -most;
  b.ref_logps[1] = b.scores[0] = most;
  for (auto const estimator : {kl_estimator::k1, kl_estimator::k2, kl_estimator::k3}) {
    b.run({.kl_coef = 10, .estimator = estimator});
    for (double const r : b.rewards) CHECK(std::isfinite(r));
  }
}

TEST_CASE("token_rewards: a score with no token to bear it is refused with its sequence") {
  batch b;
  b.mask = {0, 1, 1, 0, 0, 0, 0, 0, 0};
  CHECK(
      message_of(b) ==
      "expected token_rewards: a masked-in token in every sequence, to bear its score; found none in sequence, got 1");
}

TEST_CASE("token_rewards: what is missing, broken or out of range is refused by name") {
  auto const with = [](std::vector<double> batch::*field, std::size_t i, double value) {
    batch b;
    (b.*field)[i] = value;
    return message_of(b);
  };
  CHECK(with(&batch::logps, 7, missing) == "expected token_rewards: logps[7] finite (sequence 1, token 4), got nan");
  CHECK(with(&batch::ref_logps, 1, inf) ==
        "expected token_rewards: ref_logps[1] finite (sequence 0, token 1), got inf");
  CHECK(with(&batch::scores, 1, missing) == "expected token_rewards: scores[1] finite, got nan");
  auto const shortened = [](std::vector<double> batch::*field) {
    batch b;
    (b.*field).pop_back();
    return message_of(b);
  };
  CHECK(shortened(&batch::logps) == "expected token_rewards: logps.size() == batch.total_tokens(), got 8");
  CHECK(shortened(&batch::ref_logps) == "expected token_rewards: ref_logps.size() == batch.total_tokens(), got 8");
  CHECK(shortened(&batch::scores) == "expected token_rewards: scores.size() == batch.size(), got 1");
  CHECK(shortened(&batch::rewards) == "expected token_rewards: rewards.size() == batch.total_tokens(), got 8");
  for (double const coef : {-0.1, missing, inf})
    CHECK(message_of(batch(), {.kl_coef = coef})
              .starts_with("expected token_rewards_options.kl_coef >= 0 and finite, got "));
}
