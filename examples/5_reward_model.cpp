// SPDX-License-Identifier: MIT
//
// reward_model: a score for replies, learned from preference pairs (Bradley-Terry), on top of a language model's trunk.
//
//   reward_model --model sft/model.safetensors --data pairs.jsonl.gz --output reward
#include <optional>
#include <string>

#include <attune/data/load_preferences.hpp>
#include <attune/model/scalar_head.hpp>
#include <attune/train/reward_trainer.hpp>

#include "programs/training_program.hpp"

int main(int count, char** values) {
  programs::run_options options;
  options.loop.learning_rate = 5e-4;
  attune::bradley_terry_options objective;
  std::string pooling = "last";

  CLI::App app("Trains a reward model on preference pairs.\nRows: {\"prompt\", \"chosen\", \"rejected\"} or "
               "{\"chosen\", \"rejected\"} with a common beginning; texts or messages; optionally \"margin\".",
               "reward_model");
  programs::add_run_options(app, options);
  programs::add_model_options(app, options);
  app.add_option("--pooling", pooling, "where a score is read: the last token, or over the reply")
      ->check(CLI::IsMember({"last", "mean", "root_sum"}))->capture_default_str();
  app.add_option("--center-rewards-coefficient", objective.center_rewards_coefficient, "pulls rewards towards mean 0")
      ->capture_default_str()->group("Training");

  return programs::run(app, count, values, options, [&] {
    validate(objective);
    attune::scalar_head<float> model(programs::starting_model(options), options.loop.seed,
                                     attune::score_pooling_of(pooling).value());
    auto const load = [&](std::string const& path) {
      return programs::read_data(path, options, model.options().window,
                                 attune::load_preferences<attune::byte_tokenizer>);
    };
    attune::preference_data const train = load(options.data);
    std::optional<attune::preference_data> held_out;
    if (!options.valid.empty()) held_out = load(options.valid);

    programs::run_folder folder(options);
    attune::adamw<float> adamw(options.adamw);
    attune::reward_trainer trainer{
        model, adamw, attune::reward_trainer_options{.loop = options.loop, .bradley_terry = objective}};
    attune::training_summary const summary = folder.fit(trainer, train, held_out ? &*held_out : nullptr);
    auto metadata = attune::to_metadata(model.options());
    metadata["head"] = "score";
    metadata["pooling"] = pooling;
    folder.save(model, metadata, summary);
  });
}
