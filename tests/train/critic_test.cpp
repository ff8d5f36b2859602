// SPDX-License-Identifier: MIT
#include <attune/train/critic.hpp>

#include "support/small_world.hpp"
#include "support/token_value.hpp"

#include <attune/model/actor_critic.hpp>
#include <attune/train/adamw.hpp>

#include <doctest/doctest.h>

using namespace attune;

namespace {

using policy = tabular_policy<double>;
using critic = test::token_value<double>;

template <class M, class O>
concept separate = requires(M& m, O& o) { separate_critic{m, o}; };

struct resembles_a_critic {
  critic& model;
  adamw<double>& optimizer;
};

}  // namespace

static_assert(CriticOf<no_critic, policy>);
static_assert(CriticOf<separate_critic<critic, adamw<double>>, policy>);
static_assert(CriticOf<shared_critic, actor_critic<float>>);
static_assert(!CriticOf<shared_critic, policy>, "it has no values");
static_assert(!CriticOf<shared_critic, decoder<float>>, "it has no values");
static_assert(!CriticOf<int, policy>);
static_assert(!CriticOf<resembles_a_critic, policy>, "by name, not by shape");
static_assert(separate<critic, adamw<double>>);
static_assert(!separate<policy, adamw<double>>, "a policy is no ValueModel");
static_assert(!separate<critic, int>, "nothing would train it");

TEST_CASE("critics: a separate one borrows model and optimiser; its rate is the policy's unless it is given") {
  critic model(3);
  adamw<double> optimizer;
  separate_critic const plain{model, optimizer};
  separate_critic const hurried{model, optimizer, 0.25};
  CHECK(&plain.model == &model);
  CHECK(&plain.optimizer == &optimizer);
  CHECK(plain.learning_rate == 0.0);
  CHECK(hurried.learning_rate == 0.25);
}
