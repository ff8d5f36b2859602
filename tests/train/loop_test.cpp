// SPDX-License-Identifier: MIT
#include <attune/train/loop.hpp>

#include "support/allocations.hpp"
#include "support/small_world.hpp"
#include "support/temporary_folder.hpp"

#include <attune/train/adamw.hpp>
#include <attune/train/reward_trainer.hpp>
#include <attune/train/sft_trainer.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

using namespace attune;
using attune::test::temporary_folder;

namespace {

struct seen_report {
  report_kind kind;
  std::string stage;
  std::size_t step, total;
  double epoch;
  std::size_t tokens;
  std::map<std::string, double> metrics;
};

struct recorder {
  std::vector<seen_report>* all;
  void operator()(report const& r) const {
    seen_report copy{r.kind, std::string(r.stage), r.step, r.total_steps, r.epoch, r.tokens, {}};
    for (metric const& m : r.metrics) copy.metrics[std::string(m.name)] = m.value;
    all->push_back(copy);
  }
};

template <class T>
std::vector<T> values(tabular_policy<T>& policy) {
  auto const p = policy.parameters();
  return {p[0].value.begin(), p[0].value.end()};
}

// A policy whose log-probabilities turn to NaN for one prompt token.
class poisoned_policy : public tabular_policy<double> {
 public:
  using tabular_policy<double>::tabular_policy;
  token_id poison = 5;
  double with = std::nan("");

  void log_probs(sequences_view s, std::span<double> logps) const {
    tabular_policy<double>::log_probs(s, logps);
    for (std::size_t b = 0; b < s.size(); ++b)
      if (s.sequence(b).front() == poison) logps[s.offsets[b + 1] - 1] = with;
  }
  void accumulate_gradient(sequences_view s, slopes_of<double> ask) {
    tabular_policy<double>::accumulate_gradient(s, [&](std::span<double const> logps, std::span<double> slopes) {
      std::vector<double> seen(logps.begin(), logps.end());
      for (std::size_t b = 0; b < s.size(); ++b)
        if (s.sequence(b).front() == poison) seen[s.offsets[b + 1] - 1] = with;
      ask(seen, slopes);
    });
  }
};

// An optimiser that shows what it was given.
struct keeps_gradient {
  std::vector<double> gradient;
  optimizer_report step(tabular_policy<double>& m, optimizer_step) {
    auto const p = m.parameters();
    gradient.assign(p[0].gradient.begin(), p[0].gradient.end());
    zero_gradient(m);
    return {};
  }
  void zero_gradient(tabular_policy<double>& m) {
    for (auto const& p : m.parameters()) std::fill(p.gradient.begin(), p.gradient.end(), 0.0);
  }
  void visit_state(tabular_policy<double>&, auto&&) {}
};

}  // namespace

TEST_CASE("loop: micro-batches of any size give the full batch's step, the partial last one included") {
  auto const data = test::random_demonstrations(23, 6, 1, 9);  // 5 steps of 5, 5, 5, 5, 3
  for (auto const normalization : {sft_normalization::token, sft_normalization::sequence}) {
    std::vector<double> whole;
    double whole_loss = 0.0;
    for (std::size_t const budget : {0u, 1u, 13u, 30u}) {
      auto policy = test::random_tabular<double>({.vocabulary = 6}, 2);
      adamw<double> optimizer;
      std::vector<seen_report> reports;
      sft_trainer trainer{policy, optimizer,
                          {.loop = {.learning_rate = 0.05, .epochs = 2, .batch_size = 5, .micro_batch_tokens = budget},
                           .sft = {.label_smoothing = 0.1, .normalization = normalization}}};
      auto const summary = trainer.fit(data, recorder{&reports});
      CHECK(summary.steps == 10);
      if (budget == 0) {
        whole = values(policy);
        whole_loss = summary.last_loss;
        continue;
      }
      auto const split = values(policy);
      double worst = 0.0;
      for (std::size_t i = 0; i < whole.size(); ++i)
        worst = std::max(worst, std::abs(split[i] - whole[i]) / std::max(1.0, std::abs(whole[i])));
      CHECK(worst <= 1e-12);
      CHECK(std::abs(summary.last_loss - whole_loss) <= 1e-12 * whole_loss);
    }
  }
}

