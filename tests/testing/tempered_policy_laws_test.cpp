// SPDX-License-Identifier: MIT
#include <attune/testing/tempered_policy_laws.hpp>

#include "support/small_world.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace attune;
using namespace attune::testing;

// Each defect breaks one promise of an otherwise sound temperature; the checker must name it.
namespace {

enum class defect {
  none, ignored, multiplied_by, not_in_the_gradient, anything_accepted, forgotten_in_copies, never_quite_restored
};

class defective_policy {
 public:
  using scalar = double;
  explicit defective_policy(defect d) : defect_(d), policy_(test::random_tabular<double>({.vocabulary = 5}, 9)) {}
  defective_policy(defective_policy const& other) : defect_(other.defect_), policy_(other.policy_) {
    if (defect_ == defect::forgotten_in_copies) policy_.set_temperature(1.0);
  }

  double temperature() const {
    return defect_ == defect::multiplied_by ? 1.0 / policy_.temperature() : policy_.temperature();
  }
  void set_temperature(double temperature) {
    if (defect_ == defect::anything_accepted && !(temperature > 0.0 && temperature < 1e9)) return;
    validate_temperature(temperature);
    policy_.set_temperature(defect_ == defect::multiplied_by ? 1.0 / temperature : temperature);
    touched_ = touched_ || temperature != 1.0;
  }

  void log_probs(sequences_view s, std::span<double> logps) const {
    tabular_policy<double> asked = policy_;
    if (defect_ == defect::ignored) asked.set_temperature(1.0);
    asked.log_probs(s, logps);
    if (defect_ == defect::never_quite_restored && touched_)
      for (std::size_t t = 0; t < logps.size(); ++t)
        if (s.mask[t] != 0) logps[t] -= 1e-15;
  }

  void accumulate_gradient(sequences_view s, slopes_of<double> ask) {
    policy_.accumulate_gradient(s, [&](std::span<double const> logps, std::span<double> slopes) {
      ask(logps, slopes);
      if (defect_ == defect::not_in_the_gradient)
        for (double& slope : slopes) slope *= policy_.temperature();
    });
  }

  auto parameters() { return policy_.parameters(); }

 private:
  defect defect_;
  tabular_policy<double> policy_;
  bool touched_ = false;
};

static_assert(Policy<defective_policy> && TemperedPolicy<defective_policy>);

std::vector<broken_law> laws(defect d) {
  defective_policy policy(d);
  return check_tempered_policy_laws(policy, 5, {.batch = 6, .seed = 3});
}

}  // namespace

TEST_CASE("tempered policy laws: a sound policy keeps them, and each defect is named") {
  expect_laws(laws(defect::none));
  CHECK(breaks(laws(defect::ignored), "tempered"));
  CHECK(breaks(laws(defect::multiplied_by), "tempered"));
  CHECK(breaks(laws(defect::not_in_the_gradient), "exact"));
  CHECK(breaks(laws(defect::anything_accepted), "refuses"));
  CHECK(breaks(laws(defect::forgotten_in_copies), "copied"));
  CHECK(breaks(laws(defect::never_quite_restored), "restored"));
}

TEST_CASE("tempered policy laws: the checker leaves parameters and temperature as they were") {
  auto policy = test::random_tabular<double>({.vocabulary = 5}, 9);
  policy.set_temperature(0.3);
  auto const before = copied_values(policy);
  static_cast<void>(check_tempered_policy_laws(policy, 5));
  CHECK(policy.temperature() == 0.3);
  CHECK(copied_values(policy) == before);
  for (double const g : copied_gradients(policy)) CHECK(g == 0.0);
}
