// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include <CLI/CLI.hpp>

#include <attune/data/byte_tokenizer.hpp>
#include <attune/data/load_options.hpp>
#include <attune/io/jsonl_sink.hpp>
#include <attune/io/model_file.hpp>
#include <attune/io/tee_sink.hpp>
#include <attune/io/terminal_sink.hpp>
#include <attune/model/decoder.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/checkpoint.hpp>
#include <attune/train/loop_options.hpp>

/// What the programs sft, reward_model, dpo and ppo have in common: their options, under TRL's names, the model they start
/// from, and the folder that a run lives in:
///   model.safetensors    the trained model, when the run is done
///   metrics.jsonl        one line per report
///   checkpoints/         what --resume goes on from
namespace programs {

struct run_options {
  std::string model, data, valid, output;
  std::string schedule = "linear";
  std::size_t max_length = 0;  ///< 0: the model's window
  std::size_t threads = 0;     ///< 0: all of the machine's; results do not depend on it
  attune::decoder_options shape{.vocabulary = attune::byte_tokenizer::vocabulary()};  ///< where no model is given
  attune::adamw_options adamw;
  attune::loop_options loop{.save_steps = 100};
};

/// CLI11 2.1 reads "-1" as the largest number of an unsigned type.
inline std::string not_negative(std::string const& text) {
  return text.starts_with('-') ? "a number below 0: " + text : std::string();
}

inline CLI::Option* add_count(CLI::App& app, char const* name, std::size_t& value, char const* meaning) {
  return app.add_option(name, value, meaning)->check(not_negative)->capture_default_str()->group("Training");
}

/// Those of every training program; add_run_options has the rest.
inline void add_common_options(CLI::App& app, run_options& o) {
  app.add_option("--output", o.output, "folder of the run: model.safetensors, metrics.jsonl, checkpoints/")->required();
  app.add_flag("--resume", o.loop.resume, "go on with the run in --output, if there is one; ends in the same bits");
  app.add_option("--seed", o.loop.seed, "of everything random")->check(not_negative)->capture_default_str();
  app.add_option("--threads", o.threads, "0: all of the machine's; results do not depend on it")
      ->check(CLI::Range(0, 1024))->capture_default_str();
  auto const option = [&](char const* name, auto& value, char const* meaning) {
    return app.add_option(name, value, meaning)->capture_default_str()->group("Training");
  };
  option("--learning-rate", o.loop.learning_rate, "peak of the schedule");
  option("--lr-scheduler-type", o.schedule, "of the learning rate")
      ->check(CLI::IsMember({"constant", "linear", "cosine"}));
  add_count(app, "--warmup-steps", o.loop.warmup_steps, "steps of rising learning rate");
  option("--weight-decay", o.adamw.weight_decay, "AdamW's, of matrices");
  option("--max-grad-norm", o.loop.max_grad_norm, "gradients are clipped to this global norm");
  add_count(app, "--batch-size", o.loop.batch_size, "rows per step");
  option("--epochs", o.loop.epochs, "passes over the data");
  add_count(app, "--max-length", o.max_length, "tokens of prompt and reply; longer rows are cut; 0: the model's window");
  add_count(app, "--logging-steps", o.loop.logging_steps, "steps per line of metrics");
  add_count(app, "--save-steps", o.loop.save_steps, "steps per checkpoint; 0: at the end only");
}

/// For programs that learn from given replies.
inline void add_run_options(CLI::App& app, run_options& o) {
  app.add_option("--data", o.data, "training data, .jsonl or .jsonl.gz")->required();
  app.add_option("--valid", o.valid, "held-out data of the same kind, for evaluation");
  add_common_options(app, o);
  add_count(app, "--max-steps", o.loop.max_steps, "if not 0, steps of the run, whatever --epochs says");
  add_count(app, "--eval-steps", o.loop.eval_steps, "steps per evaluation; 0: at the end only");
}

/// --model, and the shape of a fresh one for programs that can do without.
inline void add_model_options(CLI::App& app, run_options& o) {
  CLI::Option* const model = app.add_option("--model", o.model, "model.safetensors to start from; none: a fresh one");
  auto const count = [&](char const* name, std::size_t& value, char const* meaning) {
    CLI::Option* const option = app.add_option(name, value, meaning)->capture_default_str()->group("A fresh model");
    option->check(not_negative)->excludes(model);
  };
  count("--dim", o.shape.dim, "width of the residual stream");
  count("--layers", o.shape.layers, "transformer blocks");
  count("--heads", o.shape.heads, "attention heads");
  count("--hidden", o.shape.hidden, "width of the feed-forward layers");
  count("--window", o.shape.window, "longest sequence, in tokens");
}

/// The shape of the model in a file, with what save() wrote beside it. Refuses what the programs cannot read.
inline attune::decoder_options shape_of(std::string const& file, std::map<std::string, std::string> const& metadata) {
  auto const refuse = [&](std::string const& reason) { throw attune::data_error(file + ": " + reason); };
  attune::decoder_options shape;
  try {
    shape = attune::decoder_options_from(metadata);
  } catch (std::exception const& error) {
    refuse(error.what());
  }
  if (shape.vocabulary != attune::byte_tokenizer::vocabulary())
    refuse("its vocabulary is " + std::to_string(shape.vocabulary) + " and not the 258 of the byte-level tokenizer");
  return shape;
}

/// The model of --model, or a fresh one.
inline attune::decoder<float> starting_model(run_options const& o) {
  auto const pool = std::make_shared<attune::thread_pool>(o.threads);
  if (o.model.empty()) {
    attune::decoder_options shape = o.shape;
    shape.kv_heads = shape.heads;
    return attune::decoder<float>(shape, o.loop.seed, pool);
  }
  std::map<std::string, std::string> const metadata = attune::read_metadata(o.model);
  if (metadata.contains("head")) throw attune::data_error(o.model + ": a reward model; a language model is needed");
  attune::decoder<float> model(shape_of(o.model, metadata), 0, pool);
  attune::load_parameters(o.model, model.parameters());
  return model;
}

/// Reads a file by `load` (load_preferences, say) and tells what became of its rows.
template <class Load>
auto read_data(std::string const& path, run_options const& o, std::size_t window, Load load) {
  attune::expects(o.max_length <= window, "--max-length at most the model's window", o.max_length);
  attune::load_report report;
  auto data = load(path, attune::byte_tokenizer{},
                   attune::load_options{.window = o.max_length == 0 ? window : o.max_length,
                                        .bos = attune::byte_tokenizer::bos(), .eos = attune::byte_tokenizer::eos()},
                   report);
  std::printf("%s: %s\n", path.c_str(), attune::summary(report).c_str());
  return data;
}

/// The folder of a run. Made when data and model have been read, so a refused run leaves nothing behind.
class run_folder {
 public:
  explicit run_folder(run_options const& o) : path_(o.output) {
    std::filesystem::create_directories(path_);
    bool const goes_on = o.loop.resume && !attune::checkpoint_folder(path_ / "checkpoints").steps().empty();
    metrics_ = std::make_unique<attune::jsonl_sink>(path_ / "metrics.jsonl",
                                                    attune::jsonl_sink_options{.append = goes_on});
  }

