// SPDX-License-Identifier: MIT
#include <string>

#include <doctest/doctest.h>

#include <attune/io/json.hpp>

#include "../../examples/recipe/world_report.hpp"

namespace {

using namespace recipe;

world_figures sample_figures() {
  world_figures f;
  f.seed = 7;
  for (char const* const name : {"pretrained", "sft", "dpo", "ppo", "ppo_no_kl"}) {
    arm_figures arm;
    arm.name = name;
    arm.instruction = attune::wilson_interval(9, 10);
    arm.refusal = attune::wilson_interval(4, 5);
    arm.over_refusal = attune::wilson_interval(1, 4);
    arm.helpful_tone = attune::wilson_interval(1, 2);
    arm.lookalike = attune::wilson_interval(3, 4);
    arm.kl_to_sft = 1.25;
    arm.true_reward = 2.25;
    arm.learned_reward = -0.5;
    arm.win_rate_vs_sft = 0.75;
    arm.phrasings = 3.5;
    arm.model_copies = 4;
    arm.by_kind.assign(instruction_kinds, attune::wilson_interval(1, 2));
    arm.training = {.seconds = 2.5, .flops = 1e12, .peak_rss_mb = 40.0};
    f.arms.push_back(arm);
  }
  f.reward_model.accuracy = attune::wilson_interval(8, 10);
  f.reward_model.noisy_accuracy = attune::wilson_interval(7, 10);
  f.loss_curves = {{"SFT", {1, 2, 3}, {2.0, 1.0, 0.5}, 1}};
  f.accuracy_curves = {{"Reward model", {1, 2}, {0.5, 0.9}, 3}, {"DPO", {1, 2}, {0.5, 0.8}, 2}};
  f.margins = {{"SFT", {}, {-1.0, 0.5}, 1}, {"DPO", {}, {1.0, 4.0}, 2}};
  f.rewards = f.margins;
  f.conversations = {{"repeat: A & B", "copy", {"<A>", "A", "sure: A & B"}, {"wrong", "wrong", "right, friendly"}, {false, false, true}}};
  f.reward_curves = {{"ppo", {1, 2}, {0.0, 0.5}, 3}};
  f.kl_curves = {{"ppo", {1, 2}, {0.0, 1.0}, 3}};
  f.claims = {{"dpo_memory", "a claim", "1.01 times", 1.01, true}, {"ppo_compute", "another", "1 times", 1.0, false}};
  f.seconds = 12.5;
  return f;
}

std::size_t times(std::string const& text, std::string_view piece) {
  std::size_t count = 0;
  for (std::size_t at = text.find(piece); at != text.npos; at = text.find(piece, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("recipe's JSON has every figure under its name") {
  attune::json_value const all = attune::parse_json(to_json(sample_figures()));
  auto const number = [](attune::json_value const& object, char const* key) {
    attune::json_value const* const found = object.find(key);
    REQUIRE(found != nullptr);
    return found->as_double();
  };
  CHECK(number(all, "seconds") == 12.5);
  REQUIRE(all.find("arms") != nullptr);
  for (char const* const name : {"pretrained", "sft", "dpo", "ppo", "ppo_no_kl"}) {
    attune::json_value const* const arm = all.find("arms")->find(name);
    REQUIRE(arm != nullptr);
    CHECK(number(*arm, "instruction_accuracy") == 0.9);
    CHECK(number(*arm, "refusal_rate") == 0.8);
    CHECK(number(*arm, "over_refusal_rate") == 0.25);
    CHECK(number(*arm, "helpful_tone_rate") == 0.5);
    CHECK(number(*arm, "kl_to_sft") == 1.25);
    CHECK(number(*arm, "seconds") == 2.5);
    CHECK(number(*arm, "flops") == 1e12);
    CHECK(number(*arm, "peak_rss_mb") == 40.0);
    CHECK(number(*arm, "true_reward") == 2.25);
    CHECK(number(*arm, "learned_reward") == -0.5);
    CHECK(number(*arm, "win_rate_vs_sft") == 0.75);
    CHECK(number(*arm, "model_copies") == 4.0);
  }
  REQUIRE(all.find("reward_model") != nullptr);
  CHECK(number(*all.find("reward_model"), "accuracy") == 0.8);
  CHECK(number(*all.find("reward_model"), "noisy_accuracy") == 0.7);
  std::string const text = to_json(sample_figures());
  CHECK(text.find(R"("claims": [{"name": "dpo_memory", "claim": "a claim", "measured": 1.01, "in_words": "1.01 times", "holds": true}, )") != text.npos);
  CHECK(text.find(R"("in_words": "1 times", "holds": false}])") != text.npos);
}

TEST_CASE("recipe's report is one page that asks for nothing from elsewhere") {
  std::string const page = world_report(sample_figures());
  for (char const* const outside : {"<script", "<link", "<img", "http://", "https://", "url(", "@import"}) {
    CAPTURE(outside);
    CHECK(page.find(outside) == page.npos);
  }
  CHECK(times(page, "<svg") == times(page, "</svg>"));
  CHECK(times(page, "<svg") == 8);  // two bar charts, two histograms, a loss curve, the accuracies, PPO's reward and KL
  CHECK(page.find("nan") == page.npos);
  CHECK(page.find("\"inf") == page.npos);
  CHECK(page.find(">inf") == page.npos);
  CHECK(page.find(" inf") == page.npos);
}

TEST_CASE("recipe's report shows what was said as text, not as markup") {
  std::string const page = world_report(sample_figures());
  CHECK(page.find("repeat: A &amp; B") != page.npos);
  CHECK(page.find("&lt;A&gt;") != page.npos);
  CHECK(page.find("<A>") == page.npos);
  CHECK(page.find("badge good\">right, friendly") != page.npos);
  CHECK(page.find("badge bad\">wrong") != page.npos);
}

TEST_CASE("svg: ticks are round numbers inside the range") {
  CHECK(plot::ticks(0.0, 1.0).size() == 6);
  CHECK(plot::ticks(0.0, 1.0)[1] == doctest::Approx(0.2));
  for (double const tick : plot::ticks(-3.7, 12.2)) {
    CHECK(tick >= -3.7);
    CHECK(tick <= 12.2);
  }
}

TEST_CASE("svg: higher values lie higher, later steps to the right, and a level curve is no division by zero") {
  plot const p({"t", "x", "y"}, 0.0, 10.0, 0.0, 1.0);
  CHECK(p.up(0.9) < p.up(0.1));
  CHECK(p.across(9.0) > p.across(1.0));
  CHECK(p.across(0.0) == plot::left);
  CHECK(p.up(0.0) == plot::height - plot::bottom);
  std::string const level = line_chart({"t", "x", "y"}, {{"zero", {0, 1}, {0.0, 0.0}, 1}});
  CHECK(level.find("nan") == level.npos);
  CHECK(histogram({"t", "x", "y"}, {{"none", {}, {}, 1}}).find("<svg") == std::string::npos);
}