TEST_CASE("loop: the gradient of a split step is the full batch's, element by element") {
  auto const data = test::random_demonstrations(7, 6, 3, 9);
  auto const run = [&](std::size_t budget) {
    auto policy = test::random_tabular<double>({.vocabulary = 6}, 2);
    keeps_gradient optimizer;
    sft_trainer trainer{policy, optimizer, sft_trainer_options{.loop = {.max_steps = 1, .batch_size = 7, .micro_batch_tokens = budget}}};
    trainer.fit(data);
    return optimizer.gradient;
  };
  auto const whole = run(0), split = run(10);
  double largest = 0.0, worst = 0.0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    largest = std::max(largest, std::abs(whole[i]));
    worst = std::max(worst, std::abs(whole[i] - split[i]));
  }
  CHECK(largest > 1e-3);
  CHECK(worst <= 1e-15);
}

TEST_CASE("loop: reports come at their steps with TRL's names") {
  auto const data = test::random_demonstrations(10, 6, 1);
  tabular_policy<float> policy({.vocabulary = 6});
  adamw<float> optimizer;
  std::vector<seen_report> reports;
  sft_trainer trainer{policy, optimizer,
                      {.loop = {.learning_rate = 0.1, .schedule = learning_rate_schedule::constant, .epochs = 2, .batch_size = 4,
                                .logging_steps = 2, .eval_steps = 3, .eval_on_start = true}}};
  auto const summary = trainer.fit(data, test::random_demonstrations(5, 6, 9), recorder{&reports});
  using enum report_kind;
  std::vector<std::pair<report_kind, std::size_t>> order;
  for (auto const& r : reports) {
    order.emplace_back(r.kind, r.step);
    CHECK(r.stage == "sft");
    CHECK(r.total == 6);
    CHECK(r.epoch == doctest::Approx(static_cast<double>(r.step) / 3.0));
  }
  std::vector<std::pair<report_kind, std::size_t>> const expected{
      {start, 0}, {evaluation, 0}, {progress, 1}, {log, 2}, {progress, 3}, {evaluation, 3},
      {log, 4},   {progress, 5},   {log, 6},      {evaluation, 6}, {finish, 6}};
  CHECK(order == expected);
  CHECK(reports[2].metrics.size() == 1);
  auto const& logged = reports[3].metrics;
  for (char const* const name : {"loss", "grad_norm", "learning_rate", "num_tokens"}) CHECK(logged.count(name) == 1);
  CHECK(logged.size() == 4);
  CHECK(logged.at("learning_rate") == 0.1);
  CHECK(logged.at("num_tokens") == static_cast<double>(reports[3].tokens));
  CHECK(reports[1].metrics.at("eval_loss") == doctest::Approx(std::log(6.0)));
  CHECK(reports[9].metrics.at("eval_loss") == summary.evaluation.at(0).value);
  CHECK(summary.evaluation.at(0).name == "eval_loss");
  std::size_t tokens = 0;
  for (auto const& row : data.rows) tokens += 2 * (row.prompt.size() + row.completion.size());
  CHECK(summary.tokens == tokens);
  CHECK(summary.first_loss == doctest::Approx(std::log(6.0)));
}

TEST_CASE("loop: a logged loss is the mean over the steps since the last log") {
  auto const data = test::random_demonstrations(12, 6, 1);
  std::vector<double> single;
  for (std::size_t const interval : {1u, 3u}) {
    tabular_policy<double> policy({.vocabulary = 6});
    adamw<double> optimizer;
    std::vector<seen_report> reports;
    sft_trainer trainer{policy, optimizer, sft_trainer_options{.loop = {.learning_rate = 0.1, .batch_size = 2, .logging_steps = interval}}};
    trainer.fit(data, recorder{&reports});
    std::vector<double> losses;
    for (auto const& r : reports)
      if (r.kind == report_kind::log) losses.push_back(r.metrics.at("loss"));
    if (interval == 1) {
      single = losses;
    } else {
      REQUIRE(losses.size() == 2);
      CHECK(losses[1] == doctest::Approx((single[3] + single[4] + single[5]) / 3.0).epsilon(1e-14));
    }
  }
}

