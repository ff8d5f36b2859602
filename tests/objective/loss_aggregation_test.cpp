// SPDX-License-Identifier: MIT
#include <attune/objective/loss_aggregation.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <attune/core/random.hpp>

using namespace attune;

namespace {

auto const aggregations = {loss_aggregation::token_mean, loss_aggregation::sequence_mean,
                           loss_aggregation::sequence_sum, loss_aggregation::constant};

// Completions of 1, 3, 2, 5 and 4 tokens after a prompt of 2.
struct step {
  sequences text;

  step(std::initializer_list<std::size_t> lengths = {1, 3, 2, 5, 4}) {
    std::vector<token_id> const prompt{1, 2}, reply{3, 4, 5, 6, 7};
    for (std::size_t const length : lengths) text.push_back(prompt, std::span<token_id const>(reply).first(length));
  }
  std::string message_of(loss_aggregation a, aggregation_totals totals) const {
    try {
      validate(a, totals, text);
    } catch (contract_violation const& e) {
      return e.what();
    }
    return "no error";
  }
};

// The loss of a batch that holds sequences [first, last) of s, out of per-token losses that are those of the step.
double share(loss_aggregation a, aggregation_totals totals, sequences_view s, std::vector<double> const& losses,
             std::size_t first, std::size_t last, std::vector<double>& weights) {
  double sum = 0;
  for (std::size_t b = first; b < last; ++b)
    for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
      if (s.mask[t] != 0) {
        weights[t] = token_weight(a, totals, completion_tokens(s.sequence_mask(b)));
        sum += weights[t] * losses[t];
      }
  return sum;
}

}  // namespace

TEST_CASE("loss_aggregation: each is the mean it is named after") {
  step const s;
  auto const view = s.text.view();
  random_stream stream(1);
  std::vector<double> losses, weights(view.total_tokens());
  for (std::size_t t = 0; t < view.total_tokens(); ++t) losses.push_back(stream.normal());
  double tokens = 0, sequence_means = 0, sequence_sums = 0;
  for (std::size_t b = 0; b < view.size(); ++b) {
    double sum = 0, count = 0;
    for (std::size_t t = view.offsets[b]; t < view.offsets[b + 1]; ++t)
      if (view.mask[t] != 0) {
        sum += losses[t];
        ++count;
      }
    tokens += sum;
    sequence_means += sum / count;
    sequence_sums += sum;
  }
  aggregation_totals totals = aggregation_totals_of(view);
  CHECK(totals.tokens == 15);
  CHECK(totals.sequences == 5);
  totals.constant_length = 8;
  auto const loss = [&](loss_aggregation a) { return share(a, totals, view, losses, 0, view.size(), weights); };
  CHECK(loss(loss_aggregation::token_mean) == doctest::Approx(tokens / 15).epsilon(1e-14));
  CHECK(loss(loss_aggregation::sequence_mean) == doctest::Approx(sequence_means / 5).epsilon(1e-14));
  CHECK(loss(loss_aggregation::sequence_sum) == doctest::Approx(sequence_sums / 5).epsilon(1e-14));
  CHECK(loss(loss_aggregation::constant) == doctest::Approx(sequence_sums / 5 / 8).epsilon(1e-14));
}

TEST_CASE("loss_aggregation: however a step is cut into micro-batches, weights keep their bits and shares add up") {
  step const s;
  auto const view = s.text.view();
  random_stream stream(2);
  std::vector<double> losses;
  for (std::size_t t = 0; t < view.total_tokens(); ++t) losses.push_back(stream.normal());
  aggregation_totals totals = aggregation_totals_of(view);
  totals.constant_length = 5;
  for (loss_aggregation const a : aggregations) {
    std::vector<double> whole(view.total_tokens());
    double const loss = share(a, totals, view, losses, 0, view.size(), whole);
    for (std::size_t size = 1; size <= 5; ++size) {
      std::vector<double> parts(view.total_tokens());
      double sum = 0;
      for (std::size_t first = 0; first < view.size(); first += size)
        sum += share(a, totals, view, losses, first, std::min(first + size, view.size()), parts);
      CHECK(parts == whole);
      CHECK(sum == doctest::Approx(loss).epsilon(1e-14));
    }
  }
}

TEST_CASE("loss_aggregation: totals that cannot be a step's are refused by name") {
  step const s;
  aggregation_totals const good{.tokens = 15, .sequences = 5, .constant_length = 8};
  for (loss_aggregation const a : aggregations) CHECK(s.message_of(a, good) == "no error");
  auto const with = [&](loss_aggregation a, auto change) {
    aggregation_totals totals = good;
    change(totals);
    return s.message_of(a, totals);
  };
  CHECK(with(loss_aggregation::token_mean, [](auto& t) { t.tokens = 0; }) ==
        "expected aggregation_totals.tokens > 0, a step with a masked-in token");
  CHECK(with(loss_aggregation::token_mean, [](auto& t) { t.tokens = 14; }) ==
        "expected aggregation_totals.tokens >= the masked-in tokens of the batch, got 14");
  for (loss_aggregation const a :
       {loss_aggregation::sequence_mean, loss_aggregation::sequence_sum, loss_aggregation::constant}) {
    CHECK(with(a, [](auto& t) { t.sequences = 0; }) ==
          "expected aggregation_totals.sequences > 0, a step with a sequence");
    CHECK(with(a, [](auto& t) { t.sequences = 4; }) ==
          "expected aggregation_totals.sequences >= the sequences of the batch, got 4");
    CHECK(with(a, [](auto& t) { t.tokens = 0; }) == "no error");  // not read
  }
  for (double const length : {0.0, -1.0, std::nan(""), HUGE_VAL})
    CHECK(with(loss_aggregation::constant, [&](auto& t) { t.constant_length = length; })
              .starts_with(
                  "expected aggregation_totals.constant_length > 0 and finite (loss_aggregation::constant), got "));
  CHECK(with(loss_aggregation::sequence_sum, [](auto& t) { t.constant_length = 0; }) == "no error");
}

TEST_CASE("loss_aggregation: only a mean over its own tokens needs a completion that is not empty") {
  step const s{2, 0, 1};
  aggregation_totals const totals{.tokens = 3, .sequences = 3, .constant_length = 8};
  CHECK(s.message_of(loss_aggregation::sequence_mean, totals) ==
        "expected loss_aggregation::sequence_mean: a masked-in token in every sequence; found none in sequence, got 1");
  for (auto const a : {loss_aggregation::token_mean, loss_aggregation::sequence_sum, loss_aggregation::constant})
    CHECK(s.message_of(a, totals) == "no error");
}
