// SPDX-License-Identifier: MIT
#include <attune/model/synchronized_reference.hpp>

#include "support/small_world.hpp"

#include <attune/train/dpo_stage.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

using namespace attune;

static_assert(ReferencePolicy<synchronized_reference<tabular_policy<float>>>);
static_assert(SynchronizedReference<synchronized_reference<tabular_policy<float>>, tabular_policy<float>>);
static_assert(!SynchronizedReference<tabular_policy<float>, tabular_policy<float>>);

namespace {

template <class Model>
std::vector<double> values_of(Model& model) {
  std::vector<double> out;
  for (auto&& p : model.parameters()) out.insert(out.end(), p.value.begin(), p.value.end());
  return out;
}

}  // namespace

TEST_CASE("synchronized_reference: stays where it was until it is mixed, and then lies between") {
  auto policy = test::random_tabular<double>({.vocabulary = 5}, 1);
  auto const start = values_of(policy);
  synchronized_reference reference{policy};
  std::uint64_t const identity = reference.fingerprint();
  for (auto&& p : policy.parameters())
    for (double& x : p.value) x += 1.0;
  CHECK(values_of(reference) == start);
  CHECK(reference.fingerprint() == identity);
  reference.mix(policy, 0.25);
  auto const mixed = values_of(reference);
  for (std::size_t i = 0; i < start.size(); ++i) CHECK(mixed[i] == doctest::Approx(start[i] + 0.25).epsilon(1e-15));
  CHECK(reference.fingerprint() != identity);
  reference.mix(policy, 1.0);
  CHECK(values_of(reference) == values_of(policy));
}

TEST_CASE("synchronized_reference: a policy of another shape is refused") {
  auto policy = test::random_tabular<double>({.vocabulary = 5}, 1);
  auto other = test::random_tabular<double>({.vocabulary = 6}, 1);
  synchronized_reference reference{policy};
  CHECK_THROWS_AS(reference.mix(other, 0.5), contract_violation);
}
