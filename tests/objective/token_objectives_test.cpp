// SPDX-License-Identifier: MIT
#include <attune/objective/token_objectives.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"

using namespace attune;

static_assert(TokenObjective<sft_on_tokens const, float> && !SmoothedTokenObjective<sft_on_tokens, float>);
static_assert(SmoothedTokenObjective<smoothed_sft_on_tokens const, double> &&
              !TokenObjective<smoothed_sft_on_tokens, double>);

namespace {

// Two pairs.
struct batch {
  sequences text;
  std::vector<double> logps, slopes;

  batch() {
    std::vector<token_id> const prompt{1, 2}, reply{3, 4, 5};
    for (std::size_t length : {3u, 1u, 2u, 2u}) text.push_back(prompt, std::span<token_id const>(reply).first(length));
    random_stream stream(3);
    for (std::uint8_t const m : text.view().mask) logps.push_back(m != 0 ? -4.0 * stream.uniform() : 0.0);
    slopes.assign(logps.size(), 0.0);
  }
  std::vector<double> sums() const {
    std::vector<double> result(text.size());
    sequence_sums<double>(logps, text, result);
    return result;
  }
  template <class Objective>
  double ask(Objective&& objective) {
    return objective(text.view(), std::span<double const>(logps), std::span<double>(slopes));
  }
  template <class Objective>
  std::string message_of(Objective&& objective) {
    try {
      ask(objective);
    } catch (contract_violation const& e) {
      return e.what();
    }
    return "no error";
  }
};

}  // namespace

TEST_CASE("sft_on_tokens: without totals the batch is the whole step, with them a share of it") {
  batch b;
  double const alone = b.ask(sft_on_tokens{});
  auto const slopes = b.slopes;
  double const share = b.ask(sft_on_tokens{.totals = {.tokens = 16, .sequences = 4}});
  CHECK(share == doctest::Approx(alone / 2));
  for (std::size_t t = 0; t < slopes.size(); ++t) CHECK(b.slopes[t] == slopes[t] / 2);
  CHECK(slopes[2] == -1.0 / 8);
}

TEST_CASE("sft_on_tokens: label smoothing, which it cannot see to, is refused and not ignored") {
  CHECK(batch()
            .message_of(sft_on_tokens{.options = {.label_smoothing = 0.1}})
            .starts_with("expected sft_on_tokens: label_smoothing == 0 (smoothed_sft_on_tokens has it), got 0.1"));
}

TEST_CASE("smoothed_sft_on_tokens: is sft_loss with the means") {
  batch b;
  std::vector<double> const means(b.logps.size(), -2.0);
  std::vector<double> mean_slopes(b.logps.size()), slopes(b.logps.size()), expected(b.logps.size());
  smoothed_sft_on_tokens const objective{.options = {.label_smoothing = 0.2}};
  double const loss = objective(b.text.view(), std::span<double const>(b.logps), std::span<double const>(means),
                                std::span<double>(slopes), std::span<double>(mean_slopes));
  CHECK(loss == sft_loss<double>({b.logps, means}, b.text, {b.slopes, expected}, {8, 4}, {.label_smoothing = 0.2}));
  CHECK(slopes == b.slopes);
  CHECK(mean_slopes == expected);
}
