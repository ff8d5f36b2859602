// SPDX-License-Identifier: MIT
#include <attune/torch/policy.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/rnn.h>

#include <attune/model/frozen.hpp>
#include <attune/model/tabular.hpp>
#include <attune/testing/policy_laws.hpp>
#include <attune/testing/tempered_policy_laws.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/dpo_trainer.hpp>

#include "support/temporary_folder.hpp"

using namespace attune;

namespace {

constexpr std::int64_t vocabulary = 6, width = 5;

// Embedding, GRU, output matrix; dropout, which a policy has to silence.
struct recurrent : torch::nn::Cloneable<recurrent> {
  torch::nn::Embedding embedding{nullptr};
  torch::nn::GRU gru{nullptr};
  torch::nn::Linear output{nullptr};
  torch::nn::Dropout dropout{nullptr};

  recurrent() { recurrent::reset(); }
  void reset() override {
    embedding = register_module("embedding", torch::nn::Embedding(vocabulary, width));
    gru = register_module("gru", torch::nn::GRU(torch::nn::GRUOptions(width, width).batch_first(true)));
    output = register_module("output", torch::nn::Linear(torch::nn::LinearOptions(width, vocabulary).bias(false)));
    dropout = register_module("dropout", torch::nn::Dropout(0.5));
  }
  at::Tensor forward(at::Tensor const& ids) { return output(dropout(std::get<0>(gru(embedding(ids))))); }
};

// Looks at the mean of all tokens so far, and at its attention mask: without it padding on the left would count.
struct averaging : torch::nn::Cloneable<averaging> {
  torch::nn::Embedding embedding{nullptr};
  at::Tensor bias;

  averaging() { averaging::reset(); }
  void reset() override {
    embedding = register_module("embedding", torch::nn::Embedding(vocabulary, width));
    register_parameter("shared", embedding->weight);  // tied: one parameter under two names
    bias = register_parameter("bias", at::zeros({vocabulary}));
    register_parameter("fixed", at::ones({3}), false);
  }
  at::Tensor forward(at::Tensor const& ids, at::Tensor const& attention_mask) {
    at::Tensor const mask = attention_mask.unsqueeze(2).to(bias.scalar_type());
    at::Tensor const mean = (embedding(ids) * mask).cumsum(1) / mask.cumsum(1);
    return at::matmul(mean, embedding->weight.t()) + bias;
  }
};

template <class Module>
std::shared_ptr<Module> seeded(at::ScalarType type) {
  auto module = std::make_shared<Module>();
  module->to(type);
  random_stream random(3);
  at::NoGradGuard const guard;
  for (at::Tensor const& p : module->parameters()) {
    at::Tensor const values = at::empty(p.sizes(), at::kDouble);
    for (double& x : torch_span<double>(values, "values")) x = 0.5 * random.normal();
    p.copy_(values);
  }
  return module;
}

// A bigram model in script: what tabular_policy of order 1 is.
torch::jit::Module bigram(tabular_policy<double>& like) {
  torch::jit::Module module("bigram");
  at::Tensor const table = at::empty({vocabulary, vocabulary}, at::kDouble);
  std::ranges::copy(like.parameters()[0].value, torch_span<double>(table, "table").begin());
  module.register_parameter("table", table.set_requires_grad(true), false);
  module.define("def forward(self, ids: Tensor) -> Tensor:\n  return torch.embedding(self.table, ids)\n");
  return module;
}

template <class P>
std::vector<typename P::scalar> log_probs(P const& policy, sequences_view s) {
  std::vector<typename P::scalar> out(s.total_tokens());
  policy.log_probs(s, std::span(out));
  return out;
}

template <class P>
std::vector<double> gradient_of(P& policy, sequences_view s) {
  testing::clear_gradients(policy);
  policy.accumulate_gradient(s, [&](auto logps, auto slopes) {
    for (std::size_t t = 0; t < logps.size(); ++t) slopes[t] = s.mask[t] != 0 ? static_cast<typename P::scalar>(t + 1) : 0;
  });
  auto const all = testing::copied_gradients(policy);
  return {all.begin(), all.end()};
}

double apart(std::vector<double> const& a, std::vector<double> const& b) {
  return testing::largest_difference(std::span<double const>(a), std::span<double const>(b));
}

}  // namespace

TEST_CASE_TEMPLATE("torch policy: a module keeps the laws of termed and tempered policies", T, float, double) {
  for (bool const padded : {true, false}) {
    torch_policy<T> policy(torch_model_of(seeded<recurrent>(torch_dtype<T>)), {.padded = padded});
    testing::expect_laws(testing::check_tempered_policy_laws(policy, vocabulary));
  }
  torch_policy<T> masked(torch_model_of(seeded<averaging>(torch_dtype<T>)));
  testing::expect_laws(testing::check_tempered_policy_laws(masked, vocabulary));
}

