// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include <attune/eval/pairwise_accuracy.hpp>
#include <attune/model/scalar_head.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/reward_trainer.hpp>
#include <attune/train/sft_trainer.hpp>

#include "claims.hpp"
#include "exam.hpp"
#include "learning_curves.hpp"
#include "reinforcement.hpp"
#include "stage_meter.hpp"
#include "stage_options.hpp"

/// The main job: from random parameters to an aligned assistant of the small world.
namespace recipe {

struct world_options {
  std::uint64_t seed = 1;
  std::size_t threads = 0;  ///< 0: all that the machine has; figures do not depend on it
  corpus_options corpus{};
  exam_options exam{};
  attune::decoder_options model{.dim = 96, .layers = 3, .heads = 4, .kv_heads = 4, .hidden = 256, .window = 64,
                                .rope_theta = 1000.0};
  stage_options pretraining{.learning_rate = 1.2e-3, .batch_size = 16};
  stage_options fine_tuning{.learning_rate = 1.2e-3, .batch_size = 16};
  stage_options reward_model{.learning_rate = 5e-4, .batch_size = 32};
  stage_options dpo{.learning_rate = 3e-4, .batch_size = 64};
  /// DPO alone may let the probability of both responses fall, and the mass goes to responses nobody ever wrote; the
  /// labels are noisy on top of it. A share of likelihood of the chosen response and conservative labels stop both.
  attune::pair_loss_sum preference{{attune::dpo_options{.beta = 0.25, .label_smoothing = 0.1}, 1.0},
                                   {attune::sft_term_options{attune::sft_normalization::sequence}, 0.1}};
  reinforcement_options ppo{};
  std::size_t held_out_pairs = 1000;  ///< that the reward model is judged on
  std::size_t pairs_of_memory_test = 64;  ///< per step, when what training SFT and DPO holds in memory is compared
  std::vector<std::string> arms{"sft", "dpo", "ppo", "ppo_no_kl"};  ///< to train; sft is the ground of the others
  checkpoint_place checkpoints{};
};

/// The same questions put to several models, side by side.
inline std::vector<conversation> sample_conversations(std::vector<question> const& questions,
                                                      std::vector<answer_sheet const*> const& sheets) {
  std::vector<conversation> talks;
  std::array<std::size_t, kind_names.size()> shown{};
  for (std::size_t i = 0; i < questions.size(); ++i) {
    question const& q = questions[i];
    std::size_t const wanted = is_instruction(q) ? 1 : 3;
    if (shown[static_cast<std::size_t>(q.about)]++ >= wanted) continue;
    conversation talk{.prompt = readable(q.prompt), .sort = std::string(kind_names[static_cast<std::size_t>(q.about)]),
                      .said = {}, .verdict = {}, .good = {}};
    for (answer_sheet const* const sheet : sheets) {
      verdict const v = judge(q, sheet->responses[i], sheet->finished[i]);
      talk.said.push_back(readable(sheet->responses[i]));
      talk.good.push_back(answerable(q) ? v.correct && v.friendly : v.refused);
      if (v.refused) talk.verdict.push_back("declined");
      else if (!answerable(q)) talk.verdict.push_back("complied");
      else talk.verdict.push_back(!v.correct ? "wrong" : v.friendly ? "right, friendly" : "right, curt");
    }
    talks.push_back(std::move(talk));
  }
  return talks;
}

class world_run {
 public:
  explicit world_run(world_options options)
      : options_(std::move(options)), words_(world_lexicon()), pool_(std::make_shared<attune::thread_pool>(options_.threads)) {
    options_.model.vocabulary = words_.size();
  }