TEST_CASE("loop: evaluation does not depend on the micro-batches and changes nothing") {
  auto const data = test::random_demonstrations(12, 6, 1);
  auto const held_out = test::random_demonstrations(9, 6, 2);
  auto const run = [&](std::size_t budget, bool evaluate) {
    tabular_policy<double> policy({.vocabulary = 6});
    adamw<double> optimizer;
    sft_trainer trainer{policy, optimizer,
                        sft_trainer_options{.loop = {.learning_rate = 0.1, .batch_size = 4, .micro_batch_tokens = budget,
                                                     .eval_steps = evaluate ? 1u : 0u}}};
    auto const summary = evaluate ? trainer.fit(data, held_out) : trainer.fit(data);
    return std::pair(values(policy), evaluate ? summary.evaluation.at(0).value : 0.0);
  };
  CHECK(run(8, true).first == run(8, false).first);
  CHECK(run(8, true).second == doctest::Approx(run(0, true).second).epsilon(1e-13));
}

TEST_CASE("loop: steps allocate nothing once the buffers have grown") {
  test::demonstration_list data;
  random_stream random(1);
  for (int i = 0; i < 64; ++i) {
    test::token_list text(6);
    for (token_id& id : text) id = static_cast<token_id>(random.below(6));
    data.rows.push_back({{text[0], text[1]}, {text[2], text[3], text[4], text[5]}});
  }
  tabular_policy<float> policy({.vocabulary = 6});
  adamw<float> optimizer;
  std::vector<std::size_t> counts;
  counts.reserve(64);
  sft_trainer trainer{policy, optimizer,
                      sft_trainer_options{.loop = {.epochs = 3, .batch_size = 8, .micro_batch_tokens = 20, .logging_steps = 4}}};
  trainer.fit(data, [&](report const& r) {
    if (r.kind == report_kind::progress || r.kind == report_kind::log) counts.push_back(allocations());
  });
  REQUIRE(counts.size() == 24);
  for (std::size_t i = 1; i < counts.size(); ++i) CHECK(counts[i] == counts[0]);
}

TEST_CASE("loop: a number that is not finite stops the run by name and changes no parameter") {
  test::demonstration_list data{{{{0}, {1}}, {{1}, {2}}, {{5}, {3}}, {{2}, {3}}}};
  for (double const poison : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    poisoned_policy policy({.vocabulary = 6});
    policy.with = poison;
    adamw<double> optimizer;
    sft_trainer trainer{policy, optimizer, sft_trainer_options{.loop = {.learning_rate = 0.1, .batch_size = 4, .micro_batch_tokens = 2}}};
    CHECK_THROWS_WITH_AS(trainer.fit(data),
                         "step 0: the loss is not finite; the first example at fault is 2. No parameter was changed. A "
                         "smaller learning rate, or on_nonfinite::skip, may help",
                         nonfinite_error);
    for (double const v : values(policy)) CHECK(v == 0.0);
    for (auto const& p : policy.parameters())
      for (double const g : p.gradient) CHECK(g == 0.0);
  }
}

TEST_CASE("loop: told to skip, it leaves the step out, counts it and goes on") {
  test::demonstration_list data{{{{0}, {1}}, {{1}, {2}}, {{5}, {3}}, {{2}, {3}}}};
  poisoned_policy policy({.vocabulary = 6});
  adamw<double> optimizer;
  std::vector<seen_report> reports;
  sft_trainer trainer{policy, optimizer,
                      sft_trainer_options{.loop = {.learning_rate = 0.1, .epochs = 2, .batch_size = 1, .logging_steps = 8,
                                                   .nonfinite = on_nonfinite::skip}}};
  auto const summary = trainer.fit(data, data, recorder{&reports});
  CHECK(summary.steps == 8);
  CHECK(summary.skipped_steps == 2);
  CHECK(optimizer.steps() == 6);
  for (double const v : values(policy)) CHECK(std::isfinite(v));
  std::size_t skipped_reports = 0;
  for (auto const& r : reports) {
    for (auto const& [name, value] : r.metrics) CHECK(std::isfinite(value));
    if (r.kind == report_kind::progress) {
      bool const skipped = r.metrics.count("loss") == 0;
      CHECK(r.metrics.count("skipped_steps") == (skipped ? 1 : 0));
      skipped_reports += skipped;
    }
    if (r.kind == report_kind::log) CHECK(r.metrics.at("skipped_steps") == 2.0);
    if (r.kind == report_kind::evaluation) CHECK(r.metrics.at("eval_skipped_examples") >= 1.0);
  }
  CHECK(skipped_reports == 2);
}

