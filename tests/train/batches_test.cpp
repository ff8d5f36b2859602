// SPDX-License-Identifier: MIT
#include <attune/train/batches.hpp>

#include "support/allocations.hpp"
#include "support/small_world.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

using namespace attune;
using attune::test::token_list;

namespace {
std::vector<std::size_t> as_vector(std::span<std::size_t const> s) { return {s.begin(), s.end()}; }
}  // namespace

TEST_CASE("epoch order: every example comes once per epoch, the last step takes what is left") {
  epoch_order order(10, 4, 7);
  CHECK(order.steps_per_epoch() == 3);
  for (std::size_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::size_t> seen;
    for (std::size_t i = 0; i < 3; ++i) {
      auto const step = order.step(3 * epoch + i);
      CHECK(step.size() == (i < 2 ? 4 : 2));
      seen.insert(seen.end(), step.begin(), step.end());
    }
    std::sort(seen.begin(), seen.end());
    for (std::size_t i = 0; i < 10; ++i) CHECK(seen[i] == i);
  }
}

TEST_CASE("epoch order: it knows how many examples the steps before took") {
  epoch_order order(10, 4, 7);
  std::size_t before = 0;
  for (std::size_t i = 0; i < 9; ++i) {
    CHECK(order.examples_before(i) == before);
    before += order.step(i).size();
  }
  CHECK(epoch_order(5, std::numeric_limits<std::size_t>::max(), 1).examples_before(3) == 15);
}

TEST_CASE("epoch order: an epoch that the batch divides has no empty last step") {
  epoch_order order(12, 4, 7);
  CHECK(order.steps_per_epoch() == 3);
  CHECK(order.step(3).size() == 4);
}

TEST_CASE("epoch order: a step is a function of its number and the seed, not of the calls before") {
  epoch_order forward(50, 8, 3), backward(50, 8, 3), other_seed(50, 8, 4);
  std::vector<std::vector<std::size_t>> steps;
  for (std::size_t i = 0; i < 20; ++i) steps.push_back(as_vector(forward.step(i)));
  for (std::size_t i = 20; i-- > 0;) CHECK(as_vector(backward.step(i)) == steps[i]);
  CHECK(as_vector(other_seed.step(0)) != steps[0]);
  CHECK(steps[0] != steps[7]);  // the second epoch has another order
}

TEST_CASE("epoch order: fractions of an epoch are rounded up to a whole step") {
  epoch_order const order(10, 4, 0);
  CHECK(order.steps_in(1.0) == 3);
  CHECK(order.steps_in(2.0) == 6);
  CHECK(order.steps_in(0.5) == 2);
  CHECK(order.steps_in(0.01) == 1);
}

TEST_CASE("epoch order: a batch larger than the dataset, even the largest number, is one step of all examples") {
  epoch_order order(5, std::numeric_limits<std::size_t>::max(), 1);
  CHECK(order.steps_per_epoch() == 1);
  CHECK(order.step(3).size() == 5);
}

TEST_CASE("epoch order: an empty dataset and a batch of none are refused") {
  CHECK_THROWS_WITH_AS(epoch_order(0, 4, 0), "expected a dataset of at least one example, got 0", contract_violation);
  CHECK_THROWS_AS(epoch_order(4, 0, 0), contract_violation);
}

TEST_CASE("step batches: micro-batches keep to the budget, examples keep their order, pairs stay whole") {
  auto const pairs = test::random_pairs(40, 9, 1, 5);
  step_batches batches(30);
  for (std::size_t i = 0; i < pairs.size(); ++i) batches.push_back(pairs[i], i);
  CHECK(batches.size() > 5);
  CHECK(batches.examples() == 40);
  CHECK(batches.sequences() == 80);
  std::size_t next = 0, tokens = 0, supervised = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    micro_batch const batch = batches[i];
    CHECK(batch.sequences.total_tokens() <= 30);
    CHECK(batch.sequences.size() == 2 * batch.examples.size());
    CHECK(batch.margins.size() == batch.examples.size());
    validate(batch.sequences, 9);
    for (std::size_t j = 0; j < batch.examples.size(); ++j, ++next) {
      CHECK(batch.examples[j] == next);
      auto const& row = pairs.rows[next];
      token_list expected = row.prompt;
      expected.insert(expected.end(), row.rejected.begin(), row.rejected.end());
      CHECK(std::ranges::equal(batch.sequences.sequence(2 * j + 1), expected));
      CHECK(completion_tokens(batch.sequences.sequence_mask(2 * j)) == row.chosen.size());
    }
    tokens += batch.sequences.total_tokens();
    supervised += completion_tokens(batch.sequences.mask);
  }
  CHECK(next == 40);
  CHECK(tokens == batches.tokens());
  CHECK(supervised == batches.supervised_tokens());
}

TEST_CASE("step batches: an example longer than the budget stands alone, and no budget means one micro-batch") {
  token_list const short_text{1}, long_text(50, 2);
  step_batches tight(10), loose(0);
  for (step_batches* const batches : {&tight, &loose}) {
    batches->push_back(demonstration{short_text, short_text}, 0);
    batches->push_back(demonstration{short_text, long_text}, 1);
    batches->push_back(demonstration{short_text, short_text}, 2);
  }
  CHECK(tight.size() == 3);
  CHECK(tight[1].sequences.total_tokens() == 51);
  CHECK(loose.size() == 1);
}

