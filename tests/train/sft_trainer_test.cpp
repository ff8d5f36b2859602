// SPDX-License-Identifier: MIT
#include <attune/train/sft_trainer.hpp>

#include "support/small_world.hpp"

#include "support/proofs.hpp"

#include <attune/train/adamw.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace attune;
using attune::test::token_list;

namespace {

// A Policy that is no TermedPolicy.
class plain_policy {
 public:
  using scalar = double;
  void log_probs(sequences_view s, std::span<double> logps) const { inner.log_probs(s, logps); }
  void accumulate_gradient(sequences_view s, slopes_of<double> ask) { inner.accumulate_gradient(s, ask); }
  auto parameters() { return inner.parameters(); }
  tabular_policy<double> inner{{.vocabulary = 5}};
};
static_assert(Policy<plain_policy> && !TermedPolicy<plain_policy>);

// Asks `times` times.
class forgetful_policy : public plain_policy {
 public:
  int times = 0;
  void accumulate_gradient(sequences_view s, slopes_of<double> ask) {
    inner.accumulate_gradient(s, [&](std::span<double const> logps, std::span<double> slopes) {
      for (int i = 0; i < times; ++i) ask(logps, slopes);
    });
  }
};

}  // namespace

TEST_CASE("sft trainer: the policy becomes the empirical distribution of the demonstrations") {
  test::demonstration_list data;
  std::vector<int> const counts{1, 2, 5};  // after token 4
  for (token_id v = 0; v < 3; ++v)
    for (int i = 0; i < counts[static_cast<std::size_t>(v)]; ++i) data.rows.push_back({{4}, {v}});
  tabular_policy<double> policy({.vocabulary = 5});
  adamw<double> optimizer;
  sft_trainer trainer{policy, optimizer,
                      {.loop = {.learning_rate = 0.1, .schedule = learning_rate_schedule::cosine, .max_steps = 1500, .batch_size = 8}}};
  auto const summary = trainer.fit(data, data);
  CHECK(summary.first_loss == doctest::Approx(std::log(5.0)));
  double entropy = 0.0;
  for (int const c : counts) entropy -= c / 8.0 * std::log(c / 8.0);
  CHECK(summary.evaluation.at(0).value == doctest::Approx(entropy).epsilon(1e-3));
  sequences s;
  for (token_id v = 0; v < 3; ++v) s.push_back(token_list{4}, token_list{v});
  std::vector<double> logps(6);
  policy.log_probs(s, logps);
  for (std::size_t v = 0; v < 3; ++v) CHECK(std::exp(logps[2 * v + 1]) == doctest::Approx(counts[v] / 8.0).epsilon(1e-2));
}

TEST_CASE("sft trainer: with label smoothing the optimum is the smoothed distribution") {
  test::demonstration_list const data{{{{4}, {1}}}};
  tabular_policy<double> policy({.vocabulary = 5});
  adamw<double> optimizer;
  sft_trainer trainer{policy, optimizer,
                      {.loop = {.learning_rate = 0.1, .schedule = learning_rate_schedule::cosine, .max_steps = 600},
                       .sft = {.label_smoothing = 0.2}}};
  trainer.fit(data);
  sequences s;
  s.push_back(token_list{4}, token_list{1});
  s.push_back(token_list{4}, token_list{2});
  std::vector<double> logps(4);
  policy.log_probs(s, logps);
  CHECK(std::exp(logps[1]) == doctest::Approx(0.8 + 0.2 / 5.0).epsilon(1e-3));
  CHECK(std::exp(logps[3]) == doctest::Approx(0.2 / 5.0).epsilon(1e-3));
}

TEST_CASE("sft trainer: z-loss brings the normaliser to 1, which the likelihood alone leaves where it was") {
  test::demonstration_list const data{{{{4}, {1}}, {{4}, {2}}}};
  auto const trained = [&](double z_loss_coef) {
    tabular_policy<double> policy({.vocabulary = 5});
    for (double& x : policy.row(4)) x = 3.0;
    adamw<double> optimizer;
    sft_trainer trainer{policy, optimizer,
                        {.loop = {.learning_rate = 0.05, .schedule = learning_rate_schedule::cosine, .max_steps = 3000},
                         .sft = {.label_smoothing = 0.1, .z_loss_coef = z_loss_coef}}};
    trainer.fit(data);
    sequences s;
    s.push_back(token_list{4}, token_list{1});
    std::vector<double> logps(2), normalizers(2);
    policy.log_probs_with(s, {.logps = logps, .log_normalizers = normalizers});
    CHECK(std::exp(logps[1]) == doctest::Approx(0.45 + 0.1 / 5.0).epsilon(1e-2));  // the distribution is the same
    return normalizers[1];
  };
  CHECK(std::abs(trained(0.1)) <= 1e-2);
  CHECK(std::abs(trained(0.0)) >= 1.0);
  proofs::law("sft", "z-loss: training ends at Z = 1 with the distribution of the plain loss");
}

