// SPDX-License-Identifier: MIT
//
// dpo: direct preference optimisation of a language model on preference pairs, by any of the pairwise losses; or KTO
// and its relatives, on responses that were judged one by one.
//
//   dpo --model sft/model.safetensors --data pairs.jsonl.gz --output dpo
//   dpo --model sft/model.safetensors --data pairs.jsonl.gz --output mpo --loss sigmoid:0.8,bco_pair:0.2,sft:1
//   dpo --model sft/model.safetensors --data prompts.jsonl --output online --reward reward/model.safetensors
//   dpo --model sft/model.safetensors --data thumbs.jsonl.gz --output kto --loss kto --feedback
//
// The reference is the model that training starts from. For pairs its log-probabilities are computed once, into
// reference.cache in the output folder: training then holds one model. Losses without a reference skip that; those of
// single responses keep a copy of the model instead, since KTO asks it about completions that met another prompt; so do a
// reference that follows the policy (TR-DPO) and online DPO, whose pairs nobody knows beforehand.
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include <attune/data/feedback_data.hpp>
#include <attune/data/load_feedback.hpp>
#include <attune/data/load_preferences.hpp>
#include <attune/data/load_prompts.hpp>
#include <attune/model/frozen.hpp>
#include <attune/model/synchronized_reference.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/kto_trainer.hpp>
#include <attune/train/online_dpo_trainer.hpp>
#include <attune/train/reference_cache.hpp>

#include "programs/preference_options.hpp"
#include "programs/reward_file.hpp"
#include "programs/training_program.hpp"

namespace {

void train_on_pairs(programs::run_options const& options, attune::dpo_trainer_options const& trainer_options,
                    attune::decoder<float>& policy, attune::preference_data const& train,
                    std::optional<attune::preference_data> const& held_out) {
  programs::run_folder folder(options);
  attune::adamw<float> adamw(options.adamw);
  auto const fit = [&](auto&& reference) {
    attune::dpo_trainer trainer{policy, reference, adamw, trainer_options};
    return folder.fit(trainer, train, held_out ? &*held_out : nullptr);
  };
  attune::training_summary summary;
  if (trainer_options.sync_ref_model) {
    attune::synchronized_reference reference{policy};
    summary = fit(reference);
  } else if (attune::inputs_of({trainer_options.losses, trainer_options.ratios}).reference) {
    std::string const cache = folder / "reference.cache";
    summary = fit(held_out ? attune::cached_reference(cache, policy, train, *held_out)
                           : attune::cached_reference(cache, policy, train));
  } else {
    summary = fit(attune::no_reference{});
  }
  folder.save(policy, attune::to_metadata(policy.options()), summary);
}

/// Online DPO: the data's prompts, pairs of the policy's own.
void train_online(programs::run_options const& options, programs::preference_program_options const& preference,
                  attune::decoder<float>& policy, attune::prompt_data const& prompts,
                  std::optional<attune::preference_data> const& held_out) {
  attune::scalar_head<float> reward = programs::read_reward_model(preference.reward, policy);
  attune::frozen const reference{policy};
  programs::run_folder folder(options);
  attune::adamw<float> adamw(options.adamw);
  attune::online_dpo_trainer trainer{policy, reference, reward, adamw, {preference.pairwise, preference.rollout}};
  attune::training_summary const summary = folder.fit(trainer, prompts, held_out ? &*held_out : nullptr);
  folder.save(policy, attune::to_metadata(policy.options()), summary);
}

template <attune::FeedbackDataset Data>
void train_on_responses(programs::run_options const& options, attune::kto_trainer_options const& trainer_options,
                        attune::decoder<float>& policy, Data const& train, std::optional<Data> const& held_out) {
  validate_sizes(trainer_options, train.size(), held_out ? held_out->size() : 0);
  attune::frozen const reference{policy};
  programs::run_folder folder(options);
  attune::adamw<float> adamw(options.adamw);
  attune::kto_trainer trainer{policy, reference, adamw, trainer_options};
  attune::training_summary const summary = folder.fit(trainer, train, held_out ? &*held_out : nullptr);
  folder.save(policy, attune::to_metadata(policy.options()), summary);
}

}  // namespace

int main(int count, char** values) {
  programs::run_options options;
  options.loop.learning_rate = 1e-4;
  programs::preference_program_options preference;

  CLI::App app("Direct preference optimisation of a language model.\nRows: {\"prompt\", \"chosen\", \"rejected\"} or "
               "{\"chosen\", \"rejected\"} with a common beginning; texts or messages. With --feedback: "
               "{\"prompt\", \"completion\", \"label\"}.", "dpo");
  programs::add_run_options(app, options);
  app.add_option("--model", options.model, "model.safetensors to start from, and the reference")->required();
  auto const settle = programs::add_preference_options(app, options, preference);

  return programs::run(app, count, values, options, [&] {
    settle();
    attune::decoder<float> policy = programs::starting_model(options);
    std::size_t const window = policy.options().window;
    auto const read = [&](auto load) {
      auto train = programs::read_data(options.data, options, window, load);
      std::optional<decltype(train)> held_out;
      if (!options.valid.empty()) held_out = programs::read_data(options.valid, options, window, load);
      return std::pair(std::move(train), std::move(held_out));
    };
    // KTO lets prompts meet other rows' completions: no longer than what was read, or the model would refuse them.
    if (std::holds_alternative<attune::kto_options>(preference.unpaired.objective))
      preference.unpaired.max_length = options.max_length == 0 ? window : options.max_length;

    if (preference.feedback) {
      auto const [train, held_out] = read(attune::load_feedback<attune::byte_tokenizer>);
      return train_on_responses(options, preference.unpaired, policy, train, held_out);
    }
    if (!preference.reward.empty()) {
      preference.rollout.stop_tokens = {attune::byte_tokenizer::eos()};
      attune::prompt_data const prompts = programs::read_data(
          options.data, options, window,
          [&](std::string const& path, attune::byte_tokenizer tokenizer, attune::load_options const& how, attune::load_report& report) {
            return attune::load_prompts(path, tokenizer, how, preference.rollout.max_new_tokens, report);
          });
      std::optional<attune::preference_data> held_out;
      if (!options.valid.empty())
        held_out = programs::read_data(options.valid, options, window, attune::load_preferences<attune::byte_tokenizer>);
      return train_online(options, preference, policy, prompts, held_out);
    }
    auto const [train, held_out] = read(attune::load_preferences<attune::byte_tokenizer>);
    if (!preference.single_responses) return train_on_pairs(options, preference.pairwise, policy, train, held_out);
    auto const responses = attune::unpaired(train);
    std::optional<attune::unpaired_feedback<attune::preference_data>> held_out_responses;
    if (held_out) held_out_responses = attune::unpaired(*held_out);
    train_on_responses(options, preference.unpaired, policy, responses, held_out_responses);
  });
}