TEST_CASE("step batches: an example without a supervised token is named") {
  token_list const some{1, 2}, none;
  step_batches batches(0);
  CHECK_THROWS_WITH_AS(batches.push_back(demonstration{some, none}, 17),
                       "example 17: its completion has no token, so there is nothing to learn from it", contract_violation);
  CHECK_THROWS_AS(batches.push_back(demonstration{none, some}, 17), contract_violation);
  CHECK_THROWS_AS(batches.push_back(preference_pair{some, none, some}, 1), contract_violation);
  CHECK_THROWS_WITH_AS(batches.push_back(preference_pair{some, some, none}, 2),
                       "example 2: its rejected response has no token, so there is nothing to learn from it",
                       contract_violation);
  CHECK(batches.examples() == 0);
  CHECK(batches.size() == 0);
}

TEST_CASE("step batches: refilling allocates nothing") {
  auto const pairs = test::random_pairs(20, 9, 2);
  step_batches batches(25);
  auto const fill = [&] {
    batches.clear();
    for (std::size_t i = 0; i < pairs.size(); ++i) batches.push_back(pairs[i], i);
  };
  fill();
  auto const before = allocations();
  fill();
  CHECK(allocations() == before);
}

TEST_CASE("step batches: judgements and weights travel with their example") {
  auto feedback = test::random_feedback(20, 9, 1, 5);
  for (std::size_t i = 0; i < 20; ++i) feedback.rows[i].weight = 0.5 * static_cast<double>(i);
  step_batches batches(30);
  for (int round = 0; round < 2; ++round) {  // the second in used memory
    batches.clear();
    for (std::size_t i = 0; i < 20; ++i) batches.push_back(feedback[i], i);
    CHECK(batches.size() > 3);
    CHECK(batches.sequences() == 20);
    for (std::size_t i = 0; i < batches.size(); ++i) {
      micro_batch const batch = batches[i];
      REQUIRE(batch.desirable.size() == batch.examples.size());
      REQUIRE(batch.weights.size() == batch.examples.size());
      CHECK(batch.margins.empty());
      CHECK(batch.labels.empty());
      for (std::size_t j = 0; j < batch.examples.size(); ++j) {
        auto const& row = feedback.rows[batch.examples[j]];
        CHECK(batch.desirable[j] == (row.desirable ? 1 : 0));
        CHECK(batch.weights[j] == row.weight);
        CHECK(completion_tokens(batch.sequences.sequence_mask(j)) == row.completion.size());
      }
    }
  }
  token_list const some{1, 2}, none;
  CHECK_THROWS_WITH_AS(batches.push_back(judged_completion{some, none, true}, 3),
                       "example 3: its completion has no token, so there is nothing to learn from it",
                       contract_violation);
}

TEST_CASE("step batches: a step of a solution is marked at the token after it, the last one too") {
  token_list const prompt{7, 8}, completion{1, 2, 3, 4};
  std::vector<std::size_t> const ends{1, 4};
  std::vector<std::uint8_t> const labels{1, 0};
  step_batches batches(0);
  batches.push_back(stepwise_completion{prompt, completion, ends, labels}, 0);
  batches.push_back(stepwise_completion{prompt, completion, ends, labels}, 1);
  REQUIRE(batches.size() == 1);
  micro_batch const batch = batches[0];
  CHECK(std::ranges::equal(batch.sequences.sequence(1), token_list{7, 8, 1, 2, 3, 4, 4}));
  for (std::size_t b = 0; b < 2; ++b) {
    auto const mask = batch.sequences.sequence_mask(b);
    CHECK(std::vector<int>(mask.begin(), mask.end()) == std::vector<int>{0, 0, 0, 1, 0, 0, 1});
    CHECK(batch.labels[batch.sequences.offsets[b] + 3] == 1);
    CHECK(batch.labels[batch.sequences.offsets[b] + 6] == 0);
  }
  CHECK(batch.labels.size() == batch.sequences.total_tokens());
  CHECK(batches.supervised_tokens() == 4);
  CHECK(batches.tokens() == 14);
  validate(batch.sequences, 9);
}

TEST_CASE("step batches: steps that cannot be are named with their example") {
  token_list const some{1, 2, 3};
  step_batches batches(0);
  auto const refusal = [&](std::vector<std::size_t> const& ends, std::vector<std::uint8_t> const& labels) {
    std::string why = "no error";
    try {
      batches.push_back(stepwise_completion{some, some, ends, labels}, 5);
    } catch (contract_violation const& e) {
      why = e.what();
    }
    return why;
  };
  CHECK(refusal({}, {}) == "example 5: it has no step, so there is nothing to learn from it");
  CHECK(refusal({1, 3}, {1}) == "example 5: it has 2 steps and 1 labels");
  std::string const ascending = ", expected ends in ascending order within the completion";
  CHECK(refusal({0}, {1}) == "example 5: step 0 ends at token 0" + ascending);
  CHECK(refusal({2, 2}, {1, 1}) == "example 5: step 1 ends at token 2" + ascending);
  CHECK(refusal({4}, {1}) == "example 5: step 0 ends at token 4" + ascending);
  CHECK(refusal({2}, {3}) == "example 5: label 0 is 3, expected 0 or 1");
  CHECK(batches.examples() == 0);
}
