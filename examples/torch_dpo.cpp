// SPDX-License-Identifier: MIT
//
// torch_dpo: DPO of a LibTorch module, three ways that must agree step by step.
//
//   trainer    attune's dpo_trainer and its AdamW on the module's own memory (torch_policy)
//   torch_loss LibTorch's training loop and optimizer, with attune's fused DPO loss in its graph
//   autograd   the same loop with the loss written in LibTorch's operations
#include <attune/torch/autograd.hpp>
#include <attune/torch/policy.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <memory>
#include <vector>

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/rnn.h>
#include <torch/optim/adamw.h>
#include <CLI/CLI.hpp>

#include <attune/core/random.hpp>
#include <attune/model/frozen.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/dpo_trainer.hpp>

namespace {

constexpr std::int64_t vocabulary = 32, width = 16;
constexpr std::size_t prompt_length = 3, response_length = 5;

/// A small language model: embedding, GRU, output matrix.
struct language_model : torch::nn::Cloneable<language_model> {
  torch::nn::Embedding embedding{nullptr};
  torch::nn::GRU gru{nullptr};
  torch::nn::Linear output{nullptr};

  language_model() { language_model::reset(); }
  void reset() override {
    embedding = register_module("embedding", torch::nn::Embedding(vocabulary, width));
    gru = register_module("gru", torch::nn::GRU(torch::nn::GRUOptions(width, width).batch_first(true)));
    output = register_module("output", torch::nn::Linear(width, vocabulary));
  }
  at::Tensor forward(at::Tensor const& ids) { return output(std::get<0>(gru(embedding(ids)))); }
};

/// Preference pairs: the chosen response counts upwards from the prompt's last word, the rejected one says anything.
struct counting {
  std::vector<attune::token_id> words;  // (pairs, prompt and both responses)
  static constexpr std::size_t row = prompt_length + 2 * response_length;

  counting(std::size_t pairs, std::uint64_t seed) {
    attune::random_stream random(seed);
    for (std::size_t i = 0; i < pairs; ++i) {
      for (std::size_t k = 0; k < prompt_length; ++k)
        words.push_back(static_cast<attune::token_id>(random.below(vocabulary)));
      for (std::size_t k = 0; k < response_length; ++k)
        words.push_back(static_cast<attune::token_id>((words.back() + 1) % vocabulary));
      for (std::size_t k = 0; k < response_length; ++k)
        words.push_back(static_cast<attune::token_id>(random.below(vocabulary)));
    }
  }
  std::size_t size() const { return words.size() / row; }
  attune::preference_pair operator[](std::size_t i) const {
    auto const all = std::span(words).subspan(i * row, row);
    return {all.first(prompt_length), all.subspan(prompt_length, response_length), all.last(response_length)};
  }
};

/// Both responses of every pair, as attune and as LibTorch take a batch.
struct whole_batch {
  attune::sequences sequences;
  at::Tensor ids, targets;  // (2 pairs, length), and the words of the responses (2 pairs, response_length)