  std::string operator/(char const* name) const { return path_ / name; }

  /// Trains, with metrics to the terminal and into the folder.
  template <class Trainer, class Data, class Evaluation>
  attune::training_summary fit(Trainer& trainer, Data const& train, Evaluation const* held_out) {
    attune::tee_sink sink(attune::terminal_sink(), *metrics_);
    return held_out == nullptr ? trainer.fit(train, sink) : trainer.fit(train, *held_out, sink);
  }

  /// The same for trainers that evaluate on no data of their own.
  template <class Trainer, class Data>
  attune::training_summary fit(Trainer& trainer, Data const& train) {
    return trainer.fit(train, attune::tee_sink(attune::terminal_sink(), *metrics_));
  }

  template <class Model>
  void save(Model& model, std::map<std::string, std::string> const& metadata, attune::training_summary const& done) {
    std::string const file = path_ / "model.safetensors";
    attune::save_parameters(file, model.parameters(), metadata);
    std::printf("%zu steps, %zu tokens, loss %.4f -> %.4f", done.steps, done.tokens, done.first_loss, done.last_loss);
    for (attune::named_value const& v : done.evaluation) std::printf(", %s %.4f", v.name.c_str(), v.value);
    std::printf("\nwrote %s\n", file.c_str());
  }

 private:
  std::filesystem::path path_;
  std::unique_ptr<attune::jsonl_sink> metrics_;
};

/// Parses, checks what can be checked before any file is read, and runs `body`; what goes wrong becomes one line on
/// standard error and exit status 1.
template <class Body>
int run(CLI::App& app, int count, char** values, run_options& o, Body body) {
  CLI11_PARSE(app, count, values);
  try {
    o.loop.schedule = o.schedule == "constant" ? attune::learning_rate_schedule::constant
                      : o.schedule == "cosine" ? attune::learning_rate_schedule::cosine
                                               : attune::learning_rate_schedule::linear;
    o.loop.checkpoint_folder = o.output + "/checkpoints";
    validate(o.loop);
    validate(o.adamw);
    for (char const* const name : {"metrics.jsonl", "model.safetensors"})
      if (!o.loop.resume && std::filesystem::exists(std::filesystem::path(o.output) / name))
        throw attune::data_error(o.output + ": holds " + name + " of an earlier run: give --resume to go on with it, "
                                 "or another --output");
    body();
    return EXIT_SUCCESS;
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), error.what());
    return EXIT_FAILURE;
  }
}

}  // namespace programs
