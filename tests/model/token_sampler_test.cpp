// SPDX-License-Identifier: MIT
#include <attune/model/token_sampler.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <vector>

#include "support/allocations.hpp"

using namespace attune;

namespace {

std::vector<float> const logits{std::log(0.1f), std::log(0.4f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};

std::set<token_id> support(sampling_options const& o) {
  token_sampler sample;
  random_stream random(1);
  std::set<token_id> seen;
  for (int i = 0; i < 2000; ++i) seen.insert(sample(std::span<float const>(logits), o, random).id);
  return seen;
}

}  // namespace

TEST_CASE("sampler: temperature 0 takes the largest logit, the lowest id on ties, and no random number") {
  token_sampler sample;
  random_stream random(1);
  CHECK(sample(std::span<float const>(logits), {.temperature = 0.0}, random).id == 1);
  std::vector<float> const tied{1.0f, 2.0f, 2.0f};
  CHECK(sample(std::span<float const>(tied), {.temperature = 0.0}, random).id == 1);
  CHECK(random.position() == 0);
}

TEST_CASE("sampler: top-k keeps the k most probable tokens") {
  CHECK(support({.top_k = 1}) == std::set<token_id>{1});
  CHECK(support({.top_k = 2}) == std::set<token_id>{1, 2});
  CHECK(support({.top_k = 99}) == std::set<token_id>{0, 1, 2, 3, 4});
}

TEST_CASE("sampler: top-p keeps the shortest prefix that reaches p") {
  CHECK(support({.top_p = 0.39}) == std::set<token_id>{1});
  CHECK(support({.top_p = 0.69}) == std::set<token_id>{1, 2});
  CHECK(support({.top_p = 0.71}) == std::set<token_id>{1, 2, 3});
  CHECK(support({.top_p = 1e-9}) == std::set<token_id>{1});
}

TEST_CASE("sampler: top-p acts on what top-k left, renormalised") {
  CHECK(support({.top_k = 2, .top_p = 0.56}) == std::set<token_id>{1});
  CHECK(support({.top_k = 2, .top_p = 0.58}) == std::set<token_id>{1, 2});
}

TEST_CASE("sampler: frequencies follow the tempered probabilities") {
  token_sampler sample;
  for (double const temperature : {0.5, 1.0, 2.0}) {
    random_stream random(3);
    std::vector<double> expected(5), counts(5, 0.0);
    double total = 0.0;
    for (std::size_t v = 0; v < 5; ++v) total += expected[v] = std::exp(static_cast<double>(logits[v]) / temperature);
    constexpr int draws = 20000;
    for (int i = 0; i < draws; ++i)
      counts[static_cast<std::size_t>(sample(std::span<float const>(logits), {.temperature = temperature}, random).id)] += 1.0;
    for (std::size_t v = 0; v < 5; ++v) CHECK(counts[v] / draws == doctest::Approx(expected[v] / total).epsilon(0.08));
    CHECK(random.position() == draws);
  }
}

TEST_CASE("sampler: a token of logit -inf is never drawn") {
  std::vector<float> const masked{-INFINITY, 0.0f, -INFINITY, 0.0f, -INFINITY};
  token_sampler sample;
  random_stream random(4);
  for (int i = 0; i < 500; ++i) {
    token_id const t = sample(std::span<float const>(masked), {}, random).id;
    CHECK((t == 1 || t == 3));
  }
}

TEST_CASE("sampler: the log-probability of a draw is that of the tempered, filtered, renormalised distribution") {
  token_sampler sample;
  std::vector<double> const p{0.1, 0.4, 0.3, 0.15, 0.05};
  std::vector<double> row;
  for (double const x : p) row.push_back(std::log(x) + 3.0);
  auto const check = [&](sampling_options const& o, std::vector<double> weights) {
    double total = 0.0;
    for (double const w : weights) total += w;
    random_stream random(5);
    for (int i = 0; i < 200; ++i) {
      sampled_token const drawn = sample(std::span<double const>(row), o, random);
      CHECK(drawn.logp == doctest::Approx(std::log(weights[static_cast<std::size_t>(drawn.id)] / total)).epsilon(1e-14));
    }
  };
  check({}, p);
  check({.temperature = 0.5}, {0.01, 0.16, 0.09, 0.0225, 0.0025});
  check({.top_k = 2}, {0.0, 0.4, 0.3, 0.0, 0.0});
  check({.top_p = 0.71}, {0.0, 0.4, 0.3, 0.15, 0.0});
  check({.temperature = 0.5, .top_k = 3, .top_p = 0.9}, {0.0, 0.16, 0.09, 0.0, 0.0});
  random_stream random(5);
  CHECK(sample(std::span<double const>(row), {.temperature = 0.0}, random).logp == 0.0);
}

TEST_CASE("sampler: logits without a distribution give a log-probability of NaN, filtered or not") {
  token_sampler sample;
  random_stream random(1);
  for (sampling_options const& o : {sampling_options{}, sampling_options{.top_k = 2}, sampling_options{.top_p = 0.5}})
    for (std::vector<float> const& row : {std::vector<float>{0.0f, NAN, 1.0f}, {NAN, 0.0f, 1.0f}, {0.0f, INFINITY, 1.0f},
                                          {-INFINITY, -INFINITY, -INFINITY}})
      CHECK(std::isnan(sample(std::span<float const>(row), o, random).logp));
}

TEST_CASE("sampler: once reserved, drawing allocates nothing") {
  token_sampler sample;
  sample.reserve(logits.size());
  random_stream random(1);
  std::size_t const before = allocations();
  double sum = 0.0;
  for (sampling_options const& o : {sampling_options{}, sampling_options{.top_k = 2, .top_p = 0.5}})
    sum += sample(std::span<float const>(logits), o, random).logp;
  CHECK(allocations() == before);
  CHECK(sum <= 0.0);
}
