// SPDX-License-Identifier: MIT
//
// GRPO on a real pretrained model with a reward that is a rule: stories260K learns to write stories that come to an end
// and mention a given word.
//
//   stories --model models/stories260k --word dog
#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <attune/core/atomic_file.hpp>
#include <attune/io/terminal_sink.hpp>
#include <attune/model/decoder.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/ppo_trainer.hpp>
#include <attune/train/reward_functions.hpp>

#include "../report/json_object.hpp"
#include "../report/page.hpp"
#include "llama2c_file.hpp"

namespace {

struct command_line {
  std::string model, word = "dog", json, report = "stories.html", output;
  std::size_t updates = 120, prompts = 4, threads = 0, longest = 160;
  std::uint64_t seed = 1;
  double learning_rate = 1e-4, kl_coef = 0.04;
  bool resume = false;
};

/// How a story may begin.
constexpr char const* openings[] = {"Once upon a time, there was a", "Once upon a time, there were two", "One day, a little girl",
                                    "One day, a boy named Tim",      "Lily and Ben",                     "There was a big",
                                    "Tom was a happy",               "The sun was"};

struct opening {
  std::vector<attune::token_id> prompt;
};

/// What a story is worth: half for coming to an end after a whole sentence, half for the word. One of fewer than
/// `shortest` tokens is no story.
class story_reward {
 public:
  static constexpr std::size_t shortest = 40;

  story_reward(stories::llama2c_tokenizer const& tokenizer, std::string word) : tokenizer_(tokenizer), word_(std::move(word)) {}

  double operator()(std::span<attune::token_id const> /*prompt*/, std::span<attune::token_id const> response) const {
    if (response.size() < shortest) return 0.0;
    bool const ended = response.back() == stories::llama2c_tokenizer::begin_of_sequence;
    std::string const text = tokenizer_.decode(ended ? response.first(response.size() - 1) : response);
    bool const whole = ended && !text.empty() && std::string_view(".!?\"").find(text.back()) != std::string_view::npos;
    return (whole ? 0.5 : 0.0) + (text.find(word_) != std::string::npos ? 0.5 : 0.0);
  }

 private:
  stories::llama2c_tokenizer const& tokenizer_;
  std::string word_;
};

/// Keeps what the report draws.
struct curves {
  report::series reward{"reward", {}, {}, 2}, kl{"KL", {}, {}, 1}, length{"length", {}, {}, 3};

