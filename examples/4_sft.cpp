// SPDX-License-Identifier: MIT
//
// sft: supervised fine-tuning of a byte-level decoder, a given one or a fresh one, on demonstrations.
//
//   sft --data demonstrations.jsonl --output sft
//   sft --data pairs.jsonl.gz --chosen --output sft      the preferred replies of preference pairs
#include <optional>
#include <string>

#include <attune/data/load_demonstrations.hpp>
#include <attune/data/load_preferences.hpp>
#include <attune/train/sft_trainer.hpp>

#include "programs/training_program.hpp"

namespace {

attune::demonstration_data load_chosen(std::string const& path, attune::byte_tokenizer const& tokenizer,
                                       attune::load_options const& options, attune::load_report& report) {
  attune::demonstration_data data;
  attune::read_preferences(path, tokenizer, options, report,
                           [&](attune::preference_pair const& pair) { data.push_back({pair.prompt, pair.chosen}); });
  return data;
}

}  // namespace

int main(int count, char** values) {
  programs::run_options options;
  attune::sft_options objective;
  bool chosen = false;
  std::string loss_type = "nll";

  CLI::App app("Supervised fine-tuning of a byte-level language model.\nRows: {\"prompt\", \"completion\"}, "
               "{\"instruction\", \"response\"} or {\"messages\"}.", "sft");
  programs::add_run_options(app, options);
  programs::add_model_options(app, options);
  app.add_flag("--chosen", chosen, "the data are preference pairs; learn their chosen replies");
  app.add_option("--label-smoothing", objective.label_smoothing, "share of a target spread over the vocabulary")
      ->capture_default_str()->group("Training");
  app.add_option("--loss-type", loss_type, "nll, or dft: a token's loss is weighed by its probability")
      ->check(CLI::IsMember({"nll", "dft"}))->capture_default_str()->group("Training");
  app.add_option("--z-loss", objective.z_loss_coef, "weight of the squared log-normaliser of the logits")
      ->capture_default_str()->group("Training");

  return programs::run(app, count, values, options, [&] {
    if (loss_type == "dft") objective.loss_type = attune::sft_loss_type::dft;
    validate(objective);
    attune::decoder<float> model = programs::starting_model(options);
    auto const load = [&](std::string const& path) {
      auto* const read = chosen ? load_chosen : attune::load_demonstrations<attune::byte_tokenizer>;
      return programs::read_data(path, options, model.options().window, read);
    };
    attune::demonstration_data const train = load(options.data);
    std::optional<attune::demonstration_data> held_out;
    if (!options.valid.empty()) held_out = load(options.valid);

    programs::run_folder folder(options);
    attune::adamw<float> adamw(options.adamw);
    attune::sft_trainer trainer{model, adamw, attune::sft_trainer_options{.loop = options.loop, .sft = objective}};
    attune::training_summary const summary = folder.fit(trainer, train, held_out ? &*held_out : nullptr);
    folder.save(model, attune::to_metadata(model.options()), summary);
  });
}
