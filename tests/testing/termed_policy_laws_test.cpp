// SPDX-License-Identifier: MIT
#include <attune/testing/termed_policy_laws.hpp>

#include "support/small_world.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

using namespace attune;
using namespace attune::testing;

// Each defect breaks one promise of an otherwise sound policy; the checker must name it.
namespace {

enum class defect {
  none,
  mean_of_logits, entropy_in_bits, collision_not_logged, normalizer_of_the_token,        // of values
  values_on_prompts, forward_pass_of_its_own, means_with_entropies_only, hands_out_more,  // of what is handed out
  asks_twice, dirty_slopes, changes_on_throw,
  mean_without_gradient, entropy_without_gradient, normalizer_gradient_doubled,           // of gradients
  terms_bend_logps, slopes_interact, terms_needed
};

class defective_policy {
 public:
  using scalar = double;
  explicit defective_policy(defect d) : defect_(d), policy_(test::random_tabular<double>({.vocabulary = 5}, 9)) {}

  void log_probs(sequences_view s, std::span<double> logps) const { policy_.log_probs(s, logps); }
  void accumulate_gradient(sequences_view s, slopes_of<double> ask) { policy_.accumulate_gradient(s, ask); }
  auto parameters() { return policy_.parameters(); }

  void log_probs_with(sequences_view s, term_values<double> of) const {
    policy_.log_probs_with(s, of);
    spoil(s, of);
    if (defect_ == defect::forward_pass_of_its_own)
      for (double& x : of.log_normalizers) x *= 1.001;
  }

  void accumulate_gradient_with(sequences_view s, token_terms terms, term_slopes_of<double> ask) {
    if (defect_ == defect::hands_out_more) terms.entropies = true;
    if (defect_ == defect::terms_needed && !terms.any()) return;
    if (defect_ == defect::changes_on_throw) policy_.parameters()[0].gradient[3] += 1.0;
    policy_.accumulate_gradient_with(s, terms, [&](term_values<double const> const& seen, term_slopes<double> const& slopes) {
      std::array<std::vector<double>, 5> kept;
      std::array const from{seen.logps, seen.mean_logps, seen.entropies, seen.log_normalizers, seen.collisions};
      for (std::size_t k = 0; k < 5; ++k) kept[k].assign(from[k].begin(), from[k].end());
      term_values<double> const of{kept[0], kept[1], kept[2], kept[3], kept[4]};
      spoil(s, of);
      if (defect_ == defect::dirty_slopes && terms.log_normalizers) slopes.log_normalizers[s.offsets[1]] = 1.0;
      term_values<double const> const shown{kept[0], kept[1], kept[2], kept[3], kept[4]};
      ask(shown, slopes);
      if (defect_ == defect::asks_twice) ask(shown, slopes);
      auto const scale = [](std::span<double> values, double factor) {
        for (double& x : values) x *= factor;
      };
      if (defect_ == defect::mean_without_gradient) scale(slopes.mean_logps, 0.0);
      if (defect_ == defect::entropy_without_gradient) scale(slopes.entropies, 0.0);
      if (defect_ == defect::normalizer_gradient_doubled) scale(slopes.log_normalizers, 2.0);
      if (defect_ == defect::terms_bend_logps && terms.any()) scale(slopes.logps, 1.001);
      if (defect_ == defect::slopes_interact && terms.entropies && terms.log_normalizers)
        for (std::size_t t = 0; t < slopes.logps.size(); ++t)
          slopes.entropies[t] += 0.1 * slopes.log_normalizers[t] * slopes.entropies[t];
    });
    if (defect_ == defect::changes_on_throw) policy_.parameters()[0].gradient[3] -= 1.0;
  }

 private:
  void spoil(sequences_view s, term_values<double> const& of) const {
    auto const each = [&](std::span<double> values, auto const& change) {
      for (std::size_t t = 0; t < values.size(); ++t)
        if (s.mask[t] != 0) values[t] = change(values[t], t);
    };
    if (defect_ == defect::mean_of_logits) each(of.mean_logps, [](double x, std::size_t) { return x + 0.01; });
    if (defect_ == defect::entropy_in_bits) each(of.entropies, [](double x, std::size_t) { return x * 1.4427; });
    if (defect_ == defect::collision_not_logged) each(of.collisions, [](double x, std::size_t) { return std::exp(x); });
    if (defect_ == defect::normalizer_of_the_token)
      each(of.log_normalizers, [&](double x, std::size_t t) { return x + 1e-3 * s.tokens[t]; });
    if (defect_ == defect::values_on_prompts && !of.entropies.empty()) of.entropies[0] = 1.0;
    if (defect_ == defect::means_with_entropies_only && of.entropies.empty())
      each(of.mean_logps, [](double x, std::size_t) { return 0.5 * x; });
  }

  defect defect_;
  tabular_policy<double> policy_;
};

static_assert(TermedPolicy<defective_policy>);

std::vector<broken_law> laws(defect d) {
  defective_policy policy(d);
  return check_termed_policy_laws(policy, 5, {.batch = 6, .seed = 3});
}

}  // namespace

TEST_CASE("termed policy laws: a sound policy keeps them all") { expect_laws(laws(defect::none)); }

TEST_CASE("termed policy laws: each defect of a value is named") {
  CHECK(breaks(laws(defect::mean_of_logits), "terms"));
  CHECK(breaks(laws(defect::entropy_in_bits), "terms"));
  CHECK(breaks(laws(defect::collision_not_logged), "terms"));
  CHECK(breaks(laws(defect::normalizer_of_the_token), "context"));
  CHECK(breaks(laws(defect::values_on_prompts), "masked"));
  CHECK(breaks(laws(defect::forward_pass_of_its_own), "consistent"));
  CHECK(breaks(laws(defect::means_with_entropies_only), "consistent"));
  CHECK(breaks(laws(defect::hands_out_more), "as asked"));
}

TEST_CASE("termed policy laws: each defect of asking and of a gradient is named") {
  CHECK(breaks(laws(defect::asks_twice), "asks once"));
  CHECK(breaks(laws(defect::terms_needed), "asks once"));
  CHECK(breaks(laws(defect::dirty_slopes), "masked"));
  CHECK(breaks(laws(defect::changes_on_throw), "ask throws"));
  CHECK(breaks(laws(defect::mean_without_gradient), "exact"));
  CHECK(breaks(laws(defect::entropy_without_gradient), "exact"));
  CHECK(breaks(laws(defect::normalizer_gradient_doubled), "exact"));
  CHECK(breaks(laws(defect::terms_bend_logps), "separate"));
  CHECK(breaks(laws(defect::slopes_interact), "separate"));
}

TEST_CASE("termed policy laws: the checker leaves parameters as they were and gradients at zero") {
  auto policy = test::random_tabular<double>({.vocabulary = 5}, 9);
  auto const before = copied_values(policy);
  static_cast<void>(check_termed_policy_laws(policy, 5));
  CHECK(copied_values(policy) == before);
  for (double const g : copied_gradients(policy)) CHECK(g == 0.0);
}
