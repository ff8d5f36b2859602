// SPDX-License-Identifier: MIT
//
// ppo: reinforcement learning of a language model on prompts, against a reward model: PPO with a critic, or one of its
// relatives without (RLOO, GRPO, Dr.GRPO, REINFORCE++); by PPO's loss, GSPO's, CISPO's or SAPO's.
//
//   ppo --policy sft/model.safetensors --reward reward/model.safetensors --prompts pairs.jsonl.gz --output ppo
//   ppo --policy sft/model.safetensors --reward reward/model.safetensors --prompts prompts.jsonl --output grpo
//       --advantage grpo --num-generations 8 --kl-placement loss
//   ppo --policy sft/model.safetensors --reward reward/model.safetensors --prompts prompts.jsonl --output dapo
//       --advantage grpo --num-generations 8 --kl-coef 0 --cliprange-high 0.28 --max-resamples 10 --overlong-buffer 16
//
// The reference is the model that training starts from. What all of it is after: see closed_form.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <attune/data/load_prompts.hpp>
#include <attune/io/utf8.hpp>
#include <attune/model/actor_critic.hpp>
#include <attune/model/frozen.hpp>
#include <attune/model/scalar_head.hpp>
#include <attune/model/value_head.hpp>
#include <attune/train/ppo_trainer.hpp>
#include <attune/train/reward_functions.hpp>

#include "programs/ppo_options.hpp"
#include "programs/reward_file.hpp"

namespace {

using attune::byte_tokenizer;

/// The reward model's score, brought to a scale. Its fingerprint is how a resumed run knows it again.
class judge {
 public:
  judge(attune::scalar_head<float>& model, attune::reward_statistics scale)
      : model_(model), scale_(scale), score_(std::ref(model), scale) {}

  void operator()(attune::sequences_view s, std::span<double> scores) { score_(s, scores); }

  std::uint64_t fingerprint() const {
    attune::checksum64 sum(attune::model_fingerprint(model_));
    return sum.update_number(scale_.mean).update_number(scale_.deviation).value();
  }

 private:
  attune::scalar_head<float>& model_;
  attune::reward_statistics scale_;
  attune::normalized_reward<std::reference_wrapper<attune::scalar_head<float>>> score_;
};

/// Text of a token sequence, on one line; what is no text as \x...
std::string shown(std::span<attune::token_id const> tokens) {
  std::string const text = byte_tokenizer().decode(tokens);
  std::string out;
  for (std::size_t at = 0, length = 0; at < text.size(); at += length == 0 ? 1 : length) {
    length = attune::utf8_length(text, at);
    auto const byte = static_cast<unsigned char>(text[at]);
    if (byte == '\n') out += "\\n";
    else if (length == 0 || byte < 0x20 || byte == 0x7F) out += fmt::format("\\x{:02x}", byte);
    else out += text.substr(at, length);
  }
  return out;
}

/// Responses to the first prompts, each with its score.
void show_samples(attune::decoder<float>& policy, judge& score, attune::prompt_data const& prompts, std::size_t count,
                  attune::sampling_options const& sampling) {
  attune::sequences asked, answered;
  for (std::size_t i = 0; i < count && i < prompts.size(); ++i) asked.push_back(prompts[i].prompt, {});
  if (asked.size() == 0) return;
  policy.generate(asked, sampling, answered);
  std::vector<double> scores(answered.size());
  score(answered, scores);
  for (std::size_t i = 0; i < answered.size(); ++i) {
    std::span<attune::token_id const> const all = answered.view().sequence(i);
    std::size_t const prompt = prompts[i].prompt.size();
    bool const ended = all.back() == byte_tokenizer::eos();
    std::printf("\nprompt         %s\nresponse       %s%s\nscore          %.3f\n", shown(all.first(prompt)).c_str(),
                shown(all.subspan(prompt)).c_str(), ended ? "" : " [no end]", scores[i]);
  }
}

}  // namespace

int main(int count, char** values) {
  programs::run_options options;
  options.loop.learning_rate = 1e-4;
  options.loop.batch_size = 32;
  options.loop.logging_steps = 1;
  options.loop.save_steps = 20;
  options.adamw.epsilon = 1e-5;  // Huang et al. 2024
  programs::ppo_program_options own;
  own.trainer.rollout.max_new_tokens = 64;
  own.trainer.rollout.stop_tokens = {byte_tokenizer::eos()};

  CLI::App app("Reinforcement learning of a language model against a reward model: PPO and its relatives.\n"
               "Rows: {\"prompt\"}, {\"messages\"} or {\"instruction\"}; also demonstrations and pairs, whose prompts are "
               "taken.\nA step is an update: --batch-size prompts are answered, and the answers learned from.", "ppo");
  app.add_option("--policy", options.model, "model.safetensors to start from, and the reference")->required();
  app.add_option("--reward", own.reward, "model.safetensors of the program reward_model")->required();
  app.add_option("--prompts", own.prompts, "prompts, .jsonl or .jsonl.gz")->required();
  programs::add_common_options(app, options);
  programs::add_count(app, "--updates", options.loop.max_steps, "if not 0, updates of the run, whatever --epochs says");
  auto const settle = programs::add_ppo_options(app, own);

  return programs::run(app, count, values, options, [&] {
    settle();
    attune::ppo_trainer_options& o = own.trainer;
    o.loop = options.loop;
    validate(o);

    attune::decoder<float> policy = programs::starting_model(options);
    policy.set_temperature(own.temperature);
    attune::scalar_head<float> reward = programs::read_reward_model(own.reward, policy);
    auto const load = [&](std::string const& path, byte_tokenizer tokenizer, attune::load_options const& how,
                          attune::load_report& report) {
      return attune::load_prompts(path, tokenizer, how, o.rollout.max_new_tokens, report);
    };
    attune::prompt_data const prompts = programs::read_data(own.prompts, options, policy.options().window, load);

    attune::sampling_options sampling{.top_k = o.rollout.top_k, .top_p = o.rollout.top_p,
                                      .max_new_tokens = o.rollout.max_new_tokens, .stop_tokens = o.rollout.stop_tokens,
                                      .seed = options.loop.seed, .first_stream = std::uint64_t{1} << 62};
    attune::reward_statistics scale;
    if (own.normalize_reward > 0) {
      scale = attune::measure_reward(policy, reward, prompts, own.normalize_reward, sampling);
      std::printf("reward of %zu responses: mean %.4f, deviation %.4f\n", own.normalize_reward, scale.mean,
                  scale.deviation);
    }
    judge score(reward, scale);
    attune::frozen const reference{policy};

    auto const train = [&](auto& model, auto critic) {
      attune::adamw<float> adamw(options.adamw);
      attune::ppo_trainer trainer{model, reference, score, critic, adamw, o};
      programs::run_folder folder(options);
      attune::training_summary const summary = folder.fit(trainer, prompts);
      if constexpr (std::is_same_v<decltype(critic), attune::shared_critic>) policy = model.policy();
      folder.save(policy, attune::to_metadata(policy.options()), summary);
    };
    if (o.advantages != attune::advantage_estimator::gae) {
      train(policy, attune::no_critic{});
    } else if (own.shared_critic) {
      attune::actor_critic<float> both(policy);
      train(both, attune::shared_critic{});
    } else {
      auto critic = own.critic_from_policy ? attune::value_head<float>(policy) : attune::value_head<float>(reward);
      attune::adamw<float> adamw(options.adamw);
      train(policy, attune::separate_critic{critic, adamw, own.critic_learning_rate});
    }
    show_samples(policy, score, prompts, own.samples, sampling);
  });
}
