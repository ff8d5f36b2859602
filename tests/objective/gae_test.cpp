// SPDX-License-Identifier: MIT
#include <attune/objective/gae.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"

using namespace attune;
using testing::relative_error;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

template <class T>
struct batch {
  std::vector<token_id> tokens;
  std::vector<std::size_t> offsets{0};
  std::vector<std::uint8_t> mask;
  std::vector<T> rewards, values, advantages, returns;

  void push_back(std::vector<std::uint8_t> const& bits, std::vector<T> const& r, std::vector<T> const& v) {
    mask.insert(mask.end(), bits.begin(), bits.end());
    rewards.insert(rewards.end(), r.begin(), r.end());
    values.insert(values.end(), v.begin(), v.end());
    tokens.resize(mask.size());
    advantages.resize(mask.size(), T(7));
    returns.resize(mask.size(), T(7));
    offsets.push_back(mask.size());
  }
  // A copy of one sequence of another batch.
  void push_back(batch const& from, std::size_t b) {
    auto const part = [&](auto const& all) {
      return typename std::decay_t<decltype(all)>(all.begin() + static_cast<std::ptrdiff_t>(from.offsets[b]),
                                                  all.begin() + static_cast<std::ptrdiff_t>(from.offsets[b + 1]));
    };
    push_back(part(from.mask), part(from.rewards), part(from.values));
  }
  std::size_t size() const { return offsets.size() - 1; }
  sequences_view view() const { return {tokens, offsets, mask}; }
  void run(gae_options o = {}) {
    gae<T>({.rewards = rewards, .values = values}, view(), {.advantages = advantages, .returns = returns}, o);
  }
};

// Sequences of every kind: whole completions after a prompt, gaps, tails, none masked in, none at all. Masked-out
// places hold NaN and infinities.
template <class T>
batch<T> random_batch(std::uint64_t seed, std::size_t sequences = 23) {
  random_stream stream(seed);
  batch<T> out;
  for (std::size_t b = 0; b < sequences; ++b) {
    std::size_t const length = stream.below(b % 3 == 0 ? 4 : 40);
    std::size_t const prompt = 1 + stream.below(5), kind = stream.below(4);
    std::vector<std::uint8_t> bits;
    std::vector<T> r, v;
    for (std::size_t i = 0; i < length; ++i) {
      bool const in = i >= prompt && (kind != 0 || stream.uniform() < 0.6) && !(kind == 1 && i + 2 > length) &&
                      !(kind == 2 && b % 5 == 0);
      bits.push_back(in ? 1 : 0);
      r.push_back(in ? static_cast<T>(stream.normal()) : static_cast<T>(i % 2 == 0 ? missing : -inf));
      v.push_back(in ? static_cast<T>(stream.normal()) : static_cast<T>(i % 2 == 0 ? inf : missing));
    }
    out.push_back(bits, r, v);
  }
  return out;
}

template <class T>
std::string message_of(batch<T> b, gae_options o = {}) {
  auto const before = b;
  try {
    b.run(o);
  } catch (contract_violation const& e) {
    CHECK(b.advantages == before.advantages);  // nothing half-written
    CHECK(b.returns == before.returns);
    return e.what();
  }
  return "no error";
}

// Eq. 16 as it stands: A_t = sum over l of (gamma lam)^l delta_{t+l}, in long double.
std::vector<double> by_definition(batch<double> const& in, gae_options o) {
  std::vector<double> out(in.mask.size(), 0.0);
  for (std::size_t b = 0; b < in.size(); ++b) {
    std::vector<std::size_t> at;
    for (std::size_t t = in.offsets[b]; t < in.offsets[b + 1]; ++t)
      if (in.mask[t] != 0) at.push_back(t);
    for (std::size_t i = 0; i < at.size(); ++i) {
      long double sum = 0, weight = 1;
      for (std::size_t l = i; l < at.size(); ++l) {
        long double const next = l + 1 < at.size() ? static_cast<long double>(in.values[at[l + 1]]) : 0.0L;
        sum += weight * (static_cast<long double>(in.rewards[at[l]]) + static_cast<long double>(o.gamma) * next -
                         static_cast<long double>(in.values[at[l]]));
        weight *= static_cast<long double>(o.gamma) * static_cast<long double>(o.lam);
      }
      out[at[i]] = static_cast<double>(sum);
    }
  }
  return out;
}

}  // namespace

TEST_CASE("gae: a case worked by hand") {
  batch<double> b;
  b.push_back({0, 1, 1, 1}, {missing, 1, 0, 2}, {missing, 3, 1, 4});
  b.run({.gamma = 0.5, .lam = 0.5});
  // deltas: 1 + 0.5 - 3 = -1.5; 0 + 2 - 1 = 1; 2 - 4 = -2. A: -2; 1 - 0.5 = 0.5; -1.5 + 0.125 = -1.375.
  CHECK(b.advantages == std::vector<double>{0, -1.375, 0.5, -2});
  CHECK(b.returns == std::vector<double>{0, 1.625, 1.5, 2});
}

