// SPDX-License-Identifier: MIT
#include <attune/model/cached_decoding.hpp>

#include <attune/model/decoder.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <vector>

#include <attune/testing/generative_policy_laws.hpp>

#include "../support/allocations.hpp"
#include "../support/plain_decoder.hpp"
#include "../support/random_sequences.hpp"

using namespace attune;

namespace {

decoder<double> small_model(std::uint64_t seed) {
  return decoder<double>(
      {.vocabulary = 11, .dim = 8, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 12, .window = 40}, seed);
}

std::vector<token_id> completion_of(sequences_view s, std::size_t b) {
  std::vector<token_id> out;
  for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
    if (s.mask[t]) out.push_back(s.tokens[t]);
  return out;
}

sequences prompts_of(std::initializer_list<std::size_t> lengths) { return test::random_sequences(lengths, 11, 3); }

}  // namespace

TEST_CASE("generate: greedy completions are the argmax of a plain forward pass at every step") {
  decoder<double> model = small_model(1);
  for (auto const& p : model.parameters())
    for (double& v : p.value) v *= 3.0;  // away from ties
  test::plain_decoder<double> const plain(model.options(), model.parameters());
  sequences const prompts = prompts_of({3, 8, 1, 5, 2, 9, 4, 6, 7, 3});
  sequences out;
  model.generate(prompts, {.temperature = 0.0, .max_new_tokens = 12}, out);
  REQUIRE(out.size() == prompts.size());
  for (std::size_t b = 0; b < out.size(); ++b) {
    auto const tokens = out.view().sequence(b);
    auto const hidden = plain.hidden(tokens);
    for (std::size_t i = prompts.view().length(b); i < tokens.size(); ++i) {
      auto const logits = plain.product("tok_embeddings.weight", hidden[i - 1]);
      CHECK(tokens[i] == std::max_element(logits.begin(), logits.end()) - logits.begin());
    }
    CHECK(completion_of(out, b).size() == 12);
  }
}

TEST_CASE("generate: a prompt's sample does not depend on its batch") {
  decoder<double> model = small_model(2);
  sequences const prompts = prompts_of({3, 8, 1, 5, 2, 9, 4, 6, 7, 3, 11, 2});
  sampling_options const options{.temperature = 0.9, .top_k = 8, .top_p = 0.95, .max_new_tokens = 15, .stop_tokens = {4}, .seed = 7};
  sequences all;
  model.generate(prompts, options, all);
  for (std::size_t b = 0; b < prompts.size(); ++b) {
    sequences one, alone;
    one.push_back(prompts.view().sequence(b), {});
    sampling_options own = options;
    own.first_stream = b;
    model.generate(one, own, alone);
    CHECK(completion_of(alone, 0) == completion_of(all, b));
  }
}

TEST_CASE("generate: samples follow the model's probabilities") {
  decoder<double> model = small_model(3);
  std::vector<token_id> const prompt{1, 2, 3};
  constexpr std::size_t draws = 4000;
  sequences prompts, out;
  for (std::size_t i = 0; i < draws; ++i) prompts.push_back(prompt, {});
  model.generate(prompts, {.max_new_tokens = 1, .seed = 11}, out);
  std::vector<double> counts(11, 0.0);
  for (std::size_t b = 0; b < draws; ++b) counts[static_cast<std::size_t>(completion_of(out, b)[0])] += 1.0;
  double chi_squared = 0.0;
  for (token_id v = 0; v < 11; ++v) {
    sequences one;
    one.push_back(prompt, std::vector<token_id>{v});
    std::vector<double> logps(4);
    model.log_probs(one, logps);
    double const expected = draws * std::exp(logps[3]);
    chi_squared += (counts[static_cast<std::size_t>(v)] - expected) * (counts[static_cast<std::size_t>(v)] - expected) / expected;
  }
  CHECK(chi_squared < 29.6);  // 10 degrees of freedom, p = 0.001; the seed is fixed
}

TEST_CASE("generate: a stop token ends a completion and is kept; the window and the limit end it too") {
  decoder<double> model = small_model(4);
  sequences const prompts = prompts_of({39, 30, 2});
  sequences out;
  model.generate(prompts, {.max_new_tokens = 5, .seed = 1}, out);
  CHECK(completion_of(out, 0).size() == 1);
  CHECK(completion_of(out, 1).size() == 5);
  for (token_id const stop : {0, 3, 7}) {
    model.generate(prompts, {.max_new_tokens = 38, .stop_tokens = {stop}, .seed = 1}, out);
    for (std::size_t b = 0; b < 3; ++b) {
      std::vector<token_id> const completion = completion_of(out, b);
      auto const found = std::find(completion.begin(), completion.end(), stop);
      CHECK((found == completion.end() || found + 1 == completion.end()));
    }
  }
}

TEST_CASE("generate: any of several stop tokens ends a completion") {
  decoder<double> model = small_model(4);
  sequences const prompts = prompts_of({3, 8, 1, 5, 2, 9, 4, 6, 7, 3, 11, 2});
  sequences out;
  model.generate(prompts, {.max_new_tokens = 28, .stop_tokens = {2, 5, 8}, .seed = 2}, out);
  std::set<token_id> met;
  for (std::size_t b = 0; b < prompts.size(); ++b) {
    std::vector<token_id> const completion = completion_of(out, b);
    for (std::size_t i = 0; i < completion.size(); ++i)
      if (completion[i] == 2 || completion[i] == 5 || completion[i] == 8) {
        CHECK(i + 1 == completion.size());
        met.insert(completion[i]);
      }
  }
  CHECK(met.size() == 3);
}

