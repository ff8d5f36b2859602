// SPDX-License-Identifier: MIT
#include <attune/objective/pairwise/wpo.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include <attune/objective/pairwise/dpo.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/proofs.hpp"

using namespace attune;

namespace {

sequences two_pairs() {
  sequences text;
  std::vector<token_id> const prompt{1}, reply{3, 4, 5};
  for (std::size_t const length : {3u, 1u, 2u, 2u}) text.push_back(prompt, std::span<token_id const>(reply).first(length));
  return text;
}

std::string message_of(auto&& f) {
  try {
    f();
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("wpo: weights are products of geometric means of pi(y) / sum pi^2") {
  sequences const text = two_pairs();
  double const nan = std::nan("");
  std::vector<double> const logps{nan, -1, -2, -3, nan, -0.5, nan, -1, -1, nan, -4, -2};
  std::vector<double> const collisions{nan, -1, -1, -1, nan, -0.25, nan, -1, -1, nan, -1, -1};
  std::vector<double> weights(2);
  wpo_weights<double>(logps, collisions, text, weights);
  CHECK(weights[0] == doctest::Approx(std::exp(-1.0 - 0.25)).epsilon(1e-15));
  CHECK(weights[1] == doctest::Approx(std::exp(0.0 - 2.0)).epsilon(1e-15));
  proofs::law("wpo", "the weight is 1 where the response is as likely as the policy's own on average");
}

TEST_CASE("wpo: a uniform policy weighs every pair 1, and weights scale loss and slopes") {
  sequences const text = two_pairs();
  std::vector<double> const uniform(text.total_tokens(), -std::log(7.0));
  std::vector<double> weights(2);
  wpo_weights<double>(uniform, uniform, text, weights);
  CHECK(weights == std::vector<double>{1.0, 1.0});
  proofs::law("wpo", "a uniform policy weighs every pair 1");

  std::vector<double> const c{-1.0, -2.0}, r{-3.0, -1.0}, zero{0.0, 0.0}, w{0.5, 3.0};
  std::vector<double> dc(2), dr(2), dc1(2), dr1(2);
  pair_logps<double> of{.chosen = c, .rejected = r, .ref_chosen = zero, .ref_rejected = zero};
  double const plain = dpo_loss<double>(of, {.chosen = dc, .rejected = dr});
  of.weights = w;
  double const loss = dpo_loss<double>(of, {.chosen = dc1, .rejected = dr1});
  CHECK(loss != plain);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(dc1[i] == doctest::Approx(w[i] * dc[i]).epsilon(1e-15));
    CHECK(dr1[i] == doctest::Approx(w[i] * dr[i]).epsilon(1e-15));
  }
}

TEST_CASE("wpo: what is not finite is named by sequence and token, an empty completion by sequence") {
  sequences const text = two_pairs();
  std::vector<double> good(text.total_tokens(), -1.0), weights(2);
  for (double const bad : {std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
    auto logps = good;
    logps[8] = bad;
    CHECK(message_of([&] { wpo_weights<double>(logps, good, text, weights); }).find("(sequence 2, token 2)") != std::string::npos);
  }
  sequences hollow;
  hollow.push_back(std::vector<token_id>{1}, std::vector<token_id>{2});
  hollow.push_back(std::vector<token_id>{1}, {});
  std::vector<double> const three(3, -1.0);
  std::vector<double> one(1);
  CHECK(message_of([&] { wpo_weights<double>(three, three, hollow, one); }) ==
        "expected wpo_weights: a masked-in token in every sequence; found none in sequence, got 1");
}
