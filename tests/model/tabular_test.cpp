// SPDX-License-Identifier: MIT
#include <attune/model/tabular.hpp>

#include "support/allocations.hpp"
#include "support/small_world.hpp"

#include <attune/testing/generative_policy_laws.hpp>
#include <attune/testing/policy_laws.hpp>
#include <attune/testing/tempered_policy_laws.hpp>
#include <attune/testing/termed_policy_laws.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <string>

using namespace attune;
using attune::test::token_list;

static_assert(TermedPolicy<tabular_policy<float>> && ScoredGenerativePolicy<tabular_policy<float>>);
static_assert(TermedPolicy<tabular_policy<double>> && ScoredGenerativePolicy<tabular_policy<double>>);
static_assert(TemperedPolicy<tabular_policy<float>> && TemperedPolicy<tabular_policy<double>>);

TEST_CASE_TEMPLATE("tabular: it keeps the laws of every concept it satisfies", T, float, double) {
  for (std::size_t const order : {1u, 2u, 3u}) {
    auto policy = test::random_tabular<T>({.vocabulary = 4, .order = order}, order);
    testing::expect_laws(testing::check_policy_laws(policy, 4));
    testing::expect_laws(testing::check_termed_policy_laws(policy, 4));
    testing::expect_laws(testing::check_generative_policy_laws(policy, 4));
    testing::expect_laws(testing::check_scored_generative_policy_laws(policy, 4));
    testing::expect_laws(testing::check_tempered_policy_laws(policy, 4));
    policy.set_temperature(0.6);
    testing::expect_laws(testing::check_generative_policy_laws(policy, 4));
    testing::expect_laws(testing::check_scored_generative_policy_laws(policy, 4));
  }
}

TEST_CASE("tabular: every context of every length up to the order has a row of its own") {
  tabular_policy<double> const policy({.vocabulary = 3, .order = 2});
  CHECK(policy.contexts() == 3 + 9);
  std::vector<int> hits(policy.contexts(), 0);
  for (token_id a = 0; a < 3; ++a) {
    token_list const one{a};
    ++hits[policy.context(one)];
    for (token_id b = 0; b < 3; ++b) {
      token_list const two{a, b}, three{2, a, b};
      ++hits[policy.context(two)];
      CHECK(policy.context(three) == policy.context(two));  // only the last two count
    }
  }
  for (int const h : hits) CHECK(h == 1);
}

TEST_CASE("tabular: log-probabilities are the softmax of the context's row, 0 on the prompt") {
  tabular_policy<double> policy({.vocabulary = 3});
  policy.row(1)[0] = 1.0;
  policy.row(1)[1] = 2.0;
  policy.row(1)[2] = -1.0;
  token_list const prompt{2, 1}, completion{1, 0};
  sequences s;
  s.push_back(prompt, completion);
  std::vector<double> logps(4);
  policy.log_probs(s, logps);
  double const normalizer = std::log(std::exp(1.0) + std::exp(2.0) + std::exp(-1.0));
  CHECK(logps[0] == 0.0);
  CHECK(logps[1] == 0.0);
  CHECK(logps[2] == doctest::Approx(2.0 - normalizer).epsilon(1e-15));
  CHECK(logps[3] == doctest::Approx(1.0 - normalizer).epsilon(1e-15));
}

TEST_CASE("tabular: logits of any size give no overflow, and one of -inf is a token that never comes") {
  tabular_policy<float> policy({.vocabulary = 3});
  policy.row(0)[0] = 3e38f;
  policy.row(0)[1] = 3e38f;
  policy.row(0)[2] = -INFINITY;
  token_list const prompt{0}, completion{1};
  sequences s;
  s.push_back(prompt, completion);
  std::vector<float> logps(2);
  policy.log_probs(s, logps);
  CHECK(logps[1] == doctest::Approx(-std::log(2.0)));
  policy.accumulate_gradient(s, [](std::span<float const>, std::span<float> slopes) { slopes[1] = 1.0f; });
  CHECK(policy.parameters()[0].gradient[2] == 0.0f);
  CHECK(policy.parameters()[0].gradient[1] == doctest::Approx(0.5f));
}

TEST_CASE("tabular: a token that never comes adds nothing to the entropy nor to its gradient") {
  tabular_policy<double> policy({.vocabulary = 3});
  policy.row(0)[2] = -INFINITY;
  policy.set_temperature(0.5);
  sequences s;
  s.push_back(token_list{0}, token_list{1});
  policy.accumulate_gradient_with(s, {.entropies = true}, [](auto const& of, auto const& slopes) {
    CHECK(of.entropies[0] == 0.0);
    CHECK(of.entropies[1] == doctest::Approx(std::log(2.0)).epsilon(1e-15));
    slopes.entropies[1] = 1.0;
  });
  for (double const g : testing::copied_gradients(policy)) CHECK(std::abs(g) <= 1e-16);  // the entropy is at its largest
}

