// SPDX-License-Identifier: MIT
#include <attune/concepts/value_model.hpp>

#include <doctest/doctest.h>

#include <array>
#include <span>
#include <vector>

using namespace attune;

namespace {

// The least that satisfies ValueModel: the same value everywhere, and no parameter to speak of.
struct value_archetype {
  using scalar = double;
  void values(sequences_view s, std::span<double> out) const {
    for (std::size_t t = 0; t < out.size(); ++t) out[t] = s.mask[t] != 0 ? 1.0 : 0.0;
  }
  void accumulate_value_gradient(sequences_view s, value_slopes_of<double> ask) {
    std::vector<double> out(s.total_tokens()), slopes(s.total_tokens());
    values(s, out);
    ask(out, slopes);
  }
  std::array<parameter<double>, 0> parameters() { return {}; }
};

struct policy_archetype {
  using scalar = double;
  void log_probs(sequences_view, std::span<double>) const {}
  void accumulate_gradient(sequences_view, slopes_of<double>) {}
  std::array<parameter<double>, 0> parameters() { return {}; }
};

struct actor_critic_archetype : policy_archetype {
  void values(sequences_view, std::span<double>) const {}
  void accumulate_value_gradient(sequences_view, value_slopes_of<double>) {}
  void log_probs_and_values(sequences_view, std::span<double>, std::span<double>) const {}
  void accumulate_gradient_with_values(sequences_view, actor_critic_slopes_of<double>) {}
};

// Near misses, each named by its defect.
struct no_scalar {
  void values(sequences_view, std::span<double>) const {}
  void accumulate_value_gradient(sequences_view, value_slopes_of<double>) {}
  std::array<parameter<double>, 0> parameters() { return {}; }
};
struct values_not_const {
  using scalar = double;
  void values(sequences_view, std::span<double>) {}
  void accumulate_value_gradient(sequences_view, value_slopes_of<double>) {}
  std::array<parameter<double>, 0> parameters() { return {}; }
};
struct values_returned : value_archetype {
  std::vector<double> values(sequences_view, std::span<double>) const { return {}; }
};
struct values_of_another_scalar : value_archetype {
  using scalar = float;
};
struct no_gradient {
  using scalar = double;
  void values(sequences_view, std::span<double>) const {}
  std::array<parameter<double>, 0> parameters() { return {}; }
};
struct gradient_without_ask : value_archetype {
  void accumulate_value_gradient(sequences_view, std::span<double const>) {}
};
struct no_parameters {
  using scalar = double;
  void values(sequences_view, std::span<double>) const {}
  void accumulate_value_gradient(sequences_view, value_slopes_of<double>) {}
};
struct two_passes : policy_archetype {
  void values(sequences_view, std::span<double>) const {}
  void accumulate_value_gradient(sequences_view, value_slopes_of<double>) {}
};
struct joint_reading_not_const : two_passes {
  void log_probs_and_values(sequences_view, std::span<double>, std::span<double>) {}
  void accumulate_gradient_with_values(sequences_view, actor_critic_slopes_of<double>) {}
};
struct joint_gradient_without_value_slopes : two_passes {
  void log_probs_and_values(sequences_view, std::span<double>, std::span<double>) const {}
  void accumulate_gradient_with_values(sequences_view, slopes_of<double>) {}
};
struct joint_without_a_policy : value_archetype {
  void log_probs_and_values(sequences_view, std::span<double>, std::span<double>) const {}
  void accumulate_gradient_with_values(sequences_view, actor_critic_slopes_of<double>) {}
};

}  // namespace

static_assert(ValueModel<value_archetype> && !ActorCritic<value_archetype>);
static_assert(!ValueModel<policy_archetype>);
static_assert(ActorCritic<actor_critic_archetype>);
static_assert(!ValueModel<no_scalar>);
static_assert(!ValueModel<values_not_const>);
static_assert(!ValueModel<values_returned>);
static_assert(!ValueModel<values_of_another_scalar>);
static_assert(!ValueModel<no_gradient>);
static_assert(!ValueModel<gradient_without_ask>);
static_assert(!ValueModel<no_parameters>);
static_assert(ValueModel<two_passes> && Policy<two_passes> && !ActorCritic<two_passes>);
static_assert(!ActorCritic<joint_reading_not_const>);
static_assert(!ActorCritic<joint_gradient_without_value_slopes>);
static_assert(!ActorCritic<joint_without_a_policy>);

TEST_CASE("value model: the archetype answers ask once with values of the batch") {
  sequences s;
  std::vector<token_id> const prompt{0}, completion{1, 0};
  s.push_back(prompt, completion);
  value_archetype critic;
  std::size_t asked = 0;
  critic.accumulate_value_gradient(s, [&](std::span<double const> values, std::span<double> slopes) {
    ++asked;
    CHECK(slopes.size() == 3);
    CHECK(values[0] == 0.0);
    CHECK(values[2] == 1.0);
  });
  CHECK(asked == 1);
}
