// SPDX-License-Identifier: MIT
#include <attune/concepts/policy.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <span>
#include <string>
#include <vector>

using namespace attune;

namespace {

// The least that satisfies ReferencePolicy: the uniform distribution over two tokens.
struct reference_archetype {
  using scalar = double;
  void log_probs(sequences_view s, std::span<double> logps) const {
    for (std::size_t t = 0; t < logps.size(); ++t) logps[t] = s.mask[t] != 0 ? -0.6931471805599453 : 0.0;
  }
};

// The least that satisfies Policy: no parameter to speak of.
struct policy_archetype : reference_archetype {
  void accumulate_gradient(sequences_view s, slopes_of<double> ask) {
    std::vector<double> logps(s.total_tokens()), slopes(s.total_tokens());
    log_probs(s, logps);
    ask(logps, slopes);
  }
  std::array<parameter<double>, 0> parameters() { return {}; }
};

struct termed_archetype : policy_archetype {
  void accumulate_gradient_with(sequences_view, token_terms, term_slopes_of<double>) {}
  void log_probs_with(sequences_view, term_values<double>) const {}
};

struct tempered_archetype : reference_archetype {
  double temperature() const { return 1.0; }
  void set_temperature(double) {}
};

// Near misses, each named by its defect.
struct no_scalar {
  void log_probs(sequences_view, std::span<double>) const {}
};
struct integral_scalar {
  using scalar = int;
  void log_probs(sequences_view, std::span<int>) const {}
};
struct log_probs_not_const {
  using scalar = double;
  void log_probs(sequences_view, std::span<double>) {}
};
struct log_probs_of_another_scalar {
  using scalar = double;
  void log_probs(sequences_view, std::span<float>) const {}
};
struct log_probs_returned {
  using scalar = double;
  std::vector<double> log_probs(sequences_view, std::span<double>) const { return {}; }
};
struct no_parameters : reference_archetype {
  void accumulate_gradient(sequences_view, slopes_of<double>) {}
};
struct no_gradient : reference_archetype {
  std::array<parameter<double>, 0> parameters() { return {}; }
};
struct gradient_without_ask : policy_archetype {
  void accumulate_gradient(sequences_view) {}
};
struct parameters_of_another_scalar : policy_archetype {
  std::array<parameter<float>, 1> parameters() { return {}; }
};
struct parameters_that_are_no_range : policy_archetype {
  parameter<double> parameters() { return {}; }
};
struct terms_that_nobody_chose : termed_archetype {
  void accumulate_gradient_with(sequences_view, term_slopes_of<double>) {}
};
struct terms_of_logps_alone : termed_archetype {
  void accumulate_gradient_with(sequences_view, token_terms, slopes_of<double>) {}
};
struct terms_of_another_scalar : termed_archetype {
  void accumulate_gradient_with(sequences_view, token_terms, term_slopes_of<float>) {}
};
struct terms_without_a_forward_pass : policy_archetype {
  void accumulate_gradient_with(sequences_view, token_terms, term_slopes_of<double>) {}
};
struct forward_pass_not_const : policy_archetype {
  void accumulate_gradient_with(sequences_view, token_terms, term_slopes_of<double>) {}
  void log_probs_with(sequences_view, term_values<double>) {}
};
struct terms_without_a_plain_gradient : reference_archetype {
  void accumulate_gradient_with(sequences_view, token_terms, term_slopes_of<double>) {}
  void log_probs_with(sequences_view, term_values<double>) const {}
};
struct temperature_that_cannot_be_set : reference_archetype {
  double temperature() const { return 1.0; }
};
struct temperature_that_cannot_be_read : reference_archetype {
  void set_temperature(double) {}
};
struct temperature_not_const : reference_archetype {
  double temperature() { return 1.0; }
  void set_temperature(double) {}
};
struct temperature_without_log_probs {
  using scalar = double;
  double temperature() const { return 1.0; }
  void set_temperature(double) {}
};

}  // namespace

static_assert(ReferencePolicy<reference_archetype> && !Policy<reference_archetype>);
static_assert(Policy<policy_archetype> && !TermedPolicy<policy_archetype>);
static_assert(TermedPolicy<termed_archetype>);

