// SPDX-License-Identifier: MIT
#include <attune/train/stage.hpp>

#include "support/small_world.hpp"
#include "support/token_value.hpp"

#include <attune/model/frozen.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/kto_stage.hpp>
#include <attune/train/process_reward_trainer.hpp>
#include <attune/train/reward_trainer.hpp>
#include <attune/train/sft_trainer.hpp>

#include <doctest/doctest.h>

using namespace attune;

static_assert(TrainingStage<sft_stage<tabular_policy<float>>>);
static_assert(TrainingStage<reward_stage<test::token_score<float>>>);
static_assert(TrainingStage<dpo_stage<tabular_policy<float>, frozen<tabular_policy<float>>>>);
static_assert(TrainingStage<dpo_stage<tabular_policy<float>, reference_cache>>);

using own_kto_stage = kto_stage<tabular_policy<float>, frozen<tabular_policy<float>>>;
static_assert(StatefulStage<own_kto_stage> && StageWithEvaluationBatches<own_kto_stage>);
static_assert(TrainingStage<process_reward_stage<test::token_value<float>>>);
static_assert(!StatefulStage<sft_stage<tabular_policy<float>>>);
static_assert(!StageWithEvaluationBatches<sft_stage<tabular_policy<float>>>);

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
  CHECK(own_kto_stage::metric_names[5] == "kl");
}