TEST_CASE("sft trainer: with DFT what the policy holds likelier gains on what it does not") {
  test::demonstration_list data;  // after token 4 token 1 twice as often as 2
  for (int i = 0; i < 6; ++i) data.rows.push_back({{4}, {i % 3 == 0 ? 2 : 1}});
  tabular_policy<double> policy({.vocabulary = 5});
  adamw<double> optimizer;
  sft_trainer trainer{policy, optimizer,
                      {.loop = {.learning_rate = 0.05, .schedule = learning_rate_schedule::cosine, .max_steps = 800},
                       .sft = {.loss_type = sft_loss_type::dft}}};
  auto const summary = trainer.fit(data, data);
  CHECK(summary.first_loss == doctest::Approx(std::log(5.0) / 5.0));  // -p log p
  sequences s;
  s.push_back(token_list{4}, token_list{1});
  std::vector<double> logps(2);
  policy.log_probs(s, logps);
  // The update is w (p1 (e1 - p) 2/3 + p2 (e2 - p) 1/3): the ratio p1 / p2 grows without end, where nll stops at 2.
  CHECK(std::exp(logps[1]) >= 0.95);
  CHECK(summary.evaluation.at(0).value > std::log(3.0));  // the plain likelihood, which it gives up for that
  proofs::law("sft", "dft: not calibrated: the likelier answer takes all, where nll stops at the shares of the data");
}

TEST_CASE("sft trainer: label smoothing and z-loss need a policy that can answer for them, DFT does not") {
  plain_policy policy;
  adamw<double> optimizer;
  CHECK_THROWS_WITH_AS(sft_trainer(policy, optimizer, sft_trainer_options{.sft = {.label_smoothing = 0.1}}),
                       "expected sft_options.label_smoothing == 0 for a policy that is no TermedPolicy, got 0.1",
                       contract_violation);
  CHECK_THROWS_WITH_AS(sft_trainer(policy, optimizer, sft_trainer_options{.sft = {.z_loss_coef = 0.1}}),
                       "expected sft_options.z_loss_coef == 0 for a policy that is no TermedPolicy, got 0.1",
                       contract_violation);
  sft_trainer dft{policy, optimizer, sft_trainer_options{.sft = {.loss_type = sft_loss_type::dft}}};
  CHECK_NOTHROW(dft.fit(test::random_demonstrations(4, 5, 1)));
  sft_trainer trainer{policy, optimizer, sft_trainer_options{}};
  CHECK_NOTHROW(trainer.fit(test::random_demonstrations(4, 5, 1)));
}

TEST_CASE("sft trainer: per-token and per-sequence means differ as their definitions say") {
  test::demonstration_list const data{{{{0}, {1}}, {{0}, {2, 3, 4}}}};
  auto const first_loss = [&](sft_normalization normalization) {
    auto policy = test::random_tabular<double>({.vocabulary = 5}, 1);
    adamw<double> optimizer;
    sft_trainer trainer{policy, optimizer, {.sft = {.normalization = normalization}}};
    return trainer.fit(data).first_loss;
  };
  auto const policy = test::random_tabular<double>({.vocabulary = 5}, 1);
  sequences s;
  s.push_back(data[0].prompt, data[0].completion);
  s.push_back(data[1].prompt, data[1].completion);
  std::vector<double> l(6);
  policy.log_probs(s, l);
  CHECK(first_loss(sft_normalization::token) == doctest::Approx(-(l[1] + l[3] + l[4] + l[5]) / 4.0).epsilon(1e-14));
  CHECK(first_loss(sft_normalization::sequence) == doctest::Approx(-(l[1] + (l[3] + l[4] + l[5]) / 3.0) / 2.0).epsilon(1e-14));
}

TEST_CASE("sft trainer: evaluation leaves label smoothing out and follows the normalisation") {
  auto const data = test::random_demonstrations(9, 5, 3);
  auto const evaluate = [&](sft_options o) {
    auto policy = test::random_tabular<double>({.vocabulary = 5}, 1);
    adamw<double> optimizer;
    double found = 0.0;
    sft_trainer trainer{policy, optimizer,
                        {.loop = {.max_steps = 1, .batch_size = 2, .micro_batch_tokens = 9, .eval_on_start = true}, .sft = o}};
    trainer.fit(data, data, [&](report const& r) {
      if (r.kind == report_kind::evaluation && r.step == 0) found = r.metrics[0].value;
    });
    return found;
  };
  auto const policy = test::random_tabular<double>({.vocabulary = 5}, 1);
  double sum = 0.0, tokens = 0.0, of_means = 0.0;
  for (auto const& row : data.rows) {
    sequences s;
    s.push_back(row.prompt, row.completion);
    std::vector<double> l(s.total_tokens());
    policy.log_probs(s, l);
    double of_row = 0.0;
    for (double const x : l) of_row -= x;
    sum += of_row;
    tokens += static_cast<double>(row.completion.size());
    of_means += of_row / static_cast<double>(row.completion.size()) / 9.0;
  }
  CHECK(evaluate({}) == doctest::Approx(sum / tokens).epsilon(1e-13));
  CHECK(evaluate({.label_smoothing = 0.3}) == doctest::Approx(sum / tokens).epsilon(1e-13));
  CHECK(evaluate({.normalization = sft_normalization::sequence}) == doctest::Approx(of_means).epsilon(1e-13));
}

TEST_CASE("sft trainer: a policy that asks twice, or never, is refused") {
  for (int const times : {0, 2}) {
    forgetful_policy policy;
    policy.times = times;
    adamw<double> optimizer;
    sft_trainer trainer{policy, optimizer, sft_trainer_options{}};
    CHECK_THROWS_AS(trainer.fit(test::random_demonstrations(4, 5, 1)), contract_violation);
  }
}