TEST_CASE_TEMPLATE("generate: sampled log-probabilities are log_probs of the result", T, float, double) {
  decoder<T> model({.vocabulary = 300, .dim = 32, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 44, .window = 60}, 6,
                   std::make_shared<thread_pool>(2));
  for (auto const& p : model.parameters())
    if (!p.name.ends_with("norm.weight"))
      for (T& v : p.value) v *= T(2);  // far from uniform
  sequences const prompts = test::random_sequences({3, 8, 1, 59, 2, 9, 4, 6, 7, 3, 11, 2}, 300, 3);
  sequences out;
  std::vector<T> drawn;
  model.generate(prompts, {.max_new_tokens = 40, .stop_tokens = {5}, .seed = 7}, out, drawn);
  std::vector<T> scored(out.total_tokens());
  model.log_probs(out, scored);
  REQUIRE(drawn.size() == scored.size());
  double worst = 0.0, lowest = 0.0;
  for (std::size_t t = 0; t < drawn.size(); ++t) {
    worst = std::max(worst, std::abs(static_cast<double>(drawn[t] - scored[t])));
    lowest = std::min(lowest, static_cast<double>(scored[t]));
    if (!out.view().mask[t]) CHECK(drawn[t] == T(0));
  }
  MESSAGE("worst difference ", worst, ", least log-probability ", lowest);
  CHECK(worst <= (sizeof(T) == 8 ? 1e-10 : 1e-5));
}

TEST_CASE_TEMPLATE("generate: the laws of a scored generative policy hold, filters included", T, float, double) {
  decoder<T> model({.vocabulary = 11, .dim = 16, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 24, .window = 40}, 8);
  for (auto const& p : model.parameters())
    if (!p.name.ends_with("norm.weight"))
      for (T& v : p.value) v *= T(3);
  testing::expect_laws(testing::check_generative_policy_laws(model, 11));
  testing::expect_laws(testing::check_scored_generative_policy_laws(model, 11));
}

TEST_CASE_TEMPLATE("generate: tokens and log-probabilities are the same bits however the prompts are dealt out", T, float, double) {
  decoder_options const shape{.vocabulary = 300, .dim = 48, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 68, .window = 60};
  random_stream random(2);
  sequences prompts, first;
  for (int b = 0; b < 75; ++b)  // more than a wave
    prompts.push_back(std::vector<token_id>(1 + random.below(20), static_cast<token_id>(random.below(300))), {});
  sampling_options const options{.temperature = 1.1, .top_k = 200, .max_new_tokens = 20, .stop_tokens = {5, 6, 7}};
  std::vector<T> first_logps;
  for (std::size_t const threads : {1u, 2u, 3u, 8u}) {  // groups of 64, 32, 24 and 8
    decoder<T> model(shape, 6, std::make_shared<thread_pool>(threads));
    sequences out;
    std::vector<T> logps;
    model.generate(prompts, options, out, logps);
    if (threads == 1) first = out, first_logps = logps;
    CHECK(std::ranges::equal(out.view().tokens, first.view().tokens));
    CHECK(testing::same_bits(std::span<T const>(logps), std::span<T const>(first_logps)));
  }
}

TEST_CASE("generate: a second call allocates nothing, whichever thread meets which prompts") {
  decoder<float> model({.vocabulary = 300, .dim = 32, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 44, .window = 60}, 6,
                       std::make_shared<thread_pool>(3));
  sequences const prompts = test::random_sequences({3, 8, 1, 59, 2, 9, 4, 6, 7, 3, 11, 2, 9, 9, 9, 8, 8, 8, 5, 40}, 300, 3);
  sequences out;
  std::vector<float> drawn;
  sampling_options const options{.temperature = 0.9, .top_k = 50, .top_p = 0.9, .max_new_tokens = 20, .stop_tokens = {5}};
  model.generate(prompts, options, out, drawn);
  for (int again = 0; again < 5; ++again) {
    std::size_t const before = allocations();
    model.generate(prompts, options, out, drawn);
    CHECK(allocations() == before);
  }
}

TEST_CASE("generate: a token outside the vocabulary is refused before anything is written") {
  decoder<double> model = small_model(5);
  sequences prompts, out;
  for (int i = 0; i < 70; ++i) prompts.push_back(std::vector<token_id>{1, 2}, {});
  prompts.push_back(std::vector<token_id>{1, 11}, {});
  out.push_back(std::vector<token_id>{9}, {});
  CHECK_THROWS_WITH_AS(model.generate(prompts, {}, out),
                       "sequence 70, token 1: expected a token id inside the vocabulary, got 11", contract_violation);
  CHECK(out.total_tokens() == 1);
}

TEST_CASE("generate: an empty prompt, a prompt that fills the window and options out of range are refused by name") {
  decoder<double> model = small_model(5);
  sequences out;
  sequences const full = prompts_of({2, 40});
  CHECK_THROWS_WITH_AS(model.generate(full, {}, out), "generate: prompt 1 of 40 tokens fills the window of 40", contract_violation);
  sequences empty;
  empty.push_back({}, {});
  CHECK_THROWS_WITH_AS(model.generate(empty, {}, out), "generate: prompt 0 is empty", contract_violation);
  sequences const prompts = prompts_of({2});
  CHECK_THROWS_AS(model.generate(prompts, {.temperature = -1.0}, out), contract_violation);
  CHECK_THROWS_AS(model.generate(prompts, {.top_p = 0.0}, out), contract_violation);
  CHECK_THROWS_AS(model.generate(prompts, {.max_new_tokens = 0}, out), contract_violation);
}
