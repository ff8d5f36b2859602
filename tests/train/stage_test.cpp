// SPDX-License-Identifier: MIT
#include <attune/train/stage.hpp>

#include "support/small_world.hpp"

#include <attune/model/frozen.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/reward_trainer.hpp>
#include <attune/train/sft_trainer.hpp>

#include <doctest/doctest.h>

using namespace attune;

static_assert(TrainingStage<sft_stage<tabular_policy<float>>>);
static_assert(TrainingStage<reward_stage<test::token_score<float>>>);
static_assert(TrainingStage<dpo_stage<tabular_policy<float>, frozen<tabular_policy<float>>>>);
static_assert(TrainingStage<dpo_stage<tabular_policy<float>, reference_cache>>);

namespace {
struct nameless : sft_stage<tabular_policy<float>> {
  int name = 0;
};
struct returns_nothing : sft_stage<tabular_policy<float>> {
  void accumulate(micro_batch const&) {}
};
}  // namespace

static_assert(!TrainingStage<nameless>);
static_assert(!TrainingStage<returns_nothing>);

TEST_CASE("stage: the metric names are TRL's") {
  using dpo = dpo_stage<tabular_policy<float>, reference_cache>;
  CHECK(dpo::metric_names[2] == "rewards/accuracies");
  CHECK(reward_stage<test::token_score<float>>::metric_names[2] == "min_reward");
  CHECK(sft_stage<tabular_policy<float>>::metric_names.empty());
}