TEST_CASE("loop: a gradient that overflows is caught by the optimiser's report") {
  struct steep : test::token_score<float> {
    using test::token_score<float>::token_score;
    void accumulate_score_gradient(sequences_view s, score_slopes_of<float> ask) {
      test::token_score<float>::accumulate_score_gradient(s, ask);
      parameters()[0].gradient[0] = INFINITY;
    }
  } model(6);
  adamw<float> optimizer;
  reward_trainer trainer{model, optimizer, reward_trainer_options{}};
  CHECK_THROWS_WITH_AS(trainer.fit(test::random_pairs(4, 6, 1)),
                       "step 0: the gradient is not finite. No parameter was changed. A smaller learning rate, or "
                       "on_nonfinite::skip, may help",
                       nonfinite_error);
}

TEST_CASE("loop: what a policy refuses is told with the step and the examples") {
  test::demonstration_list data{{{{0}, {1}}, {{1}, {9}}}};
  tabular_policy<float> policy({.vocabulary = 6});
  adamw<float> optimizer;
  sft_trainer trainer{policy, optimizer, sft_trainer_options{.loop = {.batch_size = 2, .micro_batch_tokens = 1}}};
  CHECK_THROWS_WITH_AS(trainer.fit(data),
                       "sequence 0, token 1: expected a token id inside the vocabulary, got 9 (step 0, examples 1)",
                       contract_violation);
}

TEST_CASE("loop: an empty dataset, an empty evaluation and an example without a supervised token are refused") {
  tabular_policy<float> policy({.vocabulary = 6});
  adamw<float> optimizer;
  sft_trainer trainer{policy, optimizer, sft_trainer_options{}};
  auto const data = test::random_demonstrations(4, 6, 1);
  test::demonstration_list const empty;
  CHECK_THROWS_AS(trainer.fit(empty), contract_violation);
  CHECK_THROWS_AS(trainer.fit(data, empty), contract_violation);
  auto silent = data;
  silent.rows[2].completion.clear();
  CHECK_THROWS_WITH_AS(trainer.fit(silent), "example 2: its completion has no token, so there is nothing to learn from it",
                       contract_violation);
}

TEST_CASE("loop: gradients left over from before do not leak into the run") {
  auto const data = test::random_demonstrations(6, 6, 1);
  auto const run = [&](float left_over) {
    tabular_policy<float> policy({.vocabulary = 6});
    for (auto const& p : policy.parameters()) std::fill(p.gradient.begin(), p.gradient.end(), left_over);
    adamw<float> optimizer;
    sft_trainer trainer{policy, optimizer, sft_trainer_options{.loop = {.learning_rate = 0.1}}};
    trainer.fit(data);
    return values(policy);
  };
  CHECK(run(0.0f) == run(3.0f));
}

