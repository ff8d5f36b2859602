// SPDX-License-Identifier: MIT
#include <attune/testing/generative_policy_laws.hpp>

#include "support/small_world.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace attune;
using namespace attune::testing;

// Each defect breaks one promise of an otherwise sound sampler; the checkers must name it.
namespace {

enum class defect {
  none, shared_stream, wrong_distribution, unrepeatable, drops_prompt, too_long,                    // of the sample
  another_sample, no_entries_for_prompts, noise_on_prompts, untempered, not_renormalised, greedy_is_unlikely  // of the scores
};

class defective_sampler {
 public:
  using scalar = double;
  explicit defective_sampler(defect d) : defect_(d), policy_(test::random_tabular<double>({.vocabulary = 5}, 9)) {}

  void log_probs(sequences_view s, std::span<double> logps) const { policy_.log_probs(s, logps); }

  void generate(sequences_view prompts, sampling_options options, sequences& out) {
    std::vector<double> unused;
    sample(prompts, options, out, unused);
  }

  void generate(sequences_view prompts, sampling_options options, sequences& out, std::vector<double>& logps) {
    if (defect_ == defect::another_sample) options.seed += 1;
    sample(prompts, options, out, logps);
    sequences_view const s = out;
    if (defect_ == defect::noise_on_prompts) logps[0] = -1.0;
    if (defect_ == defect::no_entries_for_prompts) logps.resize(completion_tokens(s.mask));
    if (defect_ == defect::greedy_is_unlikely && options.temperature == 0.0) policy_.log_probs(s, logps);
    if (defect_ == defect::untempered && options.temperature != 0.0 && options.top_k == 0 && options.top_p == 1.0)
      policy_.log_probs(s, logps);
    if (defect_ == defect::not_renormalised && options.temperature == 1.0) policy_.log_probs(s, logps);
  }

 private:
  void sample(sequences_view prompts, sampling_options options, sequences& out, std::vector<double>& logps) {
    if (defect_ == defect::unrepeatable) options.seed += ++calls_;
    if (defect_ == defect::wrong_distribution) options.temperature *= 1.4;
    if (defect_ == defect::too_long) options.max_new_tokens += 1;
    if (defect_ == defect::shared_stream && prompts.size() > 1) options.seed += 1;
    policy_.generate(prompts, options, out, logps);
    if (defect_ != defect::drops_prompt) return;
    sequences shorter;
    for (std::size_t b = 0; b < out.size(); ++b) shorter.push_back({}, {});
    out = shorter;
  }

  defect defect_;
  tabular_policy<double> policy_;
  std::size_t calls_ = 0;
};

static_assert(ScoredGenerativePolicy<defective_sampler>);

std::vector<broken_law> sample_laws(defect d) {
  defective_sampler sampler(d);
  return check_generative_policy_laws(sampler, 5, {.batch = 6, .seed = 3});
}

std::vector<broken_law> score_laws(defect d) {
  defective_sampler sampler(d);
  return check_scored_generative_policy_laws(sampler, 5, {.batch = 6, .seed = 3});
}

}  // namespace

TEST_CASE("generative policy laws: a sound sampler keeps them all") {
  expect_laws(sample_laws(defect::none));
  expect_laws(score_laws(defect::none));
}

TEST_CASE("generative policy laws: each defect of a sample is named") {
  CHECK(breaks(sample_laws(defect::shared_stream), "own stream"));
  CHECK(breaks(sample_laws(defect::wrong_distribution), "distribution"));
  CHECK(breaks(sample_laws(defect::unrepeatable), "pure"));
  CHECK(breaks(sample_laws(defect::drops_prompt), "shape"));
  CHECK(breaks(sample_laws(defect::too_long), "shape"));
}

TEST_CASE("generative policy laws: each defect of the sample's log-probabilities is named") {
  CHECK(breaks(score_laws(defect::another_sample), "same sample"));
  CHECK(breaks(score_laws(defect::no_entries_for_prompts), "shape"));
  CHECK(breaks(score_laws(defect::noise_on_prompts), "shape"));
  CHECK(breaks(score_laws(defect::wrong_distribution), "scored"));
  CHECK(breaks(score_laws(defect::untempered), "scored"));
  CHECK(breaks(score_laws(defect::not_renormalised), "scored"));
  CHECK(breaks(score_laws(defect::greedy_is_unlikely), "scored"));
}

TEST_CASE("generative policy laws: a filtered log-probability is that of the survivors, done by hand") {
  std::vector<double> const logps{std::log(0.1), std::log(0.4), std::log(0.3), std::log(0.2)};
  CHECK(filtered_log_prob(logps, 2, {}) == doctest::Approx(std::log(0.3)).epsilon(1e-14));
  CHECK(filtered_log_prob(logps, 2, {.top_k = 2}) == doctest::Approx(std::log(3.0 / 7.0)).epsilon(1e-14));
  CHECK(filtered_log_prob(logps, 3, {.top_k = 2}) == -std::numeric_limits<double>::infinity());
  CHECK(filtered_log_prob(logps, 1, {.top_p = 0.39}) == 0.0);
  CHECK(filtered_log_prob(logps, 1, {.temperature = 0.5}) == doctest::Approx(std::log(16.0 / 30.0)).epsilon(1e-14));
  CHECK(filtered_log_prob(logps, 1, {.temperature = 0.0}) == 0.0);
  CHECK(filtered_log_prob(logps, 0, {.temperature = 0.0}) == -std::numeric_limits<double>::infinity());
}
