// SPDX-License-Identifier: MIT
#include <attune/objective/pairwise/pairs_on_tokens.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/pairwise/preference_loss.hpp>
#include <attune/objective/pairwise/simpo.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/objective/token_objectives.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/two_pairs.hpp"

using namespace attune;

static_assert(TokenObjective<dpo_on_tokens, float> && TokenObjective<pairs_on_tokens<simpo_options>, double>);
static_assert(TokenObjective<pairs_on_tokens<preference_loss>, float>);

using batch = test::two_pairs;

TEST_CASE("dpo_on_tokens: a policy equal to its reference has loss log 2, and beta / 2 / pairs on every token") {
  batch b;
  auto const reference = b.sums();
  CHECK(b.ask(dpo_on_tokens(reference, {.beta = 0.4})) == doctest::Approx(std::numbers::ln2).epsilon(1e-14));
  auto const view = b.text.view();
  for (std::size_t i = 0; i < view.size(); ++i)
    for (std::size_t t = view.offsets[i]; t < view.offsets[i + 1]; ++t)
      CHECK(b.slopes[t] == doctest::Approx(view.mask[t] == 0 ? 0.0 : i % 2 == 0 ? -0.1 : 0.1));
}

TEST_CASE("dpo_on_tokens: every token's slope agrees with a central difference of the loss") {
  batch b;
  std::vector<double> const reference{-5.0, -1.0, -3.0, -9.0};
  dpo_on_tokens objective(reference, {.beta = 0.5, .label_smoothing = 0.1}, {.pairs = 3});
  b.ask(objective);
  auto const slopes = b.slopes;
  auto const report = testing::check_gradient([&] { return b.ask(objective); }, b.logps, slopes);
  CHECK(report.worst_error <= 1e-8);
}

TEST_CASE("dpo_on_tokens: takes the next batch's reference, and stops allocating") {
  batch b;
  std::vector<double> const first{-5.0, -1.0, -3.0, -9.0}, second{-1.0, -1.0, -1.0, -1.0};
  dpo_on_tokens objective(first);
  double const loss = b.ask(objective);
  std::size_t const before = allocations();
  objective.set_reference(second);
  CHECK(b.ask(objective) != loss);
  objective.set_reference(first);
  CHECK(b.ask(objective) == loss);
  CHECK(allocations() == before);
}

TEST_CASE("dpo_on_tokens: half a pair, a missing reference, an empty completion and NaN are refused by name") {
  batch b;
  std::vector<double> const reference{-5.0, -1.0, -3.0, -9.0};
  CHECK(b.message_of(dpo_on_tokens(std::span(reference).first(3))) ==
        "expected pairs_on_tokens: one reference log-probability per sequence, got 3");
  b.logps[2] = std::nan("");
  CHECK(b.message_of(dpo_on_tokens(reference)) == "expected pair_loss: chosen[0] finite, got nan");
  batch odd;
  std::vector<token_id> const prompt{1};
  odd.text.push_back(prompt, prompt);
  odd.logps.resize(odd.logps.size() + 2);
  odd.slopes.resize(odd.logps.size());
  CHECK(odd.message_of(dpo_on_tokens(reference)) ==
        "expected pairs_on_tokens: an even number of sequences, chosen and rejected in turn, got 5");
  odd.text.push_back(prompt, {});
  odd.logps.resize(odd.logps.size() + 1);
  odd.slopes.resize(odd.logps.size());
  std::vector<double> const six(6, -1.0);
  CHECK(odd.message_of(dpo_on_tokens(six)) ==
        "expected pairs_on_tokens: a masked-in token in every sequence; found none in sequence, got 5");
  CHECK_THROWS_AS(dpo_on_tokens(reference, {.beta = 0.0}), contract_violation);
}

TEST_CASE("pairs_on_tokens: a loss without a reference needs none, and with ld_alpha every slope is still the loss's") {
  batch b;
  pairs_on_tokens<preference_loss> objective({}, preference_loss({.losses = {{simpo_options{}, 1.0}, {sft_term_options{}, 0.3}}}),
                                             {}, {}, 0.4);
  b.ask(objective);
  auto const slopes = b.slopes;
  CHECK(testing::check_gradient([&] { return b.ask(objective); }, b.logps, slopes).worst_error <= 1e-8);
  CHECK(b.message_of(dpo_on_tokens({})) == "expected pair_loss: ref_chosen.size() == chosen.size(), got 0");
  CHECK_THROWS_AS(pairs_on_tokens<preference_loss>({}, preference_loss(), {}, {.reference_free = true}), contract_violation);
}