static_assert(!ReferencePolicy<no_scalar>);
static_assert(!ReferencePolicy<integral_scalar>);
static_assert(!ReferencePolicy<log_probs_not_const>);
static_assert(!ReferencePolicy<log_probs_of_another_scalar>);
static_assert(!ReferencePolicy<log_probs_returned>);
static_assert(ReferencePolicy<no_parameters> && !Policy<no_parameters>);
static_assert(ReferencePolicy<no_gradient> && !Policy<no_gradient>);
static_assert(!Policy<gradient_without_ask>);
static_assert(!Policy<parameters_of_another_scalar>);
static_assert(!Policy<parameters_that_are_no_range>);
static_assert(Policy<terms_that_nobody_chose> && !TermedPolicy<terms_that_nobody_chose>);
static_assert(!TermedPolicy<terms_of_logps_alone>);
static_assert(!TermedPolicy<terms_of_another_scalar>);
static_assert(Policy<terms_without_a_forward_pass> && !TermedPolicy<terms_without_a_forward_pass>);
static_assert(!TermedPolicy<forward_pass_not_const>);
static_assert(!TermedPolicy<terms_without_a_plain_gradient>);
static_assert(TemperedPolicy<tempered_archetype> && !TemperedPolicy<reference_archetype>);
static_assert(!TemperedPolicy<temperature_that_cannot_be_set>);
static_assert(!TemperedPolicy<temperature_that_cannot_be_read>);
static_assert(!TemperedPolicy<temperature_not_const>);
static_assert(!TemperedPolicy<temperature_without_log_probs>);

TEST_CASE("policy: temperatures that no distribution has are refused by value") {
  CHECK_NOTHROW(validate_temperature(1.0));
  CHECK_NOTHROW(validate_temperature(1e-30));
  CHECK_THROWS_WITH_AS(validate_temperature(0.0), "expected a policy's temperature in [1e-30, 1e30], got 0",
                       contract_violation);
  CHECK_THROWS_AS(validate_temperature(-1.0), contract_violation);
  CHECK_THROWS_AS(validate_temperature(std::nan("")), contract_violation);
  CHECK_THROWS_AS(validate_temperature(1e31), contract_violation);
}

TEST_CASE("policy: terms join, and values say which they hold") {
  CHECK(!token_terms{}.any());
  CHECK((token_terms{.mean_logps = true} | token_terms{.collisions = true}) == token_terms{true, false, false, true});
  for (unsigned bits = 1; bits < 16; ++bits) {
    token_terms const terms{(bits & 1u) != 0, (bits & 2u) != 0, (bits & 4u) != 0, (bits & 8u) != 0};
    CHECK(terms.any());
    CHECK((terms | token_terms{}) == terms);
    std::vector<double> some(3);
    auto const span = [&](bool is_there) { return is_there ? std::span<double>(some) : std::span<double>(); };
    term_values<double> const of{some, span(terms.mean_logps), span(terms.entropies), span(terms.log_normalizers),
                                 span(terms.collisions)};
    CHECK(of.terms() == terms);
  }
}

TEST_CASE("policy: terms of another size than the batch are refused by name") {
  sequences s;
  std::vector<token_id> const prompt{0}, completion{1, 0};
  s.push_back(prompt, completion);
  std::vector<double> three(3), two(2);
  CHECK_NOTHROW(expects_terms(term_values<double>{three}, s));
  CHECK_NOTHROW(expects_terms(term_values<double>{three, three, three, three, three}, s));
  auto const refusal = [&](term_values<double> const& of) {
    try {
      expects_terms(of, s);
    } catch (contract_violation const& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  CHECK(refusal({}) == "expected log_probs_with: logps.size() == s.total_tokens(), got 0");
  CHECK(refusal({three, two}) == "expected log_probs_with: mean_logps empty, or one per token, got 2");
  CHECK(refusal({three, {}, two}) == "expected log_probs_with: entropies empty, or one per token, got 2");
  CHECK(refusal({three, {}, {}, two}) == "expected log_probs_with: log_normalizers empty, or one per token, got 2");
  CHECK(refusal({three, {}, {}, {}, two}) == "expected log_probs_with: collisions empty, or one per token, got 2");
}

TEST_CASE("policy: the archetype answers ask once with log-probabilities of the batch") {
  sequences s;
  std::vector<token_id> const prompt{0}, completion{1, 0};
  s.push_back(prompt, completion);
  policy_archetype policy;
  std::size_t asked = 0;
  policy.accumulate_gradient(s, [&](std::span<double const> logps, std::span<double> slopes) {
    ++asked;
    CHECK(logps.size() == 3);
    CHECK(slopes.size() == 3);
    CHECK(logps[0] == 0.0);
    CHECK(logps[1] < 0.0);
  });
  CHECK(asked == 1);
}
