// SPDX-License-Identifier: MIT
#include <attune/model/decoder.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <cstring>
#include <memory>
#include <vector>

#include <attune/testing/generative_policy_laws.hpp>
#include <attune/testing/policy_laws.hpp>
#include <attune/testing/tempered_policy_laws.hpp>
#include <attune/testing/termed_policy_laws.hpp>

#include "../support/allocations.hpp"
#include "../support/plain_decoder.hpp"
#include "../support/random_sequences.hpp"

using namespace attune;

static_assert(TermedPolicy<decoder<float>> && TermedPolicy<decoder<double>>);
static_assert(TemperedPolicy<decoder<float>> && TemperedPolicy<decoder<double>>);
static_assert(ScoredGenerativePolicy<decoder<float>> && ScoredGenerativePolicy<decoder<double>>);

namespace {

decoder_options small(bool tied) {
  return {.vocabulary = 11, .dim = 8, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 12, .window = 90, .tied = tied};
}

template <class T>
std::vector<T> gradients(decoder<T>& model) {
  std::vector<T> all;
  for (auto const& p : model.parameters()) all.insert(all.end(), p.gradient.begin(), p.gradient.end());
  return all;
}

template <class T>
std::vector<T> log_probs(decoder<T> const& model, sequences_view s) {
  std::vector<T> out(s.total_tokens());
  model.log_probs(s, out);
  return out;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("decoder: log-probabilities are those of a plain token-by-token forward pass, at any temperature") {
  for (double const temperature : {1.0, 0.7, 2.5})
    for (bool const tied : {true, false}) {
      decoder<double> model(small(tied), 3);
      model.set_temperature(temperature);
      // 70 tokens cross a block of attention rows, 150 in all cross a block of rows.
      sequences const s = test::random_sequences({5, 1, 70, 2, 66, 9}, 11, 7);
      test::plain_decoder<double> plain(model.options(), model.parameters());
      plain.temperature = temperature;
      std::vector<double> expected, means, entropies;
      plain.log_probs(s, expected, means, entropies);
      std::vector<double> const actual = log_probs(model, s);
      for (std::size_t t = 0; t < actual.size(); ++t) CHECK(actual[t] == doctest::Approx(expected[t]).epsilon(1e-12));
    }
}

TEST_CASE("decoder: every parameter's gradient equals the complex step's, tied and untied, tempered or not, all elements") {
  for (double const temperature : {1.0, 0.7})
    for (bool const tied : {true, false}) {
      CAPTURE(tied);
      decoder<double> model(small(tied), 5);
      model.set_temperature(temperature);
      sequences const owned = test::random_sequences({6, 3, 1, 68}, 11, 8);
      sequences_view const s = owned;
      random_stream random(9);
      // Sparse slopes over the long sequence keep the oracle quick; all masked tokens of the short ones have one.
      std::vector<double> slopes(s.total_tokens()), mean_slopes(s.total_tokens());
      for (std::size_t t = 0; t < s.total_tokens(); ++t)
        if (s.mask[t]) slopes[t] = random.normal(), mean_slopes[t] = random.normal();

      model.accumulate_gradient_with(s, {.mean_logps = true}, [&](auto const&, term_slopes<double> const& to) {
        std::ranges::copy(slopes, to.logps.begin());
        std::ranges::copy(mean_slopes, to.mean_logps.begin());
      });
      std::vector<double> const actual = gradients(model);

      using complex = std::complex<double>;
      test::plain_decoder<complex> plain(model.options(), model.parameters());
      plain.temperature = temperature;
      double largest = 0.0;
      for (double const g : actual) largest = std::max(largest, std::abs(g));
      std::size_t i = 0;
      double worst = 0.0;
      std::vector<complex> logps, means, entropies;
      for (auto const& p : model.parameters())
        for (std::size_t j = 0; j < p.value.size(); ++j, ++i) {
          complex& weight = plain.weights.at(std::string(p.name))[j];
          weight += complex(0.0, 1e-30);
          plain.log_probs(s, logps, means, entropies);
          weight = weight.real();
          double expected = 0.0;
          for (std::size_t t = 0; t < s.total_tokens(); ++t)
            expected += slopes[t] * logps[t].imag() * 1e30 + mean_slopes[t] * means[t].imag() * 1e30;
          worst = std::max(worst, std::abs(actual[i] - expected) / std::max(std::abs(expected), 1e-3 * largest));
        }
      CHECK(i == model.parameter_count());
      MESSAGE("worst relative error ", worst);
      CHECK(worst < 1e-10);
    }
}

TEST_CASE("decoder: the gradient of all terms and log-probabilities together, at temperature 0.7, equals the complex step's") {
  for (bool const tied : {true, false}) {
    CAPTURE(tied);
    decoder<double> model(small(tied), 5);
    model.set_temperature(0.7);
    sequences const owned = test::random_sequences({6, 3, 1, 68}, 11, 8);
    sequences_view const s = owned;
    random_stream random(9);
    std::array<std::vector<double>, 4> slopes, seen;
    std::vector<double> seen_collisions;
    for (std::vector<double>& kind : slopes)
      for (std::size_t t = 0; t < s.total_tokens(); ++t) kind.push_back(random.normal());
    model.accumulate_gradient_with(s, {true, true, true, true}, [&](term_values<double const> const& of, term_slopes<double> const& to) {
      std::array const from{of.logps, of.mean_logps, of.entropies, of.log_normalizers};
      std::array const into{to.logps, to.mean_logps, to.entropies, to.log_normalizers};
      for (std::size_t k = 0; k < 4; ++k) {
        seen[k].assign(from[k].begin(), from[k].end());
        std::ranges::copy(slopes[k], into[k].begin());
      }
      seen_collisions.assign(of.collisions.begin(), of.collisions.end());
    });
    std::vector<double> const actual = gradients(model);

    using complex = std::complex<double>;
    test::plain_decoder<complex> plain(model.options(), model.parameters());
    plain.temperature = 0.7;
    std::array<std::vector<complex>, 4> of;
    std::vector<complex> collisions;
    plain.log_probs(s, of[0], of[1], of[2], &of[3], &collisions);
    for (std::size_t t = 0; t < s.total_tokens(); ++t) {
      for (std::size_t k = 0; k < 4; ++k) CHECK(seen[k][t] == doctest::Approx(of[k][t].real()).epsilon(1e-12));
      CHECK(seen_collisions[t] == doctest::Approx(collisions[t].real()).epsilon(1e-12));
    }
    double largest = 0.0, worst = 0.0;
    for (double const g : actual) largest = std::max(largest, std::abs(g));
    std::size_t i = 0;
    for (auto const& p : model.parameters())
      for (std::size_t j = 0; j < p.value.size(); ++j, ++i) {
        complex& weight = plain.weights.at(std::string(p.name))[j];
        weight += complex(0.0, 1e-30);
        plain.log_probs(s, of[0], of[1], of[2], &of[3]);
        weight = weight.real();
        double expected = 0.0;
        for (std::size_t t = 0; t < s.total_tokens(); ++t)
          for (std::size_t k = 0; s.mask[t] != 0 && k < 4; ++k) expected += slopes[k][t] * of[k][t].imag() * 1e30;
        worst = std::max(worst, std::abs(actual[i] - expected) / std::max(std::abs(expected), 1e-3 * largest));
      }
    CHECK(i == model.parameter_count());
    MESSAGE("worst relative error ", worst);
    CHECK(worst < 1e-10);
  }
}

TEST_CASE("decoder: log-probabilities of a sequence are the same bits whatever its neighbours and however many threads") {
  decoder<float> model(small(true), 11);
  sequences const alone = test::random_sequences({40}, 11, 1);
  std::vector<float> const expected = log_probs(model, alone);
  for (std::size_t const before : {1u, 2u, 3u, 5u, 77u}) {
    sequences crowd;
    sequences const first = test::random_sequences({before}, 11, before), last = test::random_sequences({31}, 11, 2);
    for (sequences_view const s : {first.view(), alone.view(), last.view()})
      crowd.push_back_masked(s.sequence(0), s.sequence_mask(0));
    std::vector<float> const all = log_probs(model, crowd);
    CHECK(same_bits(expected, std::vector<float>(all.begin() + static_cast<std::ptrdiff_t>(before),
                                                 all.begin() + static_cast<std::ptrdiff_t>(before + 40))));
  }
}

TEST_CASE("decoder: log-probabilities, gradients and samples are the same bits for 1, 2, 3 and 8 threads") {
  sequences const s = test::random_sequences({60, 3, 80, 41, 7, 33}, 11, 4);
  std::vector<float> first_gradient, first_logps;
  sequences first_sample;
  for (std::size_t const threads : {1u, 2u, 3u, 8u}) {
    decoder<float> model(small(false), 12, std::make_shared<thread_pool>(threads));
    model.accumulate_gradient(s, [](std::span<float const> logps, std::span<float> slopes) {
      for (std::size_t t = 0; t < logps.size(); ++t) slopes[t] = logps[t] != 0.0f ? 0.1f : 0.0f;
    });
    std::vector<float> const gradient = gradients(model), logps = log_probs(model, s);
    sequences sample;
    model.generate(s, {.max_new_tokens = 9, .seed = 5}, sample);
    if (threads == 1) {
      first_gradient = gradient;
      first_logps = logps;
      first_sample = sample;
    }
    CHECK(same_bits(gradient, first_gradient));
    CHECK(same_bits(logps, first_logps));
    CHECK(std::ranges::equal(sample.view().tokens, first_sample.view().tokens));
  }
}

TEST_CASE("decoder: gradients accumulate over calls, and a question that throws leaves them untouched") {
  decoder<double> model(small(true), 13);
  sequences const s = test::random_sequences({12, 7}, 11, 6);
  auto const half = [](std::span<double const>, std::span<double> slopes) { std::fill(slopes.begin(), slopes.end(), 0.5); };
  model.accumulate_gradient(s, half);
  std::vector<double> const once = gradients(model);
  model.accumulate_gradient(s, half);
  std::vector<double> const twice = gradients(model);
  for (std::size_t i = 0; i < once.size(); ++i) CHECK(twice[i] == doctest::Approx(2.0 * once[i]).epsilon(1e-12));
  CHECK_THROWS_AS(model.accumulate_gradient(s, [](auto, auto) { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK(same_bits(twice, gradients(model)));
}

TEST_CASE("decoder: slopes on tokens outside the mask are ignored") {
  decoder<double> model(small(true), 13);
  sequences const s = test::random_sequences({12, 7}, 11, 6);
  model.accumulate_gradient(s, [&](auto, std::span<double> slopes) {
    for (std::size_t t = 0; t < slopes.size(); ++t) slopes[t] = s.view().mask[t] ? 1.0 : 1e6;
  });
  std::vector<double> const everywhere = gradients(model);
  decoder<double> other(small(true), 13);
  other.accumulate_gradient(s, [&](auto, std::span<double> slopes) {
    for (std::size_t t = 0; t < slopes.size(); ++t) slopes[t] = s.view().mask[t] ? 1.0 : 0.0;
  });
  CHECK(same_bits(everywhere, gradients(other)));
}

TEST_CASE("decoder: a training step and a reading of log-probabilities allocate nothing once buffers have grown") {
  decoder<float> model(small(false), 12, std::make_shared<thread_pool>(2));
  model.set_temperature(0.7);
  sequences const s = test::random_sequences({60, 3, 33}, 11, 4), smaller = test::random_sequences({20}, 11, 4);
  std::vector<float> logps(s.total_tokens());
  auto const ask = [](std::span<float const>, std::span<float> slopes) { std::fill(slopes.begin(), slopes.end(), 0.1f); };
  auto const step = [&] {
    for (sequences const* const batch : {&s, &smaller}) {
      model.accumulate_gradient(*batch, ask);
      model.accumulate_gradient_with(*batch, {true, true, true, true},
                                     [](auto const&, auto const& slopes) { std::ranges::fill(slopes.entropies, 0.1f); });
      model.log_probs(*batch, std::span(logps).first(batch->total_tokens()));
    }
  };
  step();
  std::size_t const before = allocations();
  step();
  CHECK(allocations() == before);
}

TEST_CASE_TEMPLATE("decoder: it keeps the laws of a policy, at any temperature", T, float, double) {
  decoder<T> model(small(true), 8);
  for (auto const& p : model.parameters())
    if (!p.name.ends_with("norm.weight"))
      for (T& v : p.value) v *= T(2);
  testing::expect_laws(testing::check_policy_laws(model, 11));
  testing::expect_laws(testing::check_termed_policy_laws(model, 11));
  testing::expect_laws(testing::check_tempered_policy_laws(model, 11));
  model.set_temperature(0.7);
  testing::expect_laws(testing::check_generative_policy_laws(model, 11));
  testing::expect_laws(testing::check_scored_generative_policy_laws(model, 11));
}

TEST_CASE("decoder: a copy is deep and equal, and keeps the temperature") {
  decoder<float> model(small(false), 14);
  model.set_temperature(0.8);
  decoder<float> const copy = model;
  CHECK(copy.temperature() == 0.8);
  sequences const s = test::random_sequences({12, 7}, 11, 6);
  std::vector<float> const before = log_probs(model, s);
  CHECK(same_bits(before, log_probs(copy, s)));
  for (auto const& p : model.parameters())
    for (float& v : p.value) v += 0.1f;
  CHECK(same_bits(before, log_probs(copy, s)));
  CHECK_FALSE(same_bits(before, log_probs(model, s)));
}

TEST_CASE("decoder: bad sequences are refused by name") {
  decoder<float> model(small(true));
  std::vector<float> out(91);
  sequences const too_long = test::random_sequences({91}, 11, 1);
  CHECK_THROWS_WITH_AS(model.log_probs(too_long, out), "sequence 0: expected at most window = 90 tokens, got 91",
                       contract_violation);
  sequences outside;
  outside.push_back(std::vector<token_id>{1, 2}, std::vector<token_id>{11});
  CHECK_THROWS_WITH_AS(model.log_probs(outside, std::span(out).first(3)),
                       "sequence 0, token 2: expected a token id inside the vocabulary, got 11", contract_violation);
  CHECK_THROWS_AS(model.log_probs(outside, std::span(out).first(2)), contract_violation);
  CHECK_THROWS_WITH_AS(decoder<float>({.vocabulary = 5, .dim = 9}), "expected decoder_options.dim a multiple of 2 * heads, got 9",
                       contract_violation);
}

TEST_CASE("decoder: an empty batch is no work") {
  decoder<float> model(small(true));
  sequences const none;
  std::vector<float> out;
  model.log_probs(none, out);
  model.accumulate_gradient(none, [](auto, auto) {});
  for (float const g : gradients(model)) CHECK(g == 0.0f);
}
