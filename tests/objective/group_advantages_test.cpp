// SPDX-License-Identifier: MIT
#include <attune/objective/group_advantages.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"

using namespace attune;
using testing::relative_error;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

auto const baselines = {group_baseline::rloo, group_baseline::grpo, group_baseline::dr_grpo,
                        group_baseline::reinforce_plus_plus};

std::vector<double> advantages(std::vector<double> const& rewards, group_advantages_options o,
                               std::size_t* equal = nullptr) {
  std::vector<double> out(rewards.size(), 7.0);
  std::size_t const count = group_advantages(rewards, out, o);
  if (equal != nullptr) *equal = count;
  return out;
}

std::string message_of(std::vector<double> const& rewards, group_advantages_options o, std::size_t size = 0) {
  std::vector<double> out(size == 0 ? rewards.size() : size, 7.0);
  auto const before = out;
  try {
    group_advantages(rewards, out, o);
  } catch (contract_violation const& e) {
    CHECK(out == before);  // nothing half-written
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("group_advantages: a case worked by hand under each baseline") {
  std::vector<double> const rewards{1, 2, 6, 0, 0, 3};
  auto const with = [&](group_baseline b) { return advantages(rewards, {.baseline = b, .num_generations = 3}); };
  auto const close = [](std::vector<double> const& a, std::vector<double> const& b) {
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-14));
  };
  close(with(group_baseline::rloo), {1 - 4.0, 2 - 3.5, 6 - 1.5, -1.5, -1.5, 3});
  close(with(group_baseline::dr_grpo), {-2, -1, 3, -1, -1, 2});
  double const first = std::sqrt(14.0 / 2) + 1e-4, second = std::sqrt(6.0 / 2) + 1e-4;
  close(with(group_baseline::grpo), {-2 / first, -1 / first, 3 / first, -1 / second, -1 / second, 2 / second});
  double const all = std::sqrt((14.0 + 6.0) / 5 + 1e-8);
  close(with(group_baseline::reinforce_plus_plus), {-2 / all, -1 / all, 3 / all, -1 / all, -1 / all, 2 / all});
}

TEST_CASE("group_advantages: are TRL's and VERL's, in PyTorch") {
  auto const cases = read_golden("group_advantages.txt");
  CHECK(cases.size() >= 24);
  std::size_t with_equal_groups = 0;
  for (golden_case const& c : cases) {
    std::size_t equal = 0;
    auto const ours = advantages(c["rewards"],
                                 {.baseline = static_cast<group_baseline>(c.integers<int>("baseline")[0]),
                                  .num_generations = c.integers<std::size_t>("num_generations")[0],
                                  .std_epsilon = c.number("std_epsilon")},
                                 &equal);
    for (std::size_t i = 0; i < ours.size(); ++i) CHECK(relative_error(ours[i], c["advantages"][i], 1e-3) <= 1e-10);
    CHECK(equal == c.integers<std::size_t>("equal_groups")[0]);
    with_equal_groups += equal > 0 ? 1 : 0;
  }
  CHECK(with_equal_groups >= 5);
}

TEST_CASE("group_advantages: a group's advantages add up to 0, and no constant added to its rewards moves them") {
  for (group_baseline const baseline : baselines) {
    random_stream stream(2);
    std::vector<double> rewards, moved;
    for (int i = 0; i < 40; ++i) {
      rewards.push_back(stream.normal());
      moved.push_back(rewards.back() + (i < 8 ? 3.0 : -1.5));
    }
    auto const one = advantages(rewards, {.baseline = baseline});
    auto const other = advantages(moved, {.baseline = baseline});
    for (std::size_t k = 0; k < 5; ++k) {
      double sum = 0;
      for (std::size_t i = 8 * k; i < 8 * k + 8; ++i) {
        sum += one[i];
        CHECK(relative_error(one[i], other[i], 1.0) <= 1e-13);
      }
      CHECK(std::abs(sum) <= 1e-14);
    }
  }
}

