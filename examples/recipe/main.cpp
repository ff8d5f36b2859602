// SPDX-License-Identifier: MIT
//
// From raw data to an aligned model in one command.
//
//   recipe                                   a small generated world; needs no files
//   recipe --pairs train.jsonl.gz --valid valid.jsonl.gz    real preference pairs, byte by byte
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

#include <CLI/CLI.hpp>

#include <attune/core/atomic_file.hpp>

#include "preference_report.hpp"
#include "preference_run.hpp"
#include "world_report.hpp"
#include "world_run.hpp"

namespace {

struct command_line {
  std::uint64_t seed = 1;
  std::size_t threads = 0;
  std::string json;
  std::string report = "report.html";
  std::string pairs, valid, output;
  bool resume = false;
  bool smoke = false;
  std::vector<std::string> only;
};

void write(std::string const& path, std::string const& text) {
  if (path.empty()) return;
  attune::write_atomically(path, [&](attune::file_writer& out) { out.write(text); });
  std::printf("wrote %s\n", path.c_str());
}

template <class Figures>
void tell(command_line const& asked, Figures const& figures, std::string const& report) {
  print_table(figures);
  write(asked.report, report);
  write(asked.json, to_json(figures));
}

void run_world(command_line const& asked) {
  recipe::world_options o;
  o.seed = asked.seed;
  o.threads = asked.threads;
  o.checkpoints = {asked.output, asked.resume};
  if (!asked.only.empty()) o.arms = asked.only;
  if (asked.smoke) {
    o.ppo.updates.batch_size = 8;
    o.ppo.scale_responses = 16;
    o.pairs_of_memory_test = 8;
    o.corpus.documents = o.corpus.demonstrations = 640;
    o.corpus.pairs = o.held_out_pairs = 128;
    o.exam.per_instruction_kind = o.exam.harmful = o.exam.lookalikes = 8;
    o.model.dim = 32;
    o.model.hidden = 64;
    o.model.layers = 2;
  }
  recipe::world_figures const figures = recipe::world_run(o)();
  tell(asked, figures, recipe::world_report(figures));
}

void run_preferences(command_line const& asked) {
  recipe::preference_run_options o;
  o.pairs = asked.pairs;
  o.valid = asked.valid;
  o.seed = asked.seed;
  o.threads = asked.threads;
  o.checkpoints = {asked.output, asked.resume};
  if (asked.smoke) {
    o.max_rows = 12;
    o.model.dim = 18;
    o.model.hidden = 32;
    o.model.layers = 1;
    o.folds = 2;
    o.longest_response = 8;
  }
  recipe::preference_figures const figures = recipe::preference_run(o)();
  tell(asked, figures, recipe::preference_report(figures));
}

}  // namespace

int main(int count, char** values) {
  command_line asked;
  CLI::App app("Aligns a small language model from nothing: pretraining, supervised fine-tuning, a reward model, DPO\n"
               "and PPO with and without a KL penalty.\n"
               "Without --pairs it does so on a generated world in which the truth about every answer is known.");
  app.add_option("--seed", asked.seed, "of everything random; the same seed gives the same figures")->capture_default_str();
  app.add_option("--threads", asked.threads, "0: all of the machine's; figures do not depend on it")->capture_default_str();
  app.add_option("--report", asked.report, "HTML page to write; empty writes none")->capture_default_str();
  app.add_option("--json", asked.json, "file for the figures");
  CLI::Option* const pairs = app.add_option("--pairs", asked.pairs, "train on these preference pairs instead (.jsonl, .jsonl.gz)");
  CLI::Option* const valid = app.add_option("--valid", asked.valid, "held-out preference pairs, for judging");
  pairs->needs(valid);
  valid->needs(pairs);
  CLI::Option* const output = app.add_option("--output", asked.output, "folder for checkpoints of every stage");
  app.add_flag("--resume", asked.resume, "go on from the checkpoints in --output; seconds and FLOPs are then of this process")->needs(output);
  app.add_flag("--smoke", asked.smoke, "everything as small as can be, to see that it runs; the figures mean nothing");
  app.add_option("--only", asked.only, "arms to train besides pretraining: sft,dpo,ppo,ppo_no_kl")
      ->delimiter(',')->check(CLI::IsMember({"sft", "dpo", "ppo", "ppo_no_kl"}))->excludes(pairs);
  CLI11_PARSE(app, count, values);
  try {
    if (!asked.output.empty()) std::filesystem::create_directories(asked.output);
    if (asked.pairs.empty()) run_world(asked);
    else run_preferences(asked);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "recipe: %s\n", error.what());
    return 1;
  }
  return 0;
}
