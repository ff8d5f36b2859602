// SPDX-License-Identifier: MIT
#include <attune/train/process_reward_trainer.hpp>

#include "support/golden_file.hpp"
#include "support/keep_worst.hpp"
#include "support/proofs.hpp"
#include "support/recording_sgd.hpp"
#include "support/small_world.hpp"
#include "support/temporary_folder.hpp"
#include "support/token_value.hpp"

#include <attune/model/value_head.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/checkpoint.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <vector>

using namespace attune;

namespace {

template <class Model>
std::vector<double> values_of(Model& model) {
  std::vector<double> out;
  for (auto&& p : model.parameters())
    for (auto const v : p.value) out.push_back(static_cast<double>(v));
  return out;
}

}  // namespace

TEST_CASE(
    "process reward trainer: a critic of zeros starts at log 2, and its first gradient counts labels per step's last "
    "token") {
  auto const solutions = test::random_solutions(20, 5, 1);
  for (bool const last_only : {false, true}) {
    test::token_value<double> model(5);
    test::recording_sgd optimizer;
    process_reward_trainer trainer{model,
                                   optimizer,
                                   {.loop = {.max_steps = 1, .batch_size = 20, .micro_batch_tokens = 30},
                                    .process_reward = {.train_on_last_step_only = last_only}}};
    auto const summary = trainer.fit(solutions);
    CHECK(summary.first_loss == doctest::Approx(std::numbers::ln2).epsilon(1e-14));
    std::vector<double> expected(5);
    double steps = 0.0;
    for (auto const& row : solutions.rows)
      for (std::size_t i = last_only ? row.step_ends.size() - 1 : 0; i < row.step_ends.size(); ++i, ++steps)
        expected[static_cast<std::size_t>(row.completion[row.step_ends[i] - 1])] += row.labels[i] != 0 ? -0.5 : 0.5;
    double worst = 0.0;
    for (std::size_t v = 0; v < 5; ++v)
      test::keep_worst(worst, {std::abs(expected[v] / steps - optimizer.gradients[0][v])});
    CHECK(worst <= 1e-15);
  }
  proofs::law("process_reward", "first gradient of a token-wise critic equals its closed form");
}

TEST_CASE("process reward trainer: the optimum is the logit of the share of correct steps") {
  // Scores hang on the step's last token alone; token v ends a correct step in v of 5 cases.
  test::solution_list solutions;
  for (token_id v = 1; v < 5; ++v)
    for (token_id i = 0; i < 5; ++i) solutions.rows.push_back({{0}, {0, v}, {2}, {static_cast<std::uint8_t>(i < v)}});
  test::token_value<double> model(5);
  adamw<double> optimizer;
  process_reward_trainer trainer{model,
                                 optimizer,
                                 {.loop = {.learning_rate = 0.05,
                                           .schedule = learning_rate_schedule::cosine,
                                           .max_steps = 800,
                                           .batch_size = 20,
                                           .max_grad_norm = 100.0,
                                           .logging_steps = 400}}};
  trainer.fit(solutions);
  auto const weights = values_of(model);
  for (std::size_t v = 1; v < 5; ++v)
    CHECK(weights[v] ==
          doctest::Approx(std::log(static_cast<double>(v) / (5.0 - static_cast<double>(v)))).epsilon(1e-3));
  proofs::law("process_reward", "trained to the logit of the share of correct steps");
}

TEST_CASE("process reward trainer: steps are labelled where TRL's PRMTrainer labels them") {
  for (golden_case const& c : read_golden("process_reward.txt")) {
    if (c.number("last_step_only") != 0) continue;
    auto const lengths = c.integers<std::size_t>("lengths"), prompts = c.integers<std::size_t>("prompt_lengths");
    auto const counts = c.integers<std::size_t>("step_counts"), steps = c.integers<std::size_t>("step_lengths");
    step_batches batches(0);
    std::size_t step = 0, first = 0;
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      std::size_t const prompt = prompts[b] + (c.number("bos") >= 0 ? 1 : 0);
      auto const ids = c.integers<token_id>("ids");
      std::span<token_id const> const row = std::span(ids).subspan(first, lengths[b]);
      std::vector<std::size_t> ends;
      std::vector<std::uint8_t> labels;
      for (std::size_t i = 0; i < counts[b]; ++i, ++step) {
        ends.push_back((ends.empty() ? 0 : ends.back()) + steps[step] + c["separator"].size());
        labels.push_back(c["step_labels"][step] != 0);
      }
      batches.push_back(stepwise_completion{row.first(prompt), row.subspan(prompt), ends, labels}, b);
      first += lengths[b];
    }
    micro_batch const batch = batches[0];
    std::size_t t = 0, wrong = 0;
    for (std::size_t b = 0; b < lengths.size(); ++b)
      for (std::size_t i = 0; i < lengths[b]; ++i, ++t) {
        std::size_t const after = batch.sequences.offsets[b] + i + 1;  // where the value that has read token i stands
        int const label = batch.sequences.mask[after] != 0 ? batch.labels[after] : -100;
        wrong += label != static_cast<int>(c["labels"][t]);
      }
    CHECK(wrong == 0);
  }
}