TEST_CASE("tabular: log-normalisers are those of the row's logits over the temperature") {
  tabular_policy<double> policy({.vocabulary = 3});
  policy.row(0)[0] = 700.0;
  policy.row(0)[1] = 702.0;
  policy.set_temperature(2.0);
  sequences s;
  s.push_back(token_list{0}, token_list{1});
  std::vector<double> logps(2, 9.0), normalizers(2, 9.0), collisions(2, 9.0);
  policy.log_probs_with(s, {.logps = logps, .log_normalizers = normalizers, .collisions = collisions});
  double const certain = 1.0 / (1.0 + std::exp(-1.0));
  CHECK(normalizers[0] == 0.0);
  CHECK(normalizers[1] == doctest::Approx(351.0 - std::log(certain)).epsilon(1e-15));
  CHECK(collisions[1] == doctest::Approx(std::log(certain * certain + (1 - certain) * (1 - certain))).epsilon(1e-14));
  CHECK(logps[1] == doctest::Approx(std::log(certain)).epsilon(1e-14));
  CHECK_THROWS_AS(policy.log_probs_with(s, {.logps = logps, .entropies = std::span(normalizers).first(1)}), contract_violation);
}

TEST_CASE("tabular: generation stops at the stop token and keeps it, greedy takes the lower id on ties") {
  tabular_policy<double> policy({.vocabulary = 4});
  policy.row(0)[1] = 5.0;
  policy.row(1)[2] = 5.0;
  policy.row(2)[3] = 5.0;
  sequences prompts, out;
  prompts.push_back(token_list{0}, {});
  prompts.push_back(token_list{3}, {});
  policy.generate(prompts, {.temperature = 0.0, .max_new_tokens = 3, .stop_tokens = {2}}, out);
  sequences_view const v = out;
  CHECK(std::ranges::equal(v.sequence(0), token_list{0, 1, 2}));
  CHECK(std::ranges::equal(v.sequence(1), token_list{3, 0, 1, 2}));
}

TEST_CASE("tabular: sampled log-probabilities are log_probs of the result to 1e-12") {
  auto policy = test::random_tabular<double>({.vocabulary = 7, .order = 2}, 5);
  sequences prompts, out;
  for (token_id v = 0; v < 7; ++v) prompts.push_back(token_list{v, 3}, {});
  std::vector<double> drawn, scored;
  policy.generate(prompts, {.max_new_tokens = 20, .stop_tokens = {2, 5}, .seed = 4}, out, drawn);
  scored.resize(out.total_tokens());
  policy.log_probs(out, scored);
  REQUIRE(drawn.size() == scored.size());
  for (std::size_t t = 0; t < drawn.size(); ++t) CHECK(std::abs(drawn[t] - scored[t]) <= 1e-12);
}

TEST_CASE("tabular: any of the stop tokens ends a completion") {
  auto policy = test::random_tabular<double>({.vocabulary = 7}, 5);
  sequences prompts, out;
  for (token_id v = 0; v < 7; ++v) prompts.push_back(token_list{v}, {});
  policy.generate(prompts, {.max_new_tokens = 300, .stop_tokens = {2, 5}, .seed = 4}, out);
  std::size_t twos = 0, fives = 0;
  for (std::size_t b = 0; b < out.size(); ++b) {
    auto const text = out.view().sequence(b);
    twos += text.back() == 2, fives += text.back() == 5;
    for (token_id const id : text.subspan(1, text.size() - 2)) CHECK((id != 2 && id != 5));
  }
  CHECK(twos + fives == 7);
  CHECK(twos > 0);
  CHECK(fives > 0);
}

TEST_CASE("tabular: log_probs allocates nothing, accumulate_gradient and generate nothing once warm") {
  auto policy = test::random_tabular<float>({.vocabulary = 5}, 1);
  sequences s;
  s.push_back(token_list{1, 2}, token_list{3, 4, 0});
  std::vector<float> logps(5), drawn;
  sequences out;
  sampling_options const options{.top_k = 4, .max_new_tokens = 9, .stop_tokens = {1}};
  auto const work = [&] {
    policy.generate(s, options, out, drawn);
    policy.log_probs(s, logps);
    policy.accumulate_gradient(s, [](std::span<float const>, std::span<float> slopes) { slopes[2] = 1.0f; });
  };
  work();
  auto const before = allocations();
  work();
  CHECK(allocations() == before);
}

TEST_CASE("tabular: bad options, ids outside the vocabulary and empty prompts are refused") {
  CHECK_THROWS_AS(tabular_policy<float>({.vocabulary = 0}), contract_violation);
  CHECK_THROWS_AS(tabular_policy<float>({.vocabulary = 2, .order = 0}), contract_violation);
  CHECK_THROWS_AS(tabular_policy<float>({.vocabulary = 70000, .order = 9}), contract_violation);
  tabular_policy<float> policy({.vocabulary = 3});
  sequences s, out;
  s.push_back(token_list{1}, token_list{3});
  std::vector<float> logps(2), short_logps(1);
  CHECK_THROWS_WITH_AS(policy.log_probs(s, logps), "sequence 0, token 1: expected a token id inside the vocabulary, got 3",
                       contract_violation);
  s.clear();
  s.push_back(token_list{1}, token_list{2});
  CHECK_THROWS_AS(policy.log_probs(s, short_logps), contract_violation);
  s.clear();
  s.push_back({}, {});
  CHECK_THROWS_AS(policy.generate(s, {}, out), contract_violation);
  s.clear();
  s.push_back(token_list{1}, {});
  CHECK_THROWS_AS(policy.generate(s, {.temperature = -1.0}, out), contract_violation);
}
