// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include <attune/data/byte_tokenizer.hpp>
#include <attune/data/load_preferences.hpp>
#include <attune/eval/pairwise_accuracy.hpp>
#include <attune/io/model_file.hpp>
#include <attune/model/decoder.hpp>
#include <attune/model/scalar_head.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/reward_trainer.hpp>
#include <attune/train/sft_trainer.hpp>

#include "figures.hpp"
#include "learning_curves.hpp"
#include "pair_views.hpp"
#include "scoring.hpp"
#include "stage_meter.hpp"
#include "stage_options.hpp"

/// The same recipe on real preference pairs: a byte-level decoder from random parameters, pretrained on the transcripts
/// as plain text, SFT on the chosen replies, a reward model and DPO on the pairs, judged by how they rank held-out pairs.
///
/// The reward model scores every byte of the reply and pools them (root_sum): read at the last byte alone it tends to
/// memorise the training pairs. Few held-out pairs make a wide interval, so it is cross-validated
/// over the training pairs too, each fold starting from the pretrained trunk, which has seen no label.
namespace recipe {

struct preference_run_options {
  std::string pairs;           ///< training pairs, .jsonl or .jsonl.gz
  std::string valid;           ///< held-out pairs, likewise
  std::uint64_t seed = 1;
  std::size_t threads = 0;     ///< 0: all that the machine has; figures do not depend on it
  std::size_t max_rows = 0;    ///< of each file; 0 reads all
  attune::decoder_options model{.vocabulary = attune::byte_tokenizer::vocabulary(), .dim = 96, .layers = 3, .heads = 3,
                                .kv_heads = 3, .hidden = 256, .window = 512, .tied = false};
  excerpt spoken{.prompt = 192, .reply = 320};                      ///< what SFT and DPO see of a pair
  excerpt judged{.prompt = 32, .reply = 352, .end_of_reply = true}; ///< what the reward model sees
  stage_options pretraining{.learning_rate = 4e-3, .batch_size = 8, .epochs = 5.0, .warmup_steps = 40};
  stage_options fine_tuning{.learning_rate = 5e-4, .batch_size = 16, .epochs = 1.0};
  stage_options reward_model{.learning_rate = 5e-4, .batch_size = 16, .epochs = 2.0};
  stage_options dpo{.learning_rate = 2e-4, .batch_size = 16, .epochs = 1.0};
  std::size_t folds = 5;               ///< of the reward model's cross-validation; 0 leaves it out
  double beta = 0.1;
  std::size_t longest_response = 128;  ///< bytes sampled per held-out prompt, for the KL
  checkpoint_place checkpoints{};
};

struct judge_figures {
  std::string name;
  attune::proportion accuracy;            ///< held-out pairs ranked as labelled, by the sum of log-probabilities, or the reward
  attune::proportion accuracy_per_token;  ///< by the mean log-probability of a token
  bool per_token = false;                 ///< whether that figure applies
  double train_loss = 0.0;                ///< of the last step
  double held_out_loss = 0.0;
  divergence kl{};                        ///< to SFT
  costs training;
};

struct preference_figures {
  std::uint64_t seed = 0;
  std::size_t parameters = 0;
  std::size_t pairs = 0;
  std::size_t held_out = 0;
  std::string data;  ///< what became of the files' rows
  judge_figures pretrained, sft, reward_model, dpo;
  attune::proportion cross_validated;  ///< the reward model's accuracy over the folds of the training pairs
  double seconds = 0.0;
  std::vector<series> loss_curves, accuracy_curves, margins;
  std::vector<conversation> conversations;
};

class preference_run {
 public:
  explicit preference_run(preference_run_options options)
      : options_(std::move(options)), pool_(std::make_shared<attune::thread_pool>(options_.threads)) {}

