// SPDX-License-Identifier: MIT
#include <attune/objective/policy_gradient_surrogate.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace attune;

namespace {

std::string why(policy_gradient_surrogate const& s) {
  try {
    validate(s);
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("policy gradient surrogate: it is validated as what it holds") {
  CHECK(why({}) == "no error");
  CHECK(why(gspo_options{}) == "no error");
  CHECK(why(cispo_options{}) == "no error");
  CHECK(why(sapo_options{}) == "no error");
  CHECK(why(ppo_options{.cliprange = 2}) == "expected ppo_options.cliprange in (0, 1], got 2");
  CHECK(why(gspo_options{.cliprange = 2}) == "expected gspo_options.cliprange in (0, 1], got 2");
  CHECK(why(cispo_options{.epsilon_high = 0.5}) == "expected cispo_options.epsilon_high >= 1 and finite, got 0.5");
  CHECK(why(sapo_options{.sapo_temperature_pos = 0}) ==
        "expected sapo_options.sapo_temperature_pos > 0 and finite, got 0");
}

TEST_CASE("policy gradient surrogate: the aggregation is the paper's") {
  CHECK(paper_aggregation_of(ppo_options{}) == loss_aggregation::token_mean);
  CHECK(paper_aggregation_of(gspo_options{}) == loss_aggregation::sequence_mean);
  CHECK(paper_aggregation_of(cispo_options{}) == loss_aggregation::token_mean);
  CHECK(paper_aggregation_of(sapo_options{}) == loss_aggregation::sequence_mean);
}
