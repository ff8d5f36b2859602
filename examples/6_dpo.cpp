// SPDX-License-Identifier: MIT
//
// dpo: direct preference optimisation of a language model on preference pairs.
//
//   dpo --model sft/model.safetensors --data pairs.jsonl.gz --output dpo
//
// The reference is the model that training starts from. Its log-probabilities are computed once, into
// reference.cache in the output folder: training then holds one model.
#include <optional>
#include <string>

#include <attune/data/load_preferences.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/reference_cache.hpp>

#include "programs/training_program.hpp"

int main(int count, char** values) {
  programs::run_options options;
  options.loop.learning_rate = 1e-4;
  attune::dpo_options objective;
  std::string loss_type = "sigmoid";

  CLI::App app("Direct preference optimisation of a language model.\nRows: {\"prompt\", \"chosen\", \"rejected\"} or "
               "{\"chosen\", \"rejected\"} with a common beginning; texts or messages.", "dpo");
  programs::add_run_options(app, options);
  app.add_option("--model", options.model, "model.safetensors to start from, and the reference")->required();
  app.add_option("--beta", objective.beta, "strength of the pull towards the reference")
      ->capture_default_str()->group("Training");
  app.add_option("--label-smoothing", objective.label_smoothing, "probability that a label is flipped")
      ->capture_default_str()->group("Training");
  app.add_option("--rpo-alpha", objective.rpo_alpha, "weight of the chosen response's negative log-likelihood per token")
      ->capture_default_str()->group("Training");
  app.add_option("--loss-type", loss_type, "what --label-smoothing means: sigmoid (conservative) or robust")
      ->check(CLI::IsMember({"sigmoid", "robust"}))->capture_default_str()->group("Training");

  return programs::run(app, count, values, options, [&] {
    if (loss_type == "robust") objective.smoothing = attune::dpo_smoothing::robust;
    validate(objective);
    attune::decoder<float> policy = programs::starting_model(options);
    auto const load = [&](std::string const& path) {
      return programs::read_data(path, options, policy.options().window,
                                 attune::load_preferences<attune::byte_tokenizer>);
    };
    attune::preference_data const train = load(options.data);
    std::optional<attune::preference_data> held_out;
    if (!options.valid.empty()) held_out = load(options.valid);

    programs::run_folder folder(options);
    std::string const cache = folder / "reference.cache";
    attune::reference_cache const reference = held_out ? attune::cached_reference(cache, policy, train, *held_out)
                                                       : attune::cached_reference(cache, policy, train);
    attune::adamw<float> adamw(options.adamw);
    attune::dpo_trainer trainer{policy, reference, adamw,
                                attune::dpo_trainer_options{.loop = options.loop, .dpo = objective}};
    attune::training_summary const summary = folder.fit(trainer, train, held_out ? &*held_out : nullptr);
    folder.save(policy, attune::to_metadata(policy.options()), summary);
  });
}