  preference_figures operator()() {
    auto const begin = std::chrono::steady_clock::now();
    attune::preference_data const pairs = load(options_.pairs), held_out = load(options_.valid);
    attune::preference_data const spoken = excerpts(pairs, options_.spoken), held_out_spoken = excerpts(held_out, options_.spoken);
    attune::preference_data const judged = excerpts(pairs, options_.judged), held_out_judged = excerpts(held_out, options_.judged);
    figures_.seed = options_.seed;
    figures_.pairs = pairs.size();
    figures_.held_out = held_out.size();

    attune::decoder<float> pretrained(options_.model, options_.seed, pool_);
    figures_.parameters = pretrained.parameter_count();
    std::printf("A byte-level decoder of %zu parameters; %zu threads; seed %llu\n", figures_.parameters, pool_->threads(),
                static_cast<unsigned long long>(options_.seed));
    figures_.pretrained = supervise("pretraining", "Pretraining", pretrained, options_.pretraining,
                                    transcripts(pairs, options_.model.window), transcripts(held_out, options_.model.window), held_out_spoken);
    attune::decoder<float> sft = pretrained;
    figures_.sft = supervise("sft", "SFT", sft, options_.fine_tuning, attune::demonstrations_of(spoken),
                             attune::demonstrations_of(held_out_spoken), held_out_spoken);
    figures_.reward_model = model_rewards(sft, judged, held_out_judged);
    if (options_.folds > 1) cross_validate(pretrained, judged);
    attune::decoder<float> aligned = sft;
    figures_.dpo = prefer(aligned, sft, spoken, held_out_spoken);
    keep("sft", sft, attune::to_metadata(sft.options()));
    keep("dpo", aligned, attune::to_metadata(aligned.options()));

    sample(pretrained, sft, aligned, held_out_spoken);
    figures_.margins = {{"SFT", {}, log_prob_margins(sft, held_out_spoken), 1}, {"DPO", {}, log_prob_margins(aligned, held_out_spoken), 2}};
    figures_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return std::move(figures_);
  }

 private:
  attune::preference_data load(std::string const& path) {
    attune::load_report report;
    attune::preference_data data = attune::load_preferences(
        path, attune::byte_tokenizer{},
        {.bos = attune::byte_tokenizer::bos(), .eos = attune::byte_tokenizer::eos(),
         .max_rows = options_.max_rows}, report);
    std::string const line = path + ": " + attune::summary(report);
    std::printf("%s\n", line.c_str());
    figures_.data += line + "\n";
    return data;
  }

  /// Writes a model beside the checkpoints, for the programs that take one.
  template <class Model>
  void keep(std::string const& name, Model& model, std::map<std::string, std::string> const& metadata) const {
    if (options_.checkpoints.folder.empty()) return;
    std::string const path = options_.checkpoints.folder + "/" + name + ".safetensors";
    attune::save_parameters(path, model.parameters(), metadata);
    std::printf("wrote %s\n", path.c_str());
  }

  static double evaluation(attune::training_summary const& summary, std::string_view name) {
    for (attune::named_value const& v : summary.evaluation)
      if (v.name == name) return v.value;
    return std::numeric_limits<double>::quiet_NaN();
  }

  template <class Trainer, class Train, class Evaluation>
  judge_figures fit(char const* name, char const* title, Trainer& trainer, Train const& train, Evaluation const& held_out) {
    learning_curves sink(name);
    attune::training_summary const summary = trainer.fit(train, held_out, sink);
    figures_.loss_curves.push_back(sink.loss(title));
    if (series const accuracy = sink.accuracy(title, 1 + figures_.accuracy_curves.size()); !accuracy.x.empty()) figures_.accuracy_curves.push_back(accuracy);
    judge_figures judge;
    judge.name = name;
    judge.train_loss = summary.last_loss;
    judge.held_out_loss = evaluation(summary, "eval_loss");
    return judge;
  }

  /// Next-token training, judged by the log-probabilities it gives to held-out pairs.
  template <class Train, class Evaluation>
  judge_figures supervise(char const* stage, char const* title, attune::decoder<float>& model, stage_options const& o,
                          Train const& train, Evaluation const& held_out, attune::preference_data const& held_out_pairs) {
    stage_meter const meter(model.flops());
    attune::adamw<float> adamw = optimizer();
    attune::sft_trainer trainer{model, adamw, attune::sft_trainer_options{.loop = loop_of(o, train.size(), options_.seed, options_.checkpoints, stage)}};
    judge_figures judge = fit(stage, title, trainer, train, held_out);
    judge.training = meter.read(model.flops());
    attune::log_prob_score sum(model), mean(model, true);
    judge.accuracy = attune::pairwise_accuracy(sum, held_out_pairs);
    judge.accuracy_per_token = attune::pairwise_accuracy(mean, held_out_pairs);
    judge.per_token = true;
    return judge;
  }

