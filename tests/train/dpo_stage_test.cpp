// SPDX-License-Identifier: MIT
#include <attune/train/dpo_stage.hpp>

#include "support/proofs.hpp"
#include "support/small_world.hpp"
#include "support/temporary_folder.hpp"

#include <attune/model/frozen.hpp>
#include <attune/model/synchronized_reference.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/dpo_trainer.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

using namespace attune;
using table = tabular_policy<double>;

static_assert(TrainingStage<dpo_stage<table, frozen<table>>>);
static_assert(!StatefulStage<dpo_stage<table, frozen<table>>> && !StageWithStepEnd<dpo_stage<table, frozen<table>>>);
static_assert(StatefulStage<dpo_stage<table, synchronized_reference<table>>>);
static_assert(StageWithStepEnd<dpo_stage<table, synchronized_reference<table>>>);

namespace {

template <class Model>
std::vector<double> values_of(Model& m) {
  std::vector<double> out;
  for (auto&& p : m.parameters()) out.insert(out.end(), p.value.begin(), p.value.end());
  return out;
}

}  // namespace

TEST_CASE("dpo stage: a synchronized reference moves every so many steps and at no other") {
  auto const pairs = test::random_pairs(16, 6, 2);
  auto const run = [&](std::size_t steps, double alpha, std::size_t interval, std::vector<double>& reference_after) {
    auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
    synchronized_reference reference{policy};
    adamw<double> optimizer;
    dpo_trainer trainer{policy, reference, optimizer,
                        dpo_trainer_options{.loop = {.learning_rate = 0.05, .max_steps = steps, .batch_size = 8},
                                            .sync_ref_model = reference_sync_options{alpha, interval}}};
    trainer.fit(pairs);
    reference_after = values_of(reference);
    return values_of(policy);
  };
  auto start_policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const start = values_of(start_policy);
  std::vector<double> reference;
  auto const policy_2 = run(2, 0.25, 3, reference);
  CHECK(reference == start);
  auto const policy_3 = run(3, 0.25, 3, reference);
  for (std::size_t i = 0; i < start.size(); ++i)
    CHECK(reference[i] == doctest::Approx(0.25 * policy_3[i] + 0.75 * start[i]).epsilon(1e-14));
  auto const policy_4 = run(4, 1.0, 4, reference);
  CHECK(reference == policy_4);
  CHECK(policy_2 != policy_3);
  proofs::law("tr_dpo", "the reference is alpha policy + (1 - alpha) reference after every interval, and still in between");
}

TEST_CASE("dpo stage: TR-DPO resumed ends in the bits of a run that was not interrupted, its reference included") {
  auto const pairs = test::random_pairs(20, 6, 2);
  test::temporary_folder folder;
  auto const run = [&](std::size_t steps, std::string const& checkpoints, std::vector<double>& reference_after) {
    auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
    synchronized_reference reference{policy};
    adamw<double> optimizer;
    dpo_trainer_options o{.loop = {.learning_rate = 0.05, .schedule = learning_rate_schedule::constant, .max_steps = steps, .batch_size = 4, .seed = 3,
                                   .save_steps = 1, .checkpoint_folder = checkpoints, .resume = true},
                          .sync_ref_model = reference_sync_options{0.6, 2}};
    dpo_trainer trainer{policy, reference, optimizer, o};
    trainer.fit(pairs);
    reference_after = values_of(reference);
    return values_of(policy);
  };
  std::vector<double> whole_reference, reference;
  auto const whole = run(9, folder / "whole", whole_reference);
  std::string const cut = folder / "cut";
  {  // killed after five of nine steps
    auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
    synchronized_reference first{policy};
    adamw<double> optimizer;
    dpo_trainer trainer{policy, first, optimizer,
                        dpo_trainer_options{.loop = {.learning_rate = 0.05, .schedule = learning_rate_schedule::constant, .max_steps = 9, .batch_size = 4, .seed = 3,
                                                     .save_steps = 1, .checkpoint_folder = cut, .resume = true},
                                            .sync_ref_model = reference_sync_options{0.6, 2}}};
    struct stop {};
    try {
      trainer.fit(pairs, [](report const& r) {
        if (r.step == 6) throw stop{};
      });
    } catch (stop) {
    }
  }
  CHECK(run(9, cut, reference) == whole);
  CHECK(reference == whole_reference);
}