  void operator()(attune::report const& r) {
    if (r.kind != attune::report_kind::log) return;
    auto const add = [&](report::series& s, double value) {
      s.x.push_back(static_cast<double>(r.step));
      s.y.push_back(value);
    };
    for (attune::metric const& m : r.metrics) {
      if (m.name == "objective/scores") add(reward, m.value);
      if (m.name == "objective/kl") add(kl, m.value);
      if (m.name == "completions/mean_length") add(length, m.value);
    }
  }
};

double mean_of(std::vector<double> const& values, std::size_t first, std::size_t last) {
  double sum = 0.0;
  for (std::size_t i = first; i < last; ++i) sum += values[i];
  return sum / static_cast<double>(last - first);
}

std::vector<std::string> tell_stories(attune::decoder<float>& model, stories::llama2c_tokenizer const& tokenizer,
                                      std::vector<opening> const& prompts, command_line const& asked) {
  attune::sequences starts, out;
  for (std::size_t i = 0; i < 3; ++i) starts.push_back(prompts[i].prompt, {});
  model.generate(starts, {.max_new_tokens = asked.longest, .stop_tokens = {stories::llama2c_tokenizer::begin_of_sequence},
                          .seed = asked.seed + 1}, out);
  std::vector<std::string> told;
  for (std::size_t b = 0; b < out.size(); ++b) {
    auto tokens = out.view().sequence(b).subspan(1);
    bool const ended = tokens.back() == stories::llama2c_tokenizer::begin_of_sequence;
    told.push_back(tokenizer.decode(ended ? tokens.first(tokens.size() - 1) : tokens) + (ended ? "" : " ..."));
  }
  return told;
}

void run(command_line const& asked) {
  auto const pool = std::make_shared<attune::thread_pool>(asked.threads);
  attune::decoder<float> policy = stories::load_llama2c<float>(asked.model + "/stories260K.bin", pool);
  stories::llama2c_tokenizer const tokenizer(asked.model + "/tok512.bin", policy.options().vocabulary);
  attune::decoder<float> const reference = policy;
  std::vector<opening> prompts;
  for (char const* const text : openings) prompts.push_back({tokenizer.encode(text)});
  attune::per_response reward{story_reward(tokenizer, asked.word)};
  std::vector<std::string> const before = tell_stories(policy, tokenizer, prompts, asked);

  attune::adamw<float> adamw({.weight_decay = 0.0});
  attune::ppo_trainer trainer{
      policy, reference, reward, attune::no_critic{}, adamw,
      attune::ppo_trainer_options{
          .loop = {.learning_rate = asked.learning_rate, .schedule = attune::learning_rate_schedule::constant,
                   .max_steps = asked.updates, .batch_size = asked.prompts, .seed = asked.seed, .logging_steps = 1,
                   .save_steps = asked.output.empty() ? 0u : 20u, .checkpoint_folder = asked.output, .resume = asked.resume},
          .rollout = {.num_generations = 8, .max_new_tokens = asked.longest,
                      .stop_tokens = {stories::llama2c_tokenizer::begin_of_sequence}},
          .kl = {.kl_coef = asked.kl_coef, .placement = attune::kl_placement::loss, .estimator = attune::kl_estimator::k3},
          .num_ppo_epochs = 1,
          .advantages = attune::advantage_estimator::grpo}};
  curves drawn;
  attune::terminal_sink terminal(stdout);
  attune::training_summary const summary = trainer.fit(prompts, [&](attune::report const& r) {
    drawn(r);
    attune::report shown = r;
    if (r.kind == attune::report_kind::log && r.step % 10 != 0 && r.step != r.total_steps) shown.kind = attune::report_kind::progress;
    terminal(shown);
  });
  if (drawn.reward.y.empty()) return;  // resumed at its end
  std::vector<std::string> const after = tell_stories(policy, tokenizer, prompts, asked);

  std::size_t const logged = drawn.reward.y.size(), some = std::clamp<std::size_t>(logged / 2, 1, 10);
  double const first = mean_of(drawn.reward.y, 0, some), last = mean_of(drawn.reward.y, logged - some, logged);
  double const highest_kl = *std::max_element(drawn.kl.y.begin(), drawn.kl.y.end());
  std::printf("\nmean reward: %.3f over the first %zu updates, %.3f over the last %zu; KL to the start at most %.2f nats per story\n",
              first, some, last, some, highest_kl);
  for (std::size_t i = 0; i < after.size(); ++i) std::printf("\nbefore: %s\n after: %s\n", before[i].c_str(), after[i].c_str());

  auto const write = [](std::string const& path, std::string const& text) {
    if (!path.empty()) attune::write_atomically(path, [&](attune::file_writer& out) { out.write(text); });
  };
  report::json_object figures;
  figures.put("updates", summary.steps).put("reward_first", first).put("reward_last", last).put("kl_highest", highest_kl);
  figures.put("kl_last", drawn.kl.y.back()).put("length_last", drawn.length.y.back()).put("seconds", summary.seconds);
  write(asked.json, figures.str() + "\n");
  std::vector<report::table_row> rows;
  for (std::size_t i = 0; i < after.size(); ++i) rows.push_back({before[i], {after[i]}});
  write(asked.report,
        report::html_page("Stories with a rule for a reward",
                          "GRPO on stories260K: a story is worth a half for coming to an end and a half for the word \"" + asked.word + "\".",
                          report::html_grid({report::line_chart({"Mean reward", "update", "reward"}, {drawn.reward}),
                                             report::line_chart({"KL to the start", "update", "nats per story"}, {drawn.kl}),
                                             report::line_chart({"Length", "update", "tokens"}, {drawn.length})}) +
                              "<h2>Stories</h2>\n" + report::html_table({"before", "after"}, rows)));
}

}  // namespace

int main(int count, char** values) {
  command_line asked;
  CLI::App app("Reinforcement learning (GRPO) on stories260K with a rule for a reward: stories that come to an end and mention a word.");
  app.add_option("--model", asked.model, "folder with stories260K.bin and tok512.bin")->required();
  app.add_option("--word", asked.word, "that a story should mention")->capture_default_str();
  app.add_option("--updates", asked.updates, "of the policy")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--prompts", asked.prompts, "openings per update; 8 stories are told to each")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--longest", asked.longest, "tokens of a story")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--learning-rate", asked.learning_rate, "of AdamW")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--kl-coef", asked.kl_coef, "weight of the KL to the start, in the loss (k3)")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--seed", asked.seed, "of everything random")->capture_default_str();
  app.add_option("--threads", asked.threads, "0: all of the machine's; figures do not depend on it")->capture_default_str();
  app.add_option("--report", asked.report, "HTML page to write; empty writes none")->capture_default_str();
  app.add_option("--json", asked.json, "file for the figures");
  CLI::Option* const output = app.add_option("--output", asked.output, "folder for checkpoints");
  app.add_flag("--resume", asked.resume, "go on from the checkpoints in --output")->needs(output);
  CLI11_PARSE(app, count, values);
  try {
    run(asked);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "stories: %s\n", error.what());
    return 1;
  }
  return 0;
}