TEST_CASE("loop: a run stopped by its sink and resumed ends in the bits of one that was not") {
  auto const data = test::random_demonstrations(30, 6, 1);
  auto const options = [&](std::string const& folder, bool resume) {
    return sft_trainer_options{.loop = {.learning_rate = 0.1, .schedule = learning_rate_schedule::cosine, .warmup_steps = 3,
                                        .epochs = 3, .batch_size = 4, .micro_batch_tokens = 20, .logging_steps = 3,
                                        .save_steps = 2, .checkpoint_folder = folder, .resume = resume}};
  };
  temporary_folder const folder;
  auto const run = [&](std::string const& name, bool resume, std::size_t stop_after, std::vector<seen_report>* reports) {
    tabular_policy<float> policy({.vocabulary = 6});
    adamw<float> optimizer({.weight_decay = 0.01});
    sft_trainer trainer{policy, optimizer, options(folder / name, resume)};
    recorder const record{reports};
    auto const summary = trainer.fit(data, [&](report const& r) {
      record(r);
      if (r.kind != report_kind::start && r.step == stop_after) throw std::runtime_error("stopped");
    });
    return std::pair(values(policy), summary);
  };
  std::vector<seen_report> whole_reports, reports;
  auto const [whole, whole_summary] = run("whole", false, 999, &whole_reports);
  CHECK_THROWS_AS(run("parts", false, 9, &reports), std::runtime_error);   // checkpoints of 6 and 8 are there
  CHECK_THROWS_AS(run("parts", true, 16, &reports), std::runtime_error);
  reports.clear();
  auto const [parts, summary] = run("parts", true, 999, &reports);
  CHECK(parts == whole);
  CHECK(summary.resumed_from == 14);
  CHECK(summary.steps == whole_summary.steps);
  CHECK(summary.tokens == whole_summary.tokens);
  CHECK(summary.first_loss == whole_summary.first_loss);
  CHECK(summary.last_loss == whole_summary.last_loss);
  // Metrics too: the window of a log report that the kill cut in two is in the checkpoint.
  for (auto const& r : reports) {
    if (r.kind != report_kind::log) continue;
    auto const same = std::find_if(whole_reports.begin(), whole_reports.end(),
                                   [&](auto const& w) { return w.kind == r.kind && w.step == r.step; });
    REQUIRE(same != whole_reports.end());
    CHECK(r.metrics == same->metrics);
  }
  // And the last file is the same, byte for byte.
  checkpoint_folder const a(folder / "whole"), b(folder / "parts");
  CHECK(a.steps() == b.steps());
  CHECK(test::content_of(a.file(whole_summary.steps)) == test::content_of(b.file(whole_summary.steps)));

  auto const [again, done] = run("parts", true, 999, &reports);  // nothing left to do
  CHECK(again == whole);
  CHECK(done.resumed_from == done.steps);
}

TEST_CASE("loop: a stage's metrics survive a stop in the middle of their window") {
  auto const pairs = test::random_pairs(24, 6, 1);
  temporary_folder const folder;
  auto const run = [&](std::string const& name, std::size_t stop_after) {
    std::vector<seen_report> reports;
    recorder const record{&reports};
    test::token_score<double> model(6);
    adamw<double> optimizer;
    reward_trainer trainer{model, optimizer,
                           {.loop = {.learning_rate = 0.1, .batch_size = 4, .logging_steps = 3, .save_steps = 1,
                                     .checkpoint_folder = folder / name, .resume = true}}};
    try {
      trainer.fit(pairs, [&](report const& r) {
        record(r);
        if (r.step == stop_after) throw std::runtime_error("stopped");
      });
    } catch (std::runtime_error const&) {
    }
    return reports;
  };
  run("parts", 5);  // inside the window of steps 4 to 6; the checkpoint of step 4 is there
  auto const parts = run("parts", 999), whole = run("whole", 999);
  auto const logged_at_6 = [](std::vector<seen_report> const& reports) {
    for (auto const& r : reports)
      if (r.kind == report_kind::log && r.step == 6) return r.metrics;
    return std::map<std::string, double>{};
  };
  CHECK(logged_at_6(whole).count("margin") == 1);
  CHECK(logged_at_6(parts) == logged_at_6(whole));
}

TEST_CASE("loop: a folder with another run's checkpoints is not written to, and not resumed from") {
  auto const data = test::random_demonstrations(8, 6, 1);
  temporary_folder const folder;
  auto const run = [&](auto const& rows, loop_options loop, adamw_options with = {}, std::size_t vocabulary = 6) {
    loop.checkpoint_folder = folder / "run";
    tabular_policy<float> policy({.vocabulary = vocabulary});
    adamw<float> optimizer(with);
    sft_trainer trainer{policy, optimizer, sft_trainer_options{.loop = loop}};
    trainer.fit(rows);
  };
  run(data, {});
  CHECK_THROWS_AS(run(data, {}), contract_violation);  // resume not asked for
  CHECK_NOTHROW(run(data, {.resume = true}));
  CHECK_THROWS_AS(run(test::random_demonstrations(8, 6, 2), {.resume = true}), data_error);
  CHECK_THROWS_AS(run(data, {.learning_rate = 0.5, .resume = true}), data_error);
  CHECK_THROWS_AS(run(data, {.seed = 5, .resume = true}), data_error);
  CHECK_THROWS_AS(run(data, {.resume = true}, {.weight_decay = 0.5}), data_error);
  CHECK_THROWS_AS(run(data, {.resume = true}, {}, 7), data_error);
}