  judge_figures model_rewards(attune::decoder<float> const& sft, attune::preference_data const& pairs, attune::preference_data const& held_out) {
    attune::scalar_head<float> model(sft, options_.seed, attune::score_pooling::root_sum);
    stage_meter const meter(model.flops());
    attune::adamw<float> adamw = optimizer();
    attune::reward_trainer trainer{
        model, adamw, attune::reward_trainer_options{.loop = loop_of(options_.reward_model, pairs.size(), options_.seed, options_.checkpoints, "reward_model")}};
    judge_figures judge = fit("reward_model", "Reward model", trainer, pairs, held_out);
    judge.training = meter.read(model.flops());
    judge.accuracy = attune::pairwise_accuracy(model, held_out);
    auto metadata = attune::to_metadata(model.options());
    metadata["head"] = "score";
    metadata["pooling"] = "root_sum";
    keep("reward_model", model, metadata);
    return judge;
  }

  /// Every training pair ranked by a reward model that was trained on the other folds.
  void cross_validate(attune::decoder<float> const& pretrained, attune::preference_data const& pairs) {
    std::size_t right = 0;
    for (std::size_t fold = 0; fold < options_.folds; ++fold) {
      pairs_among train{pairs, {}}, test{pairs, {}};
      for (std::size_t i = 0; i < pairs.size(); ++i) (i % options_.folds == fold ? test : train).rows.push_back(i);
      attune::scalar_head<float> model(pretrained, options_.seed + fold, attune::score_pooling::root_sum);
      attune::adamw<float> adamw = optimizer();
      std::string const stage = "fold_" + std::to_string(fold + 1);
      attune::reward_trainer trainer{
          model, adamw, attune::reward_trainer_options{.loop = loop_of(options_.reward_model, train.size(), options_.seed, options_.checkpoints, stage)}};
      learning_curves sink(stage);
      trainer.fit(train, sink);
      right += attune::pairwise_accuracy(model, test).hits;
    }
    figures_.cross_validated = attune::wilson_interval(right, pairs.size());
  }

  judge_figures prefer(attune::decoder<float>& policy, attune::decoder<float> const& sft, attune::preference_data const& pairs,
                       attune::preference_data const& held_out) {
    stage_meter const meter(policy.flops());
    attune::reference_cache const reference = attune::cached_reference("", policy, pairs, held_out);  // the SFT model, once
    attune::adamw<float> adamw = optimizer();
    attune::dpo_trainer trainer{
        policy, reference, adamw,
        attune::dpo_trainer_options{.loop = loop_of(options_.dpo, pairs.size(), options_.seed, options_.checkpoints, "dpo"), .losses = attune::dpo_options{.beta = options_.beta}}};
    judge_figures judge = fit("dpo", "DPO", trainer, pairs, held_out);
    judge.training = meter.read(policy.flops());
    attune::implicit_reward reward(policy, sft, options_.beta);
    judge.accuracy = attune::pairwise_accuracy(reward, held_out);
    return judge;
  }

  /// Replies of all models to the held-out prompts: the KL to SFT, and a few to read.
  void sample(attune::decoder<float>& pretrained, attune::decoder<float>& sft, attune::decoder<float>& aligned,
              attune::preference_data const& held_out) {
    attune::sequences prompts;
    for (std::size_t i = 0; i < held_out.size(); ++i) prompts.push_back(held_out[i].prompt, {});
    auto const replies_of = [&](attune::decoder<float>& model) {
      attune::sequences spoken;
      model.generate(prompts, {.max_new_tokens = options_.longest_response, .stop_tokens = {attune::byte_tokenizer::eos()},
                               .seed = options_.seed}, spoken);
      attune::demonstration_data replies;
      for (std::size_t i = 0; i < held_out.size(); ++i) {
        std::span<attune::token_id const> const asked = held_out[i].prompt;
        replies.push_back({.prompt = asked, .completion = spoken.view().sequence(i).subspan(asked.size())});
      }
      return replies;
    };
    attune::demonstration_data const first = replies_of(pretrained), before = replies_of(sft), after = replies_of(aligned);
    figures_.pretrained.kl = divergence_between(pretrained, sft, first);
    figures_.dpo.kl = divergence_between(aligned, sft, after);
    attune::byte_tokenizer const bytes;
    for (std::size_t i = 0; i < std::min<std::size_t>(after.size(), 6); ++i)
      figures_.conversations.push_back({.prompt = bytes.decode(after[i].prompt), .sort = {},
                                        .said = {bytes.decode(before[i].completion), bytes.decode(after[i].completion)},
                                        .verdict = {}, .good = {}});
  }

  static attune::adamw<float> optimizer() { return attune::adamw<float>({.beta2 = 0.98, .weight_decay = 0.1}); }

  preference_run_options options_;
  std::shared_ptr<attune::thread_pool> pool_;
  preference_figures figures_;
};

}  // namespace recipe
