// SPDX-License-Identifier: MIT
#include <attune/testing/policy_laws.hpp>

#include "support/small_world.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace attune;
using namespace attune::testing;

// Each defect breaks one promise of an otherwise sound policy; the checkers must name it.
namespace {

enum class defect {
  none, unnormalised, writes_masked, impure, not_causal, not_local, order_matters,  // of log_probs
  inconsistent, asks_twice, dirty_slopes, wrong_gradient, not_linear, overwrites, moves_values, changes_on_throw,
  renames  // of the gradient
};

class defective_policy {
 public:
  using scalar = double;
  explicit defective_policy(defect d) : defect_(d), policy_(test::random_tabular<double>({.vocabulary = 5}, 9)) {}

  void log_probs(sequences_view s, std::span<double> logps) const {
    policy_.log_probs(s, logps);
    spoil(s, logps);
  }

  void accumulate_gradient(sequences_view s, slopes_of<double> ask) {
    std::vector<double> const kept(policy_.parameters()[0].gradient.begin(), policy_.parameters()[0].gradient.end());
    if (defect_ == defect::overwrites) clear_gradients(policy_);
    if (defect_ == defect::changes_on_throw) policy_.parameters()[0].gradient[3] += 1.0;
    std::vector<double> scratch;
    policy_.accumulate_gradient(s, [&](std::span<double const> logps, std::span<double> slopes) {
      std::vector<double> seen(logps.begin(), logps.end());
      if (defect_ == defect::inconsistent) seen.back() += 1e-3;
      if (defect_ == defect::dirty_slopes) slopes[s.offsets[1]] = 1.0;
      ask(seen, slopes);
      if (defect_ == defect::asks_twice) ask(seen, slopes);
      double total = 0.0;
      for (double const slope : slopes) total += slope;
      if (defect_ == defect::not_linear)
        for (double& slope : slopes) slope *= 1.0 + 0.1 * total;
      if (defect_ == defect::wrong_gradient)
        for (double& slope : slopes) slope *= 1.001;
    });
    if (defect_ == defect::changes_on_throw) policy_.parameters()[0].gradient[3] -= 1.0;
    if (defect_ == defect::moves_values) policy_.row(0)[0] += 1e-9;
  }

  auto parameters() {
    auto all = policy_.parameters();
    std::vector<parameter<double>> out(all.begin(), all.end());
    if (defect_ == defect::renames) out.push_back({.name = "logits", .value = extra_, .gradient = extra_gradient_, .shape = {1, 1}});
    return out;
  }

 private:
  void spoil(sequences_view s, std::span<double> logps) const {
    for (std::size_t t = 0; t < logps.size(); ++t) {
      if (s.mask[t] == 0) {
        if (defect_ == defect::writes_masked) logps[t] = -1.0;
        continue;
      }
      if (defect_ == defect::unnormalised) logps[t] -= 1e-3;
      if (defect_ == defect::impure) logps[t] -= 1e-12 * static_cast<double>(++calls_);
      if (defect_ == defect::not_local) logps[t] -= 1e-3 * static_cast<double>(s.size());
    }
    if (defect_ == defect::order_matters) {
      if (s.size() > 1 && s.length(0) > s.length(s.size() - 1)) logps.back() -= 1e-3;
    }
    if (defect_ == defect::not_causal)
      for (std::size_t b = 0; b < s.size(); ++b)
        for (std::size_t i = 1; i + 1 < s.length(b); ++i)
          if (s.sequence_mask(b)[i] != 0) logps[s.offsets[b] + i] -= 1e-3 * s.sequence(b).back();
  }

  defect defect_;
  tabular_policy<double> policy_;
  std::vector<double> extra_{1.0}, extra_gradient_{0.0};
  mutable std::size_t calls_ = 0;
};

static_assert(Policy<defective_policy> && !TermedPolicy<defective_policy>);

std::vector<broken_law> all_laws(defect d) {
  defective_policy policy(d);
  return check_policy_laws(policy, 5, {.batch = 6, .seed = 3});
}

}  // namespace

TEST_CASE("policy laws: a sound policy keeps them all") { expect_laws(all_laws(defect::none)); }

TEST_CASE("policy laws: each defect of log_probs is named") {
  CHECK(breaks(all_laws(defect::unnormalised), "normalised"));
  CHECK(breaks(all_laws(defect::writes_masked), "masked"));
  CHECK(breaks(all_laws(defect::impure), "pure"));
  CHECK(breaks(all_laws(defect::not_causal), "causal"));
  CHECK(breaks(all_laws(defect::not_local), "local"));
  CHECK(breaks(all_laws(defect::order_matters), "local"));
}

TEST_CASE("policy laws: each defect of the gradient is named") {
  CHECK(breaks(all_laws(defect::inconsistent), "consistent"));
  CHECK(breaks(all_laws(defect::asks_twice), "asks once"));
  CHECK(breaks(all_laws(defect::dirty_slopes), "masked"));
  CHECK(breaks(all_laws(defect::wrong_gradient), "exact"));
  CHECK(breaks(all_laws(defect::not_linear), "linear"));
  CHECK(breaks(all_laws(defect::overwrites), "accumulates"));
  CHECK(breaks(all_laws(defect::moves_values), "accumulates"));
  CHECK(breaks(all_laws(defect::changes_on_throw), "ask throws"));
  CHECK(breaks(all_laws(defect::renames), "stable"));
}

TEST_CASE("policy laws: the checker leaves parameters as they were and gradients at zero") {
  auto policy = test::random_tabular<double>({.vocabulary = 5}, 9);
  auto const before = copied_values(policy);
  static_cast<void>(check_policy_laws(policy, 5));
  CHECK(copied_values(policy) == before);
  for (double const g : copied_gradients(policy)) CHECK(g == 0.0);
}