TEST_CASE("process reward trainer: micro-batches of any size give the full batch's run") {
  auto const solutions = test::random_solutions(23, 5, 1);
  for (bool const last_only : {false, true}) {
    std::vector<double> whole;
    for (std::size_t const budget : {0u, 1u, 40u}) {
      test::token_value<double> model(5);
      adamw<double> optimizer;
      process_reward_trainer trainer{
          model,
          optimizer,
          {.loop = {.learning_rate = 0.05, .epochs = 2, .batch_size = 5, .micro_batch_tokens = budget},
           .process_reward = {.train_on_last_step_only = last_only}}};
      CHECK(trainer.fit(solutions).steps == 10);
      if (budget == 0) whole = values_of(model);
      double worst = 0.0;
      for (std::size_t i = 0; i < whole.size(); ++i)
        test::keep_worst(worst, {std::abs(values_of(model)[i] - whole[i])});
      CHECK(worst <= 1e-12);
    }
  }
}

TEST_CASE("process reward trainer: evaluation counts every step, and the metrics are what they are called") {
  auto const solutions = test::random_solutions(12, 5, 1), held_out = test::random_solutions(9, 5, 2);
  test::token_value<double> model(5);
  adamw<double> optimizer;
  process_reward_trainer trainer{
      model,
      optimizer,
      {.loop = {.learning_rate = 0.1, .max_steps = 5, .batch_size = 4, .micro_batch_tokens = 20},
       .process_reward = {.train_on_last_step_only = true}}};
  auto const summary = trainer.fit(solutions, held_out);
  auto const weights = values_of(model);
  double loss = 0.0, hits = 0.0, score = 0.0, steps = 0.0;
  for (auto const& row : held_out.rows)
    for (std::size_t i = 0; i < row.step_ends.size(); ++i, ++steps) {
      double const s = weights[static_cast<std::size_t>(row.completion[row.step_ends[i] - 1])];
      loss += std::log1p(std::exp(row.labels[i] != 0 ? -s : s));
      hits += (row.labels[i] != 0) == (s > 0) ? 1.0 : 0.0;
      score += s;
    }
  REQUIRE(summary.evaluation.size() == 3);
  CHECK(summary.evaluation[0].value == doctest::Approx(loss / steps).epsilon(1e-13));
  CHECK(summary.evaluation[1].name == "eval_accuracy");
  CHECK(summary.evaluation[1].value == doctest::Approx(hits / steps).epsilon(1e-13));
  CHECK(summary.evaluation[2].name == "eval_score");
  CHECK(summary.evaluation[2].value == doctest::Approx(score / steps).epsilon(1e-12));
}

TEST_CASE(
    "process reward trainer: a decoder's value head learns steps by heart, and the token after the last step does not "
    "matter") {
  auto const solutions = test::random_solutions(10, 7, 3);
  decoder<double> const initial(
      {.vocabulary = 7, .dim = 8, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = 16, .window = 20}, 1);
  value_head<double> model(initial);
  adamw<double> optimizer;
  process_reward_trainer trainer{
      model, optimizer, {.loop = {.learning_rate = 0.02, .max_steps = 150, .batch_size = 10}}};
  auto const summary = trainer.fit(solutions);
  CHECK(summary.first_loss == doctest::Approx(std::numbers::ln2).epsilon(1e-12));
  CHECK(summary.last_loss < 0.2);
  sequences one, other;
  std::vector<token_id> const tokens{1, 2, 3, 4}, changed{1, 2, 3, 6};
  std::vector<std::uint8_t> const mask{0, 0, 0, 1};
  one.push_back_masked(tokens, mask);
  other.push_back_masked(changed, mask);
  std::vector<double> a(4), b(4);
  model.values(one, a);
  model.values(other, b);
  CHECK(a == b);
}

TEST_CASE("process reward trainer: a run in two halves ends in the bytes of one; another option is another run") {
  auto const solutions = test::random_solutions(24, 5, 1);
  test::temporary_folder const folder;
  auto const run = [&](std::string const& name, std::size_t stop_after, bool resume, bool last_only = false) {
    test::token_value<float> model(5);
    adamw<float> optimizer;
    process_reward_trainer trainer{model,
                                   optimizer,
                                   {.loop = {.learning_rate = 0.05,
                                             .max_steps = 8,
                                             .batch_size = 6,
                                             .save_steps = 1,
                                             .checkpoint_folder = folder / name,
                                             .resume = resume},
                                    .process_reward = {.train_on_last_step_only = last_only}}};
    struct stop {};
    try {
      trainer.fit(solutions, [&](report const& r) {
        if (r.step > stop_after) throw stop{};
      });
    } catch (stop) {
    }
  };
  run("whole", 8, false);
  run("halves", 3, false);
  CHECK_THROWS_AS(run("halves", 8, true, true), data_error);
  run("halves", 8, true);
  CHECK(test::content_of(checkpoint_folder(folder / "halves").file(8)) ==
        test::content_of(checkpoint_folder(folder / "whole").file(8)));
}

TEST_CASE("process reward trainer: a value that is not finite names its example") {
  struct broken : test::token_value<double> {
    using token_value::token_value;
    void accumulate_value_gradient(sequences_view s, value_slopes_of<double> ask) {
      std::vector<double> out(s.total_tokens()), slopes(s.total_tokens());
      values(s, out);
      for (std::size_t t = s.offsets[2]; t < s.offsets[3]; ++t) out[t] = std::nan("");
      ask(out, slopes);
    }
  };
  broken model(5);
  adamw<double> optimizer;
  process_reward_trainer trainer{model, optimizer, {.loop = {.max_steps = 1, .batch_size = 6}}};
  epoch_order order(6, 6, 0);
  std::string const expected = "the first example at fault is " + std::to_string(order.step(0)[2]);
  auto const why = test::message_of<nonfinite_error>([&] { trainer.fit(test::random_solutions(6, 5, 1)); });
  CHECK(why.find(expected) != std::string::npos);
}
