// SPDX-License-Identifier: MIT
#include <attune/concepts/generative_policy.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <span>
#include <vector>

using namespace attune;

namespace {

struct reference_archetype {
  using scalar = float;
  void log_probs(sequences_view, std::span<float>) const {}
};
struct generative_archetype : reference_archetype {
  void generate(sequences_view, sampling_options const&, sequences&) {}
};
struct scored_archetype : generative_archetype {
  using generative_archetype::generate;
  void generate(sequences_view, sampling_options const&, sequences&, std::vector<float>&) {}
};

struct cannot_score {
  void generate(sequences_view, sampling_options, sequences&) {}
};
struct returns_sequences : reference_archetype {
  sequences generate(sequences_view, sampling_options) { return {}; }
};
struct ignores_options : reference_archetype {
  void generate(sequences_view, sequences&) {}
};
struct writes_to_a_view : reference_archetype {
  void generate(sequences_view, sampling_options, sequences_view&) {}
};
struct changes_the_options : reference_archetype {
  void generate(sequences_view, sampling_options&, sequences&) {}
};
struct scores_in_double : generative_archetype {
  using generative_archetype::generate;
  void generate(sequences_view, sampling_options const&, sequences&, std::vector<double>&) {}
};
struct scores_without_a_plain_generate : reference_archetype {
  void generate(sequences_view, sampling_options const&, sequences&, std::vector<float>&) {}
};

}  // namespace

static_assert(GenerativePolicy<generative_archetype>);
static_assert(!GenerativePolicy<reference_archetype>);
static_assert(!GenerativePolicy<cannot_score>);
static_assert(!GenerativePolicy<returns_sequences>);
static_assert(!GenerativePolicy<ignores_options>);
static_assert(!GenerativePolicy<writes_to_a_view>);
static_assert(!GenerativePolicy<changes_the_options>);
static_assert(ScoredGenerativePolicy<scored_archetype> && !ScoredGenerativePolicy<generative_archetype>);
static_assert(GenerativePolicy<scores_in_double> && !ScoredGenerativePolicy<scores_in_double>);
static_assert(!ScoredGenerativePolicy<scores_without_a_plain_generate>);

TEST_CASE("generative policy: sampling options out of range are refused by field") {
  CHECK_NOTHROW(validate(sampling_options{}));
  CHECK_NOTHROW(validate(sampling_options{.temperature = 0.0}));
  CHECK_THROWS_AS(validate(sampling_options{.temperature = -0.1}), contract_violation);
  CHECK_THROWS_AS(validate(sampling_options{.temperature = std::nan("")}), contract_violation);
  CHECK_THROWS_AS(validate(sampling_options{.temperature = std::numeric_limits<double>::infinity()}), contract_violation);
  CHECK_THROWS_AS(validate(sampling_options{.top_p = 0.0}), contract_violation);
  CHECK_THROWS_AS(validate(sampling_options{.top_p = 1.5}), contract_violation);
  CHECK_THROWS_WITH_AS(validate(sampling_options{.max_new_tokens = 0}),
                       "expected sampling_options.max_new_tokens >= 1, got 0", contract_violation);
  CHECK_NOTHROW(validate(sampling_options{.stop_tokens = {0, 7}}));
  CHECK_THROWS_WITH_AS(validate(sampling_options{.stop_tokens = {7, -1}}),
                       "expected sampling_options.stop_tokens >= 0, got -1", contract_violation);
}

TEST_CASE("generative policy: any of several tokens stops a completion, and none does unless told") {
  sampling_options const options{.stop_tokens = {3, 9}};
  CHECK(options.stops(3));
  CHECK(options.stops(9));
  CHECK_FALSE(options.stops(4));
  CHECK_FALSE(sampling_options{}.stops(0));
}