  explicit whole_batch(counting const& pairs) {
    std::vector<std::int64_t> all;
    for (std::size_t i = 0; i < pairs.size(); ++i)
      for (auto const response : {pairs[i].chosen, pairs[i].rejected}) {
        sequences.push_back(pairs[i].prompt, response);
        for (auto const part : {pairs[i].prompt, response}) all.insert(all.end(), part.begin(), part.end());
      }
    std::int64_t const rows = static_cast<std::int64_t>(2 * pairs.size());
    ids = at::tensor(all).view({rows, static_cast<std::int64_t>(prompt_length + response_length)});
    targets = ids.slice(1, prompt_length);
  }
  at::Tensor sums(at::Tensor const& logits) const {  // log pi of each response, in LibTorch's operations
    at::Tensor const logps = at::log_softmax(logits.slice(1, prompt_length - 1, -1), 2);
    return logps.gather(2, targets.unsqueeze(2)).squeeze(2).sum(1);
  }
};

struct settings {
  std::size_t steps = 20, pairs = 16;
  double learning_rate = 0.01, beta = 0.1;
  std::uint64_t seed = 1;
};

std::shared_ptr<language_model> make_model(std::uint64_t seed) {
  auto model = std::make_shared<language_model>();
  model->to(at::kDouble);
  attune::random_stream random(seed, 1);  // not LibTorch's generator, whose numbers change with its version
  at::NoGradGuard const no_graph;
  for (at::Tensor const& p : model->parameters())
    for (double& x : attune::torch_span<double>(p, "parameter")) x = 0.3 * random.normal();
  return model;
}

std::vector<double> with_trainer(std::shared_ptr<language_model> const& model, counting const& pairs,
                                 settings const& o) {
  attune::torch_policy<double> policy(attune::torch_model_of(model));
  attune::frozen const reference(policy);
  attune::adamw<double> adamw;
  attune::dpo_trainer trainer{policy,
                              reference,
                              adamw,
                              {.loop = {.learning_rate = o.learning_rate,
                                        .schedule = attune::learning_rate_schedule::constant,
                                        .max_steps = o.steps,
                                        .batch_size = pairs.size(),
                                        .max_grad_norm = std::numeric_limits<double>::infinity(),
                                        .logging_steps = 1},
                               .losses = attune::dpo_options{.beta = o.beta}}};
  std::vector<double> losses;
  trainer.fit(pairs, [&](attune::report const& r) {
    for (attune::metric const& m : r.metrics)
      if (r.kind == attune::report_kind::log && m.name == "loss") losses.push_back(m.value);
  });
  return losses;
}

template <class Loss>
std::vector<double> with_loop(std::shared_ptr<language_model> const& model, settings const& o, Loss const& loss_of) {
  torch::optim::AdamW adamw(model->parameters(), torch::optim::AdamWOptions(o.learning_rate).weight_decay(0.0));
  std::vector<double> losses;
  for (std::size_t step = 0; step < o.steps; ++step) {
    adamw.zero_grad();
    at::Tensor const loss = loss_of(*model);
    loss.backward();
    adamw.step();
    losses.push_back(loss.item<double>());
  }
  return losses;
}

int run(settings const& o) {
  counting const pairs(o.pairs, o.seed);
  whole_batch const batch(pairs);
  auto const copy = [original = make_model(o.seed)] {
    return std::dynamic_pointer_cast<language_model>(original->clone());
  };
  at::Tensor const reference = [&] {
    at::NoGradGuard const no_graph;
    return batch.sums(copy()->forward(batch.ids));
  }();
  auto const reference_sums = attune::torch_span<double const>(reference, "reference");

  std::vector<double> const trained = with_trainer(copy(), pairs, o);
  std::vector<double> const fused = with_loop(copy(), o, [&](language_model& model) {
    return attune::torch_loss(attune::dpo_on_tokens(reference_sums, {.beta = o.beta}), model.forward(batch.ids),
                              batch.sequences);
  });
  std::vector<double> const plain = with_loop(copy(), o, [&](language_model& model) {
    at::Tensor const ratios = (batch.sums(model.forward(batch.ids)) - reference).view({-1, 2});
    return -at::log_sigmoid(o.beta * (ratios.select(1, 0) - ratios.select(1, 1))).mean();
  });

  std::printf("step   trainer            torch_loss         autograd           apart\n");
  double first = 0.0, worst = 0.0;
  for (std::size_t i = 0; i < o.steps; ++i) {
    double const apart = (std::max)(std::abs(trained.at(i) - plain[i]), std::abs(fused[i] - plain[i])) / plain[i];
    if (i == 0) first = apart;
    worst = (std::max)(worst, apart);
    std::printf("%4zu   %.15f  %.15f  %.15f  %.1e\n", i + 1, trained[i], fused[i], plain[i], apart);
  }
  bool const agree = first < 1e-12 && worst < 1e-8;
  std::printf("%s: %.1e apart at the first step, %.1e at most; %.1f times less loss\n",
              agree ? "they agree" : "THEY DISAGREE", first, worst, plain.front() / plain.back());
  return agree ? 0 : 1;
}

}  // namespace

int main(int count, char** values) {
  settings o;
  CLI::App app(
      "DPO of a LibTorch module by attune's trainer, by attune's loss in LibTorch's loop, and by autograd alone.\n"
      "Prints the loss of every step; ends with 1 unless all three agree.",
      "torch_dpo");
  app.add_option("--steps", o.steps, "optimiser steps")->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--pairs", o.pairs, "preference pairs, all of them in every step")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--learning-rate", o.learning_rate, "of AdamW")->check(CLI::Range(1e-9, 1.0))->capture_default_str();
  app.add_option("--beta", o.beta, "of DPO")->check(CLI::Range(1e-3, 100.0))->capture_default_str();
  app.add_option("--seed", o.seed, "of model and data")->capture_default_str();
  CLI11_PARSE(app, count, values);
  try {
    return run(o);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "torch_dpo: %s\n", error.what());
    return 1;
  }
}