TEST_CASE("torch policy: a scripted bigram is the table it was made of") {
  tabular_policy<double> table({.vocabulary = static_cast<std::size_t>(vocabulary)});
  random_stream random(5);
  std::span<double> const logits = table.parameters()[0].value;
  for (double& x : logits) x = random.normal();
  torch_policy<double> scripted(torch_model_of(bigram(table)));
  sequences const batch = testing::law_sequences(vocabulary, {}, random);
  CHECK(apart(log_probs(scripted, batch), log_probs(table, batch)) < 1e-14);
  CHECK(apart(gradient_of(scripted, batch), gradient_of(table, batch)) < 1e-12);
  CHECK(scripted.parameters()[0].name == "table");
  torch_policy<double> const copy(scripted);
  testing::expect_laws(testing::check_policy_laws(scripted, vocabulary));
  scripted.parameters()[0].value[0] += 1.0;
  CHECK(log_probs(copy, batch) != log_probs(scripted, batch));
}

TEST_CASE("torch policy: parameters are the module's memory, shared ones once, and .grad is the gradient") {
  auto const module = seeded<averaging>(at::kDouble);
  torch_policy<double> policy(torch_model_of(module));
  auto const parameters = policy.parameters();
  REQUIRE(parameters.size() == 2);  // "shared" is "embedding.weight" too, "fixed" is not trained
  for (parameter<double> const& p : parameters) {
    bool const is_bias = p.name == "bias";
    CHECK(p.decay == !is_bias);
    CHECK(p.shape == (is_bias ? std::array<std::size_t, 2>{1, vocabulary} : std::array<std::size_t, 2>{vocabulary, width}));
    at::Tensor const own = is_bias ? module->bias : module->embedding->weight;
    CHECK(p.value.data() == own.data_ptr());
    CHECK(p.gradient.data() == own.grad().data_ptr());
  }
  sequences batch;
  batch.push_back(std::vector<token_id>{1, 2}, std::vector<token_id>{3, 4});
  std::vector<double> const first = gradient_of(policy, batch);
  CHECK(module->bias.grad().abs().max().item<double>() > 0.0);

  module->bias.mutable_grad() = at::Tensor();  // zero_grad() of LibTorch's optimizers
  module->embedding->weight.grad().zero_();
  for (parameter<double> const& p : policy.parameters())
    for (double const g : p.gradient) CHECK(g == 0.0);
  CHECK(gradient_of(policy, batch) == first);
  CHECK(module->bias.grad().abs().max().item<double>() > 0.0);

  module->bias.mutable_grad() = at::zeros({vocabulary}, at::kDouble);
  CHECK_THROWS_WITH_AS(policy.parameters(), "expected bias: the .grad that the policy gave it, got another tensor",
                       contract_violation);
  module->bias.mutable_grad() = at::Tensor();
  module->bias.set_data(at::zeros({vocabulary}, at::kDouble));
  CHECK_THROWS_WITH_AS(policy.parameters(),
                       "expected bias: the memory it had when the policy was made, got other memory", contract_violation);
}

TEST_CASE("torch policy: a model sees sequences padded on the right, and where they are") {
  at::Tensor ids, mask;
  torch_policy<double> const policy({.parameters = {}, .logits = [&](at::Tensor const& i, at::Tensor const& m) {
    ids = i, mask = m;
    return at::zeros({i.size(0), i.size(1), vocabulary}, at::kDouble);
  }});
  sequences batch;
  batch.push_back(std::vector<token_id>{5}, std::vector<token_id>{3});
  batch.push_back(std::vector<token_id>{1, 2}, std::vector<token_id>{3, 4});
  CHECK(log_probs(policy, batch)[1] == doctest::Approx(-std::log(6.0)));
  CHECK(at::equal(ids, at::tensor({5, 3, 0, 0, 1, 2, 3, 4}).to(at::kLong).view({2, 4})));
  CHECK(at::equal(mask, at::tensor({1, 1, 0, 0, 1, 1, 1, 1}).to(at::kLong).view({2, 4})));
}

TEST_CASE("torch policy: a frozen copy stays, and dropout is silent") {
  auto const module = seeded<recurrent>(at::kDouble);
  torch_policy<double> policy(torch_model_of(module));
  CHECK_FALSE(module->is_training());
  policy.set_temperature(2.0);
  frozen const reference(policy);
  sequences batch;
  batch.push_back(std::vector<token_id>{1, 2}, std::vector<token_id>{3, 4});
  auto const before = log_probs(policy, batch);
  CHECK(log_probs(reference, batch) == before);
  CHECK(reference.temperature() == 2.0);
  std::uint64_t const print = model_fingerprint(policy);
  CHECK(reference.fingerprint() == print);
  for (auto&& p : policy.parameters()) p.value[0] += 0.5;
  CHECK(log_probs(policy, batch) != before);
  CHECK(log_probs(reference, batch) == before);
  CHECK(model_fingerprint(policy) != print);
}