TEST_CASE("dpo stage: a reference that follows needs its options, one that cannot refuses them") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const pairs = test::random_pairs(8, 6, 2);
  adamw<double> optimizer;
  synchronized_reference moving{policy};
  frozen const still{policy};
  auto const fit = [&](auto& reference, std::optional<reference_sync_options> sync) {
    dpo_trainer trainer{policy, reference, optimizer, dpo_trainer_options{.loop = {.max_steps = 1}, .sync_ref_model = sync}};
    trainer.fit(pairs);
  };
  CHECK_THROWS_WITH_AS(fit(moving, {}), doctest::Contains("would never move"), contract_violation);
  CHECK_THROWS_WITH_AS(fit(still, reference_sync_options{}), doctest::Contains("not one that can move"), contract_violation);
  CHECK_THROWS_WITH_AS(fit(moving, reference_sync_options{0.0, 1}), doctest::Contains("mixup_alpha in (0, 1], got 0"), contract_violation);
  CHECK_THROWS_WITH_AS(fit(moving, reference_sync_options{0.5, 0}), doctest::Contains("sync_steps >= 1, got 0"), contract_violation);
  CHECK_NOTHROW(fit(moving, reference_sync_options{}));
}

TEST_CASE("dpo stage: use_weighting multiplies each pair's loss by the policy's own weights, held fixed") {
  auto const pairs = test::random_pairs(12, 6, 2);
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const reference = test::random_tabular<double>({.vocabulary = 6}, 2);
  sequences batch;
  for (auto const& row : pairs.rows) {
    batch.push_back(row.prompt, row.chosen);
    batch.push_back(row.prompt, row.rejected);
  }
  std::vector<double> logps(batch.total_tokens()), collisions(logps.size()), ref(logps.size()), weights(12), sums(24), ref_sums(24);
  policy.log_probs_with(batch, {.logps = logps, .collisions = collisions});
  reference.log_probs(batch, ref);
  wpo_weights<double>(logps, collisions, batch, weights);
  sequence_sums<double>(logps, batch, sums);
  sequence_sums<double>(ref, batch, ref_sums);
  double expected = 0.0;
  for (std::size_t i = 0; i < 12; ++i)
    expected += weights[i] * dpo_objective(sums[2 * i] - ref_sums[2 * i], sums[2 * i + 1] - ref_sums[2 * i + 1]).value / 12.0;
  adamw<double> optimizer;
  dpo_trainer trainer{policy, reference, optimizer,
                      dpo_trainer_options{.loop = {.max_steps = 1, .batch_size = 12, .micro_batch_tokens = 30}, .use_weighting = true,
                                          .require_reference_equals_policy = false}};
  CHECK(trainer.fit(pairs).first_loss == doctest::Approx(expected).epsilon(1e-13));
  CHECK(*std::max_element(weights.begin(), weights.end()) != *std::min_element(weights.begin(), weights.end()));
}

namespace {

// A policy that answers for log-probabilities alone.
struct plain_policy {
  using scalar = double;
  tabular_policy<double> inner;
  void log_probs(sequences_view s, std::span<double> out) const { inner.log_probs(s, out); }
  void accumulate_gradient(sequences_view s, slopes_of<double> ask) { inner.accumulate_gradient(s, ask); }
  auto parameters() { return inner.parameters(); }
};

}  // namespace

TEST_CASE("dpo stage: use_weighting is refused for a policy that cannot say what it needs") {
  plain_policy policy{test::random_tabular<double>({.vocabulary = 6}, 1)};
  frozen const reference{policy};
  adamw<double> optimizer;
  dpo_trainer trainer{policy, reference, optimizer, dpo_trainer_options{.loop = {.max_steps = 1}, .use_weighting = true}};
  CHECK_THROWS_WITH_AS(trainer.fit(test::random_pairs(8, 6, 2)), doctest::Contains("the policy is no TermedPolicy"), contract_violation);
}
