// SPDX-License-Identifier: MIT
#include <attune/model/actor_critic.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <memory>
#include <vector>

#include <attune/io/model_file.hpp>
#include <attune/model/frozen.hpp>
#include <attune/testing/generative_policy_laws.hpp>
#include <attune/testing/policy_laws.hpp>
#include <attune/testing/tempered_policy_laws.hpp>
#include <attune/testing/termed_policy_laws.hpp>
#include <attune/testing/value_model_laws.hpp>

#include "../support/allocations.hpp"
#include "../support/plain_decoder.hpp"
#include "../support/random_sequences.hpp"
#include "../support/temporary_folder.hpp"

using namespace attune;

static_assert(ActorCritic<actor_critic<float>> && ActorCritic<actor_critic<double>>);
static_assert(ScoredGenerativePolicy<actor_critic<float>> && TemperedPolicy<actor_critic<float>>);
static_assert(TermedPolicy<actor_critic<float>> && TermedPolicy<actor_critic<double>>);
static_assert(ReferencePolicy<frozen<actor_critic<float>>>);

namespace {

decoder_options small(bool tied) {
  return {.vocabulary = 11, .dim = 8, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 12, .window = 90, .tied = tied};
}

/// With a value vector that is not 0, where the trunk would get no gradient.
template <class T>
actor_critic<T> random_model(bool tied, std::uint64_t seed, std::shared_ptr<thread_pool> pool = nullptr) {
  actor_critic<T> model(decoder<T>(small(tied), seed, std::move(pool)));
  random_stream random(seed, 99);
  for (T& w : model.parameters().back().value) w = static_cast<T>(random.normal());
  return model;
}

template <class T>
std::vector<T> log_probs_and_values(actor_critic<T> const& model, sequences_view s) {
  std::vector<T> both(2 * s.total_tokens(), T(9));
  model.log_probs_and_values(s, std::span(both).first(s.total_tokens()), std::span(both).last(s.total_tokens()));
  return both;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("actor-critic: both outputs and the joint gradient, tempered, are those of a plain pass and the complex step") {
  for (bool const tied : {true, false}) {
    CAPTURE(tied);
    actor_critic<double> model = random_model<double>(tied, 5);
    model.set_temperature(0.7);
    sequences const owned = test::random_sequences({6, 3, 1, 68}, 11, 8);
    sequences_view const s = owned;
    random_stream random(9);
    std::vector<double> slopes(s.total_tokens()), value_slopes(s.total_tokens()), logps, values;
    for (std::size_t t = 0; t < s.total_tokens(); ++t) slopes[t] = random.normal(), value_slopes[t] = random.normal();
    model.accumulate_gradient_with_values(s, [&](std::span<double const> seen_logps, std::span<double const> seen_values,
                                                 std::span<double> a, std::span<double> b) {
      logps.assign(seen_logps.begin(), seen_logps.end());
      values.assign(seen_values.begin(), seen_values.end());
      std::copy(slopes.begin(), slopes.end(), a.begin());
      std::copy(value_slopes.begin(), value_slopes.end(), b.begin());
    });

    using complex = std::complex<double>;
    test::plain_decoder<complex> plain(model.options(), model.parameters());
    plain.temperature = 0.7;
    auto const evaluate = [&](std::vector<complex>& of_logps, std::vector<complex>& of_values) {
      std::vector<complex> means, entropies;
      plain.log_probs(s, of_logps, means, entropies);
      of_values.assign(s.total_tokens(), complex(0.0));
      for (std::size_t b = 0; b < s.size(); ++b) {
        auto const rows = plain.hidden(s.sequence(b));
        for (std::size_t i = 1; i < s.length(b); ++i)
          if (s.sequence_mask(b)[i] != 0) of_values[s.offsets[b] + i] = plain.product("value.weight", rows[i - 1])[0];
      }
    };
    std::vector<complex> plain_logps, plain_values;
    evaluate(plain_logps, plain_values);
    for (std::size_t t = 0; t < s.total_tokens(); ++t) {
      CHECK(logps[t] == doctest::Approx(plain_logps[t].real()).epsilon(1e-12));
      CHECK(values[t] == doctest::Approx(plain_values[t].real()).epsilon(1e-12));
    }
    double worst = 0.0, largest = 0.0;
    for (auto const& p : model.parameters())
      for (double const g : p.gradient) largest = std::max(largest, std::abs(g));
    for (auto const& p : model.parameters())
      for (std::size_t j = 0; j < p.value.size(); ++j) {
        complex& weight = plain.weights.at(std::string(p.name))[j];
        weight += complex(0.0, 1e-30);
        evaluate(plain_logps, plain_values);
        weight = weight.real();
        double expected = 0.0;
        for (std::size_t t = 0; t < s.total_tokens(); ++t)
          if (s.mask[t]) expected += slopes[t] * plain_logps[t].imag() * 1e30 + value_slopes[t] * plain_values[t].imag() * 1e30;
        worst = std::max(worst, std::abs(p.gradient[j] - expected) / std::max(std::abs(expected), 1e-3 * largest));
      }
    MESSAGE("worst relative error ", worst);
    CHECK(worst < 1e-10);
  }
}

TEST_CASE_TEMPLATE("actor-critic: it keeps the laws of every concept it satisfies", T, float, double) {
  for (bool const tied : {true, false}) {
    actor_critic<T> model = random_model<T>(tied, 8);
    testing::expect_laws(testing::check_policy_laws(model, 11));
    testing::expect_laws(testing::check_value_model_laws(model, 11));
    testing::expect_laws(testing::check_actor_critic_laws(model, 11));
    testing::expect_laws(testing::check_tempered_policy_laws(model, 11));
    model.set_temperature(1.7);
    testing::expect_laws(testing::check_actor_critic_laws(model, 11));
    testing::expect_laws(testing::check_generative_policy_laws(model, 11));
    testing::expect_laws(testing::check_scored_generative_policy_laws(model, 11));
  }
}

TEST_CASE("actor-critic: it starts as the language model, bit for bit, with values of 0, and gives it back") {
  for (bool const tied : {true, false}) {
    decoder<float> language(small(tied), 3);
    language.set_temperature(0.8);
    actor_critic<float> model(language);
    CHECK(model.temperature() == 0.8);
    sequences const s = test::random_sequences({12, 30, 7}, 11, 6);
    std::vector<float> expected(s.total_tokens()), actual(s.total_tokens()), values(s.total_tokens(), 9.0f);
    language.log_probs(s, expected);
    model.log_probs(s, actual);
    CHECK(same_bits(expected, actual));
    model.values(s, values);
    for (float const v : values) CHECK(v == 0.0f);
    sequences first, second;
    language.generate(s, {.max_new_tokens = 9}, first);
    model.generate(s, {.max_new_tokens = 9}, second);
    CHECK(std::ranges::equal(first.view().tokens, second.view().tokens));

    for (auto const& p : language.parameters())
      for (float& v : p.value) v += 0.1f;
    model.log_probs(s, actual);
    CHECK(same_bits(expected, actual));  // deep

    decoder<float> back = model.policy();
    CHECK(back.temperature() == 0.8);
    for (auto const& p : model.parameters())
      for (float& v : p.value) v += 0.1f;
    back.log_probs(s, actual);
    CHECK(same_bits(expected, actual));
  }
}

TEST_CASE("actor-critic: a copy is deep and equal, and keeps the temperature") {
  actor_critic<float> model = random_model<float>(false, 14);
  model.set_temperature(0.8);
  actor_critic<float> const copy = model;
  CHECK(copy.temperature() == 0.8);
  sequences const s = test::random_sequences({12, 7}, 11, 6);
  std::vector<float> const before = log_probs_and_values(model, s);
  CHECK(same_bits(before, log_probs_and_values(copy, s)));
  for (auto const& p : model.parameters())
    for (float& v : p.value) v += 0.1f;
  CHECK(same_bits(before, log_probs_and_values(copy, s)));
  CHECK_FALSE(same_bits(before, log_probs_and_values(model, s)));
}

TEST_CASE("actor-critic: a temperature leaves values alone") {
  actor_critic<double> model = random_model<double>(true, 5);
  sequences const s = test::random_sequences({12, 7}, 11, 6);
  std::vector<double> plain(s.total_tokens()), tempered(s.total_tokens());
  model.values(s, plain);
  model.set_temperature(0.3);
  model.values(s, tempered);
  CHECK(same_bits(plain, tempered));
  std::vector<double> const both = log_probs_and_values(model, s);
  CHECK(same_bits(plain, std::vector<double>(both.begin() + static_cast<std::ptrdiff_t>(plain.size()), both.end())));
}

TEST_CASE("actor-critic: outputs and gradients are the same bits for 1, 2 and 3 threads") {
  sequences const s = test::random_sequences({60, 3, 80, 41, 7, 33}, 11, 4);
  std::vector<float> first;
  for (std::size_t const threads : {1u, 2u, 3u}) {
    actor_critic<float> model = random_model<float>(false, 12, std::make_shared<thread_pool>(threads));
    model.accumulate_gradient_with_values(s, [](auto, auto, std::span<float> slopes, std::span<float> value_slopes) {
      std::ranges::fill(slopes, 0.1f);
      std::ranges::fill(value_slopes, -0.2f);
    });
    std::vector<float> all = log_probs_and_values(model, s);
    for (auto const& p : model.parameters()) all.insert(all.end(), p.gradient.begin(), p.gradient.end());
    if (threads == 1) first = all;
    CHECK(same_bits(all, first));
  }
}

TEST_CASE("actor-critic: the joint pass costs one pass of the trunk") {
  actor_critic<float> model = random_model<float>(true, 12);
  decoder<float> language(small(true), 12);
  sequences const s = test::random_sequences({60, 33}, 11, 4);
  language.accumulate_gradient(s, [](auto, auto) {});
  model.accumulate_gradient_with_values(s, [](auto, auto, auto, auto) {});
  CHECK(model.flops() == language.flops());
}

TEST_CASE("actor-critic: a training step, a reading and a sampling allocate nothing once buffers have grown") {
  actor_critic<float> model = random_model<float>(false, 12, std::make_shared<thread_pool>(2));
  model.set_temperature(0.7);
  sequences const s = test::random_sequences({60, 3, 33}, 11, 4), smaller = test::random_sequences({20}, 11, 4);
  std::vector<float> logps(s.total_tokens()), values(s.total_tokens()), drawn;
  sequences out;
  sampling_options const options{.max_new_tokens = 9};
  auto const step = [&] {
    for (sequences const* const batch : {&s, &smaller}) {
      std::size_t const tokens = batch->total_tokens();
      model.accumulate_gradient_with_values(*batch, [](auto, auto, std::span<float> a, std::span<float> b) {
        std::ranges::fill(a, 0.1f);
        std::ranges::fill(b, 0.1f);
      });
      model.accumulate_value_gradient(*batch, [](auto, std::span<float> a) { std::ranges::fill(a, 0.1f); });
      model.log_probs_and_values(*batch, std::span(logps).first(tokens), std::span(values).first(tokens));
      model.generate(*batch, options, out, drawn);
    }
  };
  step();
  std::size_t const before = allocations();
  step();
  CHECK(allocations() == before);
}

TEST_CASE("actor-critic: a model file gives back the same outputs, and its language model alone fits a decoder") {
  test::temporary_folder const folder;
  actor_critic<float> model = random_model<float>(false, 12);
  save_parameters(folder / "both", model.parameters(), to_metadata(model.options()));
  actor_critic<float> loaded(decoder<float>(decoder_options_from(read_metadata(folder / "both"))));
  load_parameters(folder / "both", loaded.parameters());
  sequences const s = test::random_sequences({60, 3, 33}, 11, 4);
  CHECK(same_bits(log_probs_and_values(model, s), log_probs_and_values(loaded, s)));

  decoder<float> policy = model.policy();
  save_parameters(folder / "policy", policy.parameters(), to_metadata(policy.options()));
  decoder<float> language(small(false), 99);
  load_parameters(folder / "policy", language.parameters());
  std::vector<float> a(s.total_tokens()), b(s.total_tokens());
  model.log_probs(s, a);
  language.log_probs(s, b);
  CHECK(same_bits(a, b));
}

TEST_CASE("actor-critic: sizes that disagree are refused; no sequences are no work") {
  actor_critic<float> model = random_model<float>(true, 12);
  sequences const s = test::random_sequences({12}, 11, 6), none;
  std::vector<float> right(12), wrong(11);
  CHECK_THROWS_AS(model.log_probs(s, wrong), contract_violation);
  CHECK_THROWS_AS(model.values(s, wrong), contract_violation);
  CHECK_THROWS_AS(model.log_probs_and_values(s, right, wrong), contract_violation);
  CHECK_THROWS_AS(model.log_probs_and_values(s, wrong, right), contract_violation);
  model.log_probs_and_values(none, {}, {});
  model.accumulate_gradient_with_values(none, [](auto, auto, auto, auto) {});
}