  world_figures operator()() {
    auto const begin = std::chrono::steady_clock::now();
    std::uint64_t const seed = options_.seed;
    std::vector<question> const questions = draw_exam(options_.exam, seed);
    attune::preference_data const pairs = draw_pairs(words_, options_.corpus, seed, split::training, options_.corpus.pairs,
                                                     options_.corpus.label_noise);
    attune::preference_data const true_pairs = draw_pairs(words_, options_.corpus, seed, split::held_out, options_.held_out_pairs, 0.0);
    attune::preference_data const noisy_pairs = draw_pairs(words_, options_.corpus, seed, split::held_out, options_.held_out_pairs,
                                                           options_.corpus.label_noise);

    attune::decoder<float> const fresh(options_.model, seed, pool_);
    figures_.seed = seed;
    figures_.parameters = fresh.parameter_count();
    figures_.vocabulary = words_.size();
    std::printf("A world of %zu words; a decoder of %zu parameters; %zu threads; seed %llu\n", words_.size(),
                figures_.parameters, pool_->threads(), static_cast<unsigned long long>(seed));

    attune::decoder<float> pretrained = fresh;
    costs const pretraining = supervise("pretraining", "Pretraining", pretrained, options_.pretraining,
                                        pretraining_documents(words_, options_.corpus, seed));
    attune::decoder<float> sft = pretrained;
    costs const fine_tuning = supervise("sft", "SFT", sft, options_.fine_tuning,
                                        fine_tuning_demonstrations(words_, options_.corpus, seed));
    answer_sheet const before = sit_exam(pretrained, words_, questions, options_.exam, seed);
    answer_sheet const sheet_of_sft = sit_exam(sft, words_, questions, options_.exam, seed);

    attune::scalar_head<float> reward(sft, seed);
    figures_.reward_model.training = model_rewards(reward, pairs);
    figures_.reward_model.accuracy = attune::pairwise_accuracy(reward, true_pairs);
    figures_.reward_model.noisy_accuracy = attune::pairwise_accuracy(reward, noisy_pairs);
    attune::reward_statistics const scale = reward_scale(sft, reward, words_, pairs, options_.ppo, seed);

    std::vector<answer_sheet> sheets;
    sheets.reserve(2 + options_.arms.size());
    auto const add_arm = [&](std::string const& name, answer_sheet sheet, divergence kl, costs training, std::size_t responses,
                             std::size_t copies) {
      arm_figures arm = mark(name, questions, sheet);
      compare(arm, questions, sheet, sheet_of_sft);
      arm.kl_to_sft = kl.mean;
      arm.kl_error = kl.standard_error;
      arm.training = training;
      arm.model_copies = copies;
      arm.responses = responses;
      std::vector<double> scores = completion_scores(reward, sheet.tokens);
      for (double& score : scores) score = (score - scale.mean) / scale.deviation;
      arm.learned_reward = std::accumulate(scores.begin(), scores.end(), 0.0) / static_cast<double>(scores.size());
      if (name != "pretrained") figures_.rewards.push_back({name, {}, std::move(scores), figures_.arms.size()});
      figures_.arms.push_back(std::move(arm));
      sheets.push_back(std::move(sheet));
    };
    auto const add_policy = [&](std::string const& name, attune::decoder<float>& policy, costs training, std::size_t responses,
                                std::size_t copies) {
      answer_sheet sheet = sit_exam(policy, words_, questions, options_.exam, seed);
      divergence const kl = divergence_between(policy, sft, sheet.tokens);
      add_arm(name, std::move(sheet), kl, training, responses, copies);
      figures_.margins.push_back({name, {}, log_prob_margins(policy, true_pairs), figures_.arms.size() - 1});
    };
    add_arm("pretrained", before, divergence_between(pretrained, sft, before.tokens), pretraining, options_.corpus.documents, 1);
    add_arm("sft", sheet_of_sft, {}, fine_tuning, options_.corpus.demonstrations, 1);
    figures_.margins.push_back({"sft", {}, log_prob_margins(sft, true_pairs), 1});
    if (wanted("dpo")) {
      attune::decoder<float> policy = sft;
      costs const training = prefer(policy, pairs);
      add_policy("dpo", policy, training, 2 * pairs.size(), 1);  // the reference is two cached numbers per pair
    }
    for (bool const with_kl : {true, false}) {
      std::string const name = with_kl ? "ppo" : "ppo_no_kl";
      if (!wanted(name)) continue;
      attune::decoder<float> policy = sft;
      reinforcement_options o = options_.ppo;
      if (!with_kl) o.kl_coef = 0.0;
      std::size_t const responses = static_cast<std::size_t>(o.updates.epochs * static_cast<double>(pairs.size()));
      costs const training = reinforce(name, policy, sft, reward, scale, words_, pairs, o, seed, options_.checkpoints, figures_);
      add_policy(name, policy, training, responses, 4);  // policy, reference, reward model, critic
    }
    std::vector<answer_sheet const*> shown;
    for (answer_sheet const& sheet : sheets) shown.push_back(&sheet);
    figures_.conversations = sample_conversations(questions, shown);
    figures_.claims = check_claims(figures_, pretrained, pairs, options_.pairs_of_memory_test);
    figures_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return std::move(figures_);
  }

 private:
  static attune::adamw<float> optimizer() { return attune::adamw<float>({.beta2 = 0.95, .weight_decay = 0.01}); }

  costs supervise(char const* stage, char const* title, attune::decoder<float>& model, stage_options const& o,
                  attune::demonstration_data const& data) {
    stage_meter const meter(model.flops());
    learning_curves sink(stage);
    attune::adamw<float> adamw = optimizer();
    attune::sft_trainer trainer{model, adamw, attune::sft_trainer_options{.loop = loop_of(o, data.size(), options_.seed, options_.checkpoints, stage)}};
    trainer.fit(data, sink);
    figures_.loss_curves.push_back(sink.loss(title));
    return meter.read(model.flops());
  }

  costs model_rewards(attune::scalar_head<float>& model, attune::preference_data const& pairs) {
    stage_meter const meter(model.flops());
    learning_curves sink("reward_model");
    attune::adamw<float> adamw = optimizer();
    attune::reward_trainer trainer{
        model, adamw, attune::reward_trainer_options{.loop = loop_of(options_.reward_model, pairs.size(), options_.seed, options_.checkpoints, "reward_model")}};
    trainer.fit(pairs, sink);
    figures_.loss_curves.push_back(sink.loss("Reward model"));
    figures_.accuracy_curves.push_back(sink.accuracy("Reward model", 3));
    return meter.read(model.flops());
  }

  costs prefer(attune::decoder<float>& policy, attune::preference_data const& pairs) {
    stage_meter const meter(policy.flops());
    learning_curves sink("dpo");
    attune::reference_cache const reference = attune::cached_reference("", policy, pairs);  // the SFT model, once
    attune::adamw<float> adamw = optimizer();
    attune::dpo_trainer trainer{policy, reference, adamw,
                                attune::dpo_trainer_options{.loop = loop_of(options_.dpo, pairs.size(), options_.seed, options_.checkpoints, "dpo"),
                                                            .losses = options_.preference}};
    trainer.fit(pairs, sink);
    figures_.loss_curves.push_back(sink.loss("DPO"));
    figures_.accuracy_curves.push_back(sink.accuracy("DPO", 2));
    return meter.read(policy.flops());
  }

  bool wanted(std::string const& arm) const {
    return std::find(options_.arms.begin(), options_.arms.end(), arm) != options_.arms.end();
  }

  world_options options_;
  lexicon words_;
  std::shared_ptr<attune::thread_pool> pool_;
  world_figures figures_;
};

}  // namespace recipe
