// SPDX-License-Identifier: MIT
//
// dpo: direct preference optimisation of a language model on preference pairs, by any of the pairwise losses.
//
//   dpo --model sft/model.safetensors --data pairs.jsonl.gz --output dpo
//   dpo --model sft/model.safetensors --data pairs.jsonl.gz --output mpo --loss sigmoid:0.8,bco_pair:0.2,sft:1
//
// The reference is the model that training starts from. Its log-probabilities are computed once, into
// reference.cache in the output folder: training then holds one model. Losses without a reference skip that.
#include <optional>
#include <string>

#include <attune/data/load_preferences.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/reference_cache.hpp>

#include "programs/preference_options.hpp"
#include "programs/training_program.hpp"

int main(int count, char** values) {
  programs::run_options options;
  options.loop.learning_rate = 1e-4;
  attune::dpo_trainer_options trainer_options;

  CLI::App app("Direct preference optimisation of a language model.\nRows: {\"prompt\", \"chosen\", \"rejected\"} or "
               "{\"chosen\", \"rejected\"} with a common beginning; texts or messages.", "dpo");
  programs::add_run_options(app, options);
  app.add_option("--model", options.model, "model.safetensors to start from, and the reference")->required();
  auto const settle = programs::add_preference_options(app, trainer_options);

  return programs::run(app, count, values, options, [&] {
    settle();
    trainer_options.loop = options.loop;
    attune::decoder<float> policy = programs::starting_model(options);
    auto const load = [&](std::string const& path) {
      return programs::read_data(path, options, policy.options().window,
                                 attune::load_preferences<attune::byte_tokenizer>);
    };
    attune::preference_data const train = load(options.data);
    std::optional<attune::preference_data> held_out;
    if (!options.valid.empty()) held_out = load(options.valid);

    programs::run_folder folder(options);
    attune::adamw<float> adamw(options.adamw);
    auto const fit = [&](auto const& reference) {
      attune::dpo_trainer trainer{policy, reference, adamw, trainer_options};
      return folder.fit(trainer, train, held_out ? &*held_out : nullptr);
    };
    attune::training_summary summary;
    if (attune::inputs_of({trainer_options.losses, trainer_options.ratios}).reference) {
      std::string const cache = folder / "reference.cache";
      summary = fit(held_out ? attune::cached_reference(cache, policy, train, *held_out)
                             : attune::cached_reference(cache, policy, train));
    } else {
      summary = fit(attune::no_reference{});
    }
    folder.save(policy, attune::to_metadata(policy.options()), summary);
  });
}