TEST_CASE("gae: agrees with the sum of eq. 16, term by term, to 1e-12") {
  for (gae_options const o : {gae_options{1, 0.95}, {1, 1}, {0.99, 0.9}, {0.9, 0}, {0, 0.5}, {0.5, 0.5}})
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      auto b = random_batch<double>(seed);
      b.run(o);
      auto const expected = by_definition(b, o);
      for (std::size_t t = 0; t < expected.size(); ++t) {
        CHECK(relative_error(b.advantages[t], expected[t], 1.0) <= 1e-12);
        CHECK(relative_error(b.returns[t], b.mask[t] != 0 ? expected[t] + b.values[t] : 0.0, 1.0) <= 1e-12);
      }
    }
}

TEST_CASE("gae: with gamma = lam = 1 it is reward to go less value, to 1e-12") {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    auto b = random_batch<double>(seed);
    b.run({.gamma = 1, .lam = 1});
    for (std::size_t s = 0; s < b.size(); ++s) {
      double to_go = 0;
      for (std::size_t t = b.offsets[s + 1]; t-- > b.offsets[s];) {
        if (b.mask[t] == 0) continue;
        to_go += b.rewards[t];
        CHECK(relative_error(b.advantages[t], to_go - b.values[t], 1.0) <= 1e-12);
        CHECK(relative_error(b.returns[t], to_go, 1.0) <= 1e-12);
      }
    }
  }
}

TEST_CASE("gae: with lam = 0 it is the one-step TD error, exactly") {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    auto b = random_batch<double>(seed);
    b.run({.gamma = 1, .lam = 0});
    for (std::size_t s = 0; s < b.size(); ++s) {
      double next = 0;
      for (std::size_t t = b.offsets[s + 1]; t-- > b.offsets[s];) {
        if (b.mask[t] == 0) continue;
        CHECK(b.advantages[t] == b.rewards[t] + next - b.values[t]);
        next = b.values[t];
      }
    }
  }
}

TEST_CASE("gae: returns less values are the advantages to one ulp of the largest of the three") {
  auto const check = []<class T>(T) {
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      auto b = random_batch<T>(seed);
      b.run();
      for (std::size_t t = 0; t < b.mask.size(); ++t) {
        if (b.mask[t] == 0) continue;
        T const largest = std::max({std::abs(b.returns[t]), std::abs(b.values[t]), std::abs(b.advantages[t])});
        T const ulp = std::nextafter(largest, std::numeric_limits<T>::infinity()) - largest;
        CHECK(std::abs(b.returns[t] - b.values[t] - b.advantages[t]) <= ulp);
      }
    }
  };
  check(0.0);
  check(0.0f);
}

TEST_CASE("gae: what masked-out tokens hold leaks nowhere, and they get 0") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    auto broken = random_batch<double>(seed), clean = broken;
    for (std::size_t t = 0; t < clean.mask.size(); ++t)
      if (clean.mask[t] == 0) clean.rewards[t] = clean.values[t] = 0.0;
    broken.run();
    clean.run();
    CHECK(broken.advantages == clean.advantages);
    CHECK(broken.returns == clean.returns);
    for (std::size_t t = 0; t < clean.mask.size(); ++t)
      if (clean.mask[t] == 0) CHECK((clean.advantages[t] == 0.0 && clean.returns[t] == 0.0));
  }
}

TEST_CASE("gae: a masked-out token is no time: leaving it out of the batch changes no bit") {
  batch<double> with, without;
  with.push_back({0, 1, 0, 0, 1, 1, 0}, {0, 1, inf, 0, 2, 3, 0}, {0, 4, missing, 0, 5, 6, 0});
  without.push_back({0, 1, 1, 1}, {0, 1, 2, 3}, {0, 4, 5, 6});
  with.run({.gamma = 0.9, .lam = 0.8});
  without.run({.gamma = 0.9, .lam = 0.8});
  for (auto const& [t, u] : {std::pair{1u, 1u}, {4u, 2u}, {5u, 3u}}) {
    CHECK(with.advantages[t] == without.advantages[u]);
    CHECK(with.returns[t] == without.returns[u]);
  }
}

