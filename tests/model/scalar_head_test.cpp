// SPDX-License-Identifier: MIT
#include <attune/model/scalar_head.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <vector>

#include "../support/plain_decoder.hpp"
#include "../support/random_sequences.hpp"

using namespace attune;

static_assert(TrainableRewardModel<scalar_head<float>> && TrainableRewardModel<scalar_head<double>>);

namespace {

decoder_options const options{.vocabulary = 11, .dim = 8, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 12, .window = 90};

template <class N>
N plain_score(test::plain_decoder<N> const& plain, sequences_view s, std::size_t b, score_pooling pooling) {
  auto const rows = plain.hidden(s.sequence(b));
  auto const dot = [&](std::size_t i) { return plain.product("score.weight", rows[i])[0]; };
  if (pooling == score_pooling::last) return dot(rows.size() - 1);
  N sum(0);
  double count = 0;
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (s.sequence_mask(b)[i]) sum += dot(i), count += 1;
  return pooling == score_pooling::mean ? sum / N(count) : sum / N(std::sqrt(count));
}

}  // namespace

TEST_CASE("scalar head: scores and every parameter's gradient are those of a plain pass and the complex step") {
  sequences const owned = test::random_sequences({6, 3, 68, 12}, 11, 8);
  sequences_view const s = owned;
  for (score_pooling const pooling : {score_pooling::last, score_pooling::mean, score_pooling::root_sum}) {
    scalar_head<double> model(options, 5, nullptr, pooling);
    random_stream random(6);  // pooled heads start at zero, where the trunk would get no gradient
    for (double& w : model.parameters().back().value) w = random.normal();
    std::vector<double> const slopes{0.7, -1.3, 0.2, 2.0};
    std::vector<double> scores(4);
    model.accumulate_score_gradient(s, [&](std::span<double const> seen, std::span<double> out) {
      std::copy(seen.begin(), seen.end(), scores.begin());
      std::copy(slopes.begin(), slopes.end(), out.begin());
    });
    using complex = std::complex<double>;
    test::plain_decoder<complex> plain(options, model.parameters());
    for (std::size_t b = 0; b < 4; ++b)
      CHECK(scores[b] == doctest::Approx(plain_score(plain, s, b, pooling).real()).epsilon(1e-12));
    double worst = 0.0, largest = 0.0;
    for (auto const& p : model.parameters())
      for (double const g : p.gradient) largest = std::max(largest, std::abs(g));
    for (auto const& p : model.parameters())
      for (std::size_t j = 0; j < p.value.size(); ++j) {
        complex& weight = plain.weights.at(std::string(p.name))[j];
        weight += complex(0.0, 1e-30);
        double expected = 0.0;
        for (std::size_t b = 0; b < 4; ++b) expected += slopes[b] * plain_score(plain, s, b, pooling).imag() * 1e30;
        weight = weight.real();
        worst = std::max(worst, std::abs(p.gradient[j] - expected) / std::max(std::abs(expected), 1e-3 * largest));
      }
    CHECK(worst < 1e-10);
  }
}

TEST_CASE("scalar head: one that pools starts indifferent, one that reads the last token does not") {
  sequences const s = test::random_sequences({6, 3}, 11, 8);
  for (score_pooling const pooling : {score_pooling::last, score_pooling::mean, score_pooling::root_sum}) {
    scalar_head<float> const model(options, 1, nullptr, pooling);
    std::vector<float> scores(2);
    model.scores(s, scores);
    CHECK((scores[0] == 0.0f) == (pooling != score_pooling::last));
  }
}

TEST_CASE("scalar head: made from a language model, it starts from the same trunk") {
  for (bool const tied : {true, false}) {
    decoder_options own = options;
    own.tied = tied;
    decoder<double> language(own, 3);
    scalar_head<double> reward(language, 4);
    for (auto const& p : reward.parameters()) {
      if (p.name == "score.weight") continue;
      auto const& all = language.parameters();
      auto const same = std::ranges::find(all, p.name, &parameter<double>::name);
      REQUIRE(same != all.end());
      CHECK(std::ranges::equal(same->value, p.value));
    }
  }
}

TEST_CASE("scalar head: is callable as a reward model, and refuses a sequence it cannot read by number") {
  scalar_head<float> model(options, 1);
  sequences const s = test::random_sequences({6, 3}, 11, 8);
  std::vector<float> direct(2);
  std::vector<double> called(2);
  model.scores(s, direct);
  model(s, called);
  CHECK(called[0] == static_cast<double>(direct[0]));
  CHECK(called[1] == static_cast<double>(direct[1]));

  sequences with_empty = s;
  with_empty.push_back({}, {});
  std::vector<float> three(3);
  CHECK_THROWS_WITH_AS(model.scores(with_empty, three), "scalar_head: sequence 2 is empty", contract_violation);
  scalar_head<float> mean(options, 1, nullptr, score_pooling::mean);
  sequences prompt_only;
  prompt_only.push_back(std::vector<token_id>{1, 2}, {});
  CHECK_THROWS_WITH_AS(mean.scores(prompt_only, std::span(three).first(1)),
                       "scalar_head: sequence 0 has no masked-in token to pool", contract_violation);
}

TEST_CASE("scalar head: every pooling has a name, and a name that is none gives nothing") {
  for (auto const& [name, pooling] : score_pooling_names) CHECK(score_pooling_of(name) == pooling);
  CHECK(!score_pooling_of("max"));
  CHECK(!score_pooling_of(""));
}