TEST_CASE("group_advantages: reinforce_plus_plus is whitened over the batch") {
  random_stream stream(3);
  std::vector<double> rewards;
  for (int i = 0; i < 400; ++i) rewards.push_back(10 * stream.normal());
  auto const a = advantages(rewards, {.baseline = group_baseline::reinforce_plus_plus});
  double squares = 0;
  for (double const x : a) squares += x * x;
  CHECK(squares / 399 == doctest::Approx(1.0).epsilon(1e-9));
}

TEST_CASE("group_advantages: a group of equal rewards gets exact zeros and is counted") {
  // 0.1 three times: the mean by addition is not 0.1
  std::vector<double> const rewards{0.1, 0.1, 0.1, 1, 2, 4, 0.7, 0.7, 0.7};
  for (group_baseline const baseline : baselines) {
    std::size_t equal = 0;
    auto const a = advantages(rewards, {.baseline = baseline, .num_generations = 3}, &equal);
    CHECK(equal == 2);
    for (std::size_t const i : {0u, 1u, 2u, 6u, 7u, 8u}) CHECK(a[i] == 0.0);
    CHECK(a[3] != 0.0);
    auto const none = advantages({0.1, 0.1, 0.1}, {.baseline = baseline, .num_generations = 3}, &equal);
    CHECK(equal == 1);
    CHECK(none == std::vector<double>(3, 0.0));
  }
}

TEST_CASE("group_advantages: groups do not see each other, but for the whitening; order within one is free") {
  std::vector<double> const rewards{1, 2, 6, 0, 0, 3}, first{1, 2, 6}, turned{6, 1, 2};
  for (group_baseline const baseline : {group_baseline::rloo, group_baseline::grpo, group_baseline::dr_grpo}) {
    group_advantages_options const o{.baseline = baseline, .num_generations = 3};
    auto const all = advantages(rewards, o), alone = advantages(first, o), other = advantages(turned, o);
    CHECK(std::equal(alone.begin(), alone.end(), all.begin()));
    CHECK(other[0] == doctest::Approx(alone[2]).epsilon(1e-14));
    CHECK(other[1] == doctest::Approx(alone[0]).epsilon(1e-14));
  }
}

TEST_CASE("group_advantages: finite for finite rewards; over its own input; allocates nothing") {
  double const most = (std::numeric_limits<double>::max)();
  for (group_baseline const baseline : baselines) {
    group_advantages_options const o{.baseline = baseline, .num_generations = 2};
    for (std::vector<double> const& rewards :
         {std::vector{most, -most, most, most}, {1e200, -1e200, 0.0, 1.0}, {most, 0.9 * most, -most, 0.0}})
      for (double const a : advantages(rewards, o)) CHECK(std::isfinite(a));
    std::vector<double> rewards{1, 5, 2, 2};
    auto const expected = advantages(rewards, o);
    std::size_t const before = allocations();
    group_advantages(rewards, rewards, o);
    CHECK(allocations() == before);
    CHECK(rewards == expected);
  }
}

TEST_CASE(
    "group_advantages: a group of one, half a group, no group and rewards that are not finite are refused by name") {
  for (std::size_t const size : {0u, 1u})
    CHECK(message_of({1, 2}, {.num_generations = size}) ==
          "expected group_advantages_options.num_generations >= 2, a response to compare with, got " +
              std::to_string(size));
  CHECK(message_of({1, 2, 3}, {.num_generations = 2}) ==
        "expected group_advantages: rewards of whole groups of num_generations sequences, one group at least, got 3");
  CHECK(message_of({}, {.num_generations = 2}) ==
        "expected group_advantages: rewards of whole groups of num_generations sequences, one group at least, got 0");
  CHECK(message_of({1, 2}, {.num_generations = 2}, 3) ==
        "expected group_advantages: advantages.size() == rewards.size(), got 3");
  CHECK(message_of({1, 2, 3, std::nan("")}, {.num_generations = 2}) ==
        "expected group_advantages: rewards[3] finite, got nan");
  CHECK(message_of({1, inf}, {.num_generations = 2}) == "expected group_advantages: rewards[1] finite, got inf");
  for (double const x : {0.0, -1e-4, std::nan(""), inf})
    CHECK(message_of({1, 2}, {.num_generations = 2, .std_epsilon = x})
              .starts_with("expected group_advantages_options.std_epsilon > 0 and finite, got "));
}
