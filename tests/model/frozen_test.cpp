// SPDX-License-Identifier: MIT
#include <attune/model/frozen.hpp>

#include "support/small_world.hpp"

#include <attune/testing/policy_laws.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace attune;

namespace {
template <class M>
concept has_parameters = requires(M& m) { m.parameters(); };
}  // namespace

static_assert(ReferencePolicy<frozen<tabular_policy<float>>>);
static_assert(!Policy<frozen<tabular_policy<float>>>, "a reference cannot be trained");
static_assert(!GenerativePolicy<frozen<tabular_policy<float>>>);
static_assert(!TemperedPolicy<frozen<tabular_policy<float>>>, "its temperature can be read and not changed");
static_assert(!has_parameters<frozen<tabular_policy<float>>>, "nobody reaches its parameters");

TEST_CASE("frozen: it keeps the laws of a reference policy") {
  auto const policy = test::random_tabular<double>({.vocabulary = 5}, 3);
  testing::expect_laws(testing::check_reference_policy_laws(frozen{policy}, 5));
}

TEST_CASE("frozen: it answers as the policy did when it was made, whatever becomes of the policy") {
  auto policy = test::random_tabular<double>({.vocabulary = 5}, 3);
  frozen const reference{policy};
  sequences s;
  s.push_back(test::token_list{0, 1}, test::token_list{2, 3});
  std::vector<double> before(4), after(4);
  policy.log_probs(s, before);
  for (auto const& p : policy.parameters())
    for (double& x : p.value) x = -2.0 * x;
  reference.log_probs(s, after);
  CHECK(after == before);
  policy.log_probs(s, before);
  CHECK(after != before);
}

TEST_CASE("frozen: its fingerprint is that of the model it was made from") {
  auto policy = test::random_tabular<double>({.vocabulary = 5}, 3);
  frozen const reference{policy};
  CHECK(reference.fingerprint() == model_fingerprint(policy));
  CHECK(model_fingerprint(reference) == reference.fingerprint());
  policy.row(0)[0] += 1.0;
  CHECK(reference.fingerprint() != model_fingerprint(policy));
}

TEST_CASE("frozen: it has the policy's temperature of that moment, which is part of its identity") {
  auto policy = test::random_tabular<double>({.vocabulary = 5}, 3);
  frozen const plain{policy};
  policy.set_temperature(0.7);
  frozen const tempered{policy};
  policy.set_temperature(2.0);
  CHECK(plain.temperature() == 1.0);
  CHECK(tempered.temperature() == 0.7);
  CHECK(tempered.fingerprint() != plain.fingerprint());
  sequences s;
  s.push_back(test::token_list{0, 1}, test::token_list{2, 3});
  std::vector<double> expected(4), actual(4);
  policy.set_temperature(0.7);
  policy.log_probs(s, expected);
  tempered.log_probs(s, actual);
  CHECK(actual == expected);
}