TEST_CASE("gae: a sequence has the same bits alone, among any neighbours and in any order") {
  auto const check = []<class T>(T) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      auto all = random_batch<T>(seed);
      all.run({.gamma = 0.99});
      std::vector<std::size_t> order(all.size());
      std::iota(order.begin(), order.end(), std::size_t{0});
      random_stream stream(seed + 100);
      for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[stream.below(i)]);
      batch<T> shuffled;
      for (std::size_t const b : order) shuffled.push_back(all, b);
      shuffled.run({.gamma = 0.99});
      for (std::size_t i = 0; i < order.size(); ++i) {
        batch<T> alone;
        alone.push_back(all, order[i]);
        alone.run({.gamma = 0.99});
        for (std::size_t t = 0; t < alone.mask.size(); ++t) {
          CHECK(alone.advantages[t] == all.advantages[all.offsets[order[i]] + t]);
          CHECK(alone.returns[t] == all.returns[all.offsets[order[i]] + t]);
          CHECK(alone.advantages[t] == shuffled.advantages[shuffled.offsets[i] + t]);
          CHECK(alone.returns[t] == shuffled.returns[shuffled.offsets[i] + t]);
        }
      }
    }
  };
  check(0.0);
  check(0.0f);
}

TEST_CASE("gae: advantages and returns are TRL's loop in PyTorch") {
  auto const cases = read_golden("gae.txt");
  CHECK(cases.size() >= 15);
  for (golden_case const& c : cases) {
    batch<double> b;
    b.offsets = c.integers<std::size_t>("offsets");
    b.mask = c.integers<std::uint8_t>("mask");
    b.tokens.resize(b.mask.size());
    b.rewards = c["rewards"];
    b.values = c["values"];
    b.advantages.resize(b.mask.size(), 7.0);
    b.returns.resize(b.mask.size(), 7.0);
    b.run({.gamma = c.number("gamma"), .lam = c.number("lam")});
    for (std::size_t t = 0; t < b.mask.size(); ++t) {
      CHECK(relative_error(b.advantages[t], c["advantages"][t], 1e-3) <= 1e-12);
      CHECK(relative_error(b.returns[t], c["returns"][t], 1e-3) <= 1e-12);
    }
  }
}

TEST_CASE("gae: f32 is the double result rounded, however long the sequence") {
  batch<float> single;
  random_stream stream(5);
  std::vector<std::uint8_t> bits(5000, 1);
  bits[0] = 0;
  std::vector<float> r(5000), v(5000);
  for (std::size_t t = 0; t < 5000; ++t) {
    r[t] = static_cast<float>(stream.normal());
    v[t] = static_cast<float>(stream.normal());
  }
  single.push_back(bits, r, v);
  batch<double> exact;
  exact.push_back(bits, {r.begin(), r.end()}, {v.begin(), v.end()});
  single.run({.lam = 1});
  exact.run({.lam = 1});
  for (std::size_t t = 0; t < 5000; ++t) {
    CHECK(single.advantages[t] == static_cast<float>(exact.advantages[t]));
    CHECK(single.returns[t] == static_cast<float>(exact.returns[t]));
  }
}

TEST_CASE("gae: over its own inputs, and allocates nothing") {
  auto apart = random_batch<double>(3), in_place = apart;
  apart.run();
  std::size_t const before = allocations();
  gae<double>({in_place.rewards, in_place.values}, in_place.view(), {in_place.rewards, in_place.values});
  CHECK(allocations() == before);
  CHECK(in_place.rewards == apart.advantages);
  CHECK(in_place.values == apart.returns);
  gae<double>({}, {}, {});  // an empty batch has nothing to do
}

TEST_CASE("gae: what is missing, broken or out of range is refused by name") {
  batch<double> good;
  good.push_back({0, 1}, {missing, 1}, {missing, 1});
  good.push_back({0, 1, 1}, {missing, 1, 2}, {missing, 1, 2});
  auto const with = [&](std::vector<double> batch<double>::*field, std::size_t t, double value) {
    auto b = good;
    (b.*field)[t] = value;
    return message_of(b);
  };
  CHECK(message_of(good) == "no error");
  CHECK(with(&batch<double>::rewards, 4, missing) == "expected gae: rewards[4] finite (sequence 1, token 2), got nan");
  CHECK(with(&batch<double>::values, 1, inf) == "expected gae: values[1] finite (sequence 0, token 1), got inf");
  auto const shortened = [&](std::vector<double> batch<double>::*field) {
    auto b = good;
    (b.*field).pop_back();
    return message_of(b);
  };
  CHECK(shortened(&batch<double>::rewards) == "expected gae: rewards.size() == batch.total_tokens(), got 4");
  CHECK(shortened(&batch<double>::values) == "expected gae: values.size() == batch.total_tokens(), got 4");
  CHECK(shortened(&batch<double>::advantages) == "expected gae: advantages.size() == batch.total_tokens(), got 4");
  CHECK(shortened(&batch<double>::returns) == "expected gae: returns.size() == batch.total_tokens(), got 4");
  for (double const x : {-0.1, 1.1, missing}) {
    CHECK(message_of(good, {.gamma = x}).starts_with("expected gae_options.gamma in [0, 1], got "));
    CHECK(message_of(good, {.lam = x}).starts_with("expected gae_options.lam in [0, 1], got "));
  }
}
