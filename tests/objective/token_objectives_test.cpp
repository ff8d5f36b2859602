// SPDX-License-Identifier: MIT
#include <attune/objective/token_objectives.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/two_pairs.hpp"

using namespace attune;

static_assert(TokenObjective<sft_on_tokens const, float> && TermedTokenObjective<sft_on_tokens const, double>);
static_assert(TermedTokenObjective<with_entropy_bonus<dpo_on_tokens>, float> &&
              !TokenObjective<with_entropy_bonus<dpo_on_tokens>, float>);
static_assert(TermedTokenObjective<with_entropy_bonus<sft_on_tokens>, double>);

using batch = test::two_pairs;

TEST_CASE("sft_on_tokens: without totals the batch is the whole step, with them a share of it") {
  batch b;
  double const alone = b.ask(sft_on_tokens{});
  auto const slopes = b.slopes;
  double const share = b.ask(sft_on_tokens{.totals = {.tokens = 16, .sequences = 4}});
  CHECK(share == doctest::Approx(alone / 2));
  for (std::size_t t = 0; t < slopes.size(); ++t) CHECK(b.slopes[t] == slopes[t] / 2);
  CHECK(slopes[2] == -1.0 / 8);
}

TEST_CASE("sft_on_tokens: label smoothing and z-loss without the terms they read are refused and not ignored") {
  for (sft_options const o : {sft_options{.label_smoothing = 0.1}, sft_options{.z_loss_coef = 0.1}})
    CHECK(batch().message_of(sft_on_tokens{.options = o}) ==
          "expected sft_on_tokens: label_smoothing == 0 and z_loss_coef == 0, since no terms were given");
  CHECK(batch().message_of(sft_on_tokens{.options = {.loss_type = sft_loss_type::dft}}) == "no error");
}

TEST_CASE("sft_on_tokens: says which terms its options read, and is sft_loss with them") {
  CHECK(!sft_on_tokens{}.terms().any());
  CHECK(!sft_on_tokens{.options = {.loss_type = sft_loss_type::dft}}.terms().any());
  CHECK(sft_on_tokens{.options = {.z_loss_coef = 0.1}}.terms() == token_terms{.log_normalizers = true});
  batch b;
  std::vector<double> const means(b.logps.size(), -2.0), normalizers(b.logps.size(), 3.0);
  std::array<std::vector<double>, 3> slopes, expected;
  for (std::size_t k = 0; k < 3; ++k) slopes[k] = expected[k] = std::vector<double>(b.logps.size());
  sft_options const o{.label_smoothing = 0.2, .z_loss_coef = 0.1};
  sft_on_tokens const objective{.options = o};
  CHECK(objective.terms() == token_terms{.mean_logps = true, .log_normalizers = true});
  double const loss =
      objective(b.text.view(), term_values<double const>{.logps = b.logps, .mean_logps = means, .log_normalizers = normalizers},
                term_slopes<double>{.logps = slopes[0], .mean_logps = slopes[1], .log_normalizers = slopes[2]});
  CHECK(loss ==
        sft_loss<double>({b.logps, means, normalizers}, b.text, {expected[0], expected[1], expected[2]}, {8, 4}, o));
  CHECK(slopes == expected);
}

TEST_CASE("with_entropy_bonus: its objective less coef times the mean entropy; the objective's slopes stay") {
  batch b;
  auto const reference = b.sums();
  std::size_t const n = b.logps.size();
  double const plain = b.ask(dpo_on_tokens(reference));
  auto const mask = b.text.view().mask;
  std::vector<double> entropies(n), slopes(n), entropy_slopes(n);
  double sum = 0.0, tokens = 0.0;
  for (std::size_t t = 0; t < n; ++t) {
    entropies[t] = mask[t] != 0 ? 0.1 * static_cast<double>(t + 1) : std::nan("");
    if (mask[t] != 0) sum += entropies[t], tokens += 1.0;
  }
  auto const ask = [&](auto objective) {
    CHECK(objective.terms() == token_terms{.entropies = true});
    slopes.assign(n, 0.0);
    entropy_slopes.assign(n, 0.0);
    return objective(b.text.view(), term_values<double const>{.logps = b.logps, .entropies = entropies},
                     term_slopes<double>{.logps = slopes, .entropies = entropy_slopes});
  };
  with_entropy_bonus const bonus(dpo_on_tokens(reference), 0.3);
  CHECK(ask(bonus) == doctest::Approx(plain - 0.3 * sum / tokens).epsilon(1e-14));
  CHECK(slopes == b.slopes);
  for (std::size_t t = 0; t < n; ++t) CHECK(entropy_slopes[t] == doctest::Approx(mask[t] != 0 ? -0.3 / tokens : 0.0));
  aggregation_totals const step{.tokens = 2 * static_cast<std::size_t>(tokens), .sequences = 8, .constant_length = 5.0};
  CHECK(ask(with_entropy_bonus(dpo_on_tokens(reference), 0.3, step)) ==
        doctest::Approx(plain - 0.15 * sum / tokens).epsilon(1e-14));
  CHECK(ask(with_entropy_bonus(dpo_on_tokens(reference), 0.3, step, loss_aggregation::constant)) ==
        doctest::Approx(plain - 0.3 * sum / 40.0).epsilon(1e-14));
  CHECK(ask(with_entropy_bonus(with_entropy_bonus(dpo_on_tokens(reference), 0.1), 0.2)) ==
        doctest::Approx(plain - 0.3 * sum / tokens).epsilon(1e-14));
  for (std::size_t t = 0; t < n; ++t) CHECK(entropy_slopes[t] == doctest::Approx(mask[t] != 0 ? -0.3 / tokens : 0.0));

  for (double const coef : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    std::string said = "no error";
    try {
      with_entropy_bonus const refused(sft_on_tokens{}, coef);
    } catch (contract_violation const& e) {
      said = e.what();
    }
    CHECK(said.starts_with("expected with_entropy_bonus: coef > 0 and finite, got "));
  }
  entropies[n - 1] = std::nan("");
  try {
    ask(with_entropy_bonus(sft_on_tokens{}, 0.3));
    FAIL("not refused");
  } catch (contract_violation const& e) {
    CHECK(std::string(e.what()).starts_with("expected with_entropy_bonus: entropies[" + std::to_string(n - 1) + "] finite"));
  }
  CHECK(slopes == std::vector<double>(n));  // nothing half-written
}