TEST_CASE("torch policy: attune's trainer trains a module, and a resumed run ends in the same bits") {
  struct {
    std::vector<token_id> words{1, 2, 3, 4, 5, 0, 2, 4, 1, 3};
    std::size_t size() const { return 4; }
    preference_pair operator[](std::size_t i) const {
      auto const at = [&](std::size_t first, std::size_t count) { return std::span(words).subspan(first, count); };
      return {at(i, 2), at(i + 2, 1 + i % 2), at(i + 3, 3)};
    }
  } const pairs;
  test::temporary_folder const folder;
  auto const train = [&](std::size_t steps, bool resume) {
    torch_policy<double> policy(torch_model_of(seeded<recurrent>(at::kDouble)));
    frozen const reference(policy);
    adamw<double> optimizer({.weight_decay = 0.1});
    dpo_trainer trainer{policy, reference, optimizer,
                        {.loop = {.learning_rate = 0.05, .schedule = learning_rate_schedule::constant, .epochs = 3.0,
                                  .max_steps = steps, .batch_size = 2, .save_steps = 3,
                                  .checkpoint_folder = folder / (resume ? "parts" : std::to_string(steps)),
                                  .resume = resume}}};
    auto const done = trainer.fit(pairs);
    CHECK(done.last_loss < done.first_loss);
    return testing::copied_values(policy);
  };
  auto const whole = train(6, false);
  std::filesystem::create_directories(folder / "parts");
  std::filesystem::copy_file(folder / "6/step-00000003.checkpoint", folder / "parts/step-00000003.checkpoint");
  CHECK(train(6, true) == whole);
}

TEST_CASE("torch policy: an empty batch, and sequences of one token") {
  torch_policy<double> policy(torch_model_of(seeded<recurrent>(at::kDouble)));
  sequences batch;
  CHECK(log_probs(policy, batch).empty());
  batch.push_back({}, {});
  policy.accumulate_gradient(batch, [](auto, auto) {});
  batch.push_back(std::vector<token_id>{1}, {});
  batch.push_back(std::vector<token_id>{1}, std::vector<token_id>{2});
  for (bool const padded : {true, false}) {
    torch_policy<double> same(policy.model(), {.padded = padded});
    auto const logps = log_probs(same, batch);
    CHECK(logps[0] == 0.0);
    CHECK(logps[2] < 0.0);
  }
}

TEST_CASE("torch policy: what does not fit is refused by name") {
  auto const refused = [](auto const& f, char const* message) {
    CHECK_THROWS_WITH_AS(f(), doctest::Contains(message), contract_violation);
  };
  auto const module = seeded<recurrent>(at::kDouble);
  refused([&] { torch_policy<float>{torch_model_of(module)}; }, "embedding.weight: a tensor of dtype Float, got Double");
  refused([] { torch_policy<float>{torch_model{}}; }, "torch_policy: torch_model.logits");
  refused([] { static_cast<void>(torch_model_of(std::shared_ptr<recurrent>())); }, "torch_model_of: a module");

  sequences batch;
  batch.push_back(std::vector<token_id>{1, 2}, std::vector<token_id>{3, 4});
  auto const of = [&](at::Tensor const& logits) {
    return torch_policy<double>({.parameters = {}, .logits = [=](auto const&, auto const&) { return logits; }});
  };
  refused([&] { log_probs(of(at::Tensor()), batch); }, "a model's logits: a tensor, got an undefined one");
  refused([&] { log_probs(of(at::zeros({1, 3, 6}, at::kDouble)), batch); },
          "a model's logits: the shape (1, 4, vocabulary), got (1, 3, 6)");
  refused([&] { log_probs(of(at::zeros({1, 4, 6}, at::kFloat)), batch); },
          "a model's logits: a tensor of dtype Double, got Float");
  refused([&] { log_probs(of(at::zeros({1, 4, 4}, at::kDouble)), batch); },
          "sequence 0, token 3: expected a token id inside the vocabulary, got 4");
  refused([&] { torch_policy<double> copy(of(at::zeros({1, 4, 6}, at::kDouble))), again(copy); }, "torch_model.copy");
  at::Tensor const leaf = at::zeros({2, 3}, at::kDouble);
  auto const with = [&](at::Tensor const& p) {
    torch_policy<double>({.parameters = {{"p", p}}, .logits = [](auto const& x, auto const&) { return x; }});
  };
  refused([&] { with(leaf); }, "p: a leaf that requires grad, got one that does not");
  refused([&] { with(at::zeros({2, 3}, at::kDouble).requires_grad_(true) * 2); }, "p: a leaf that requires grad, got a result");
  refused([&] { with(at::zeros({2, 3}, at::kDouble).t().requires_grad_(true)); }, "p: a contiguous parameter");
}
