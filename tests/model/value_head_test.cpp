// SPDX-License-Identifier: MIT
#include <attune/model/value_head.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <memory>
#include <vector>

#include <attune/io/model_file.hpp>
#include <attune/testing/value_model_laws.hpp>

#include "../support/allocations.hpp"
#include "../support/plain_decoder.hpp"
#include "../support/random_sequences.hpp"
#include "../support/temporary_folder.hpp"

using namespace attune;

static_assert(ValueModel<value_head<float>> && ValueModel<value_head<double>>);
static_assert(!ActorCritic<value_head<float>>, "a critic alone has no opinion about tokens");

namespace {

decoder_options const options{.vocabulary = 11, .dim = 8, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 12, .window = 90};

template <class T>
value_head<T> random_critic(std::uint64_t seed, std::shared_ptr<thread_pool> pool = nullptr) {
  value_head<T> critic(options, seed, std::move(pool));
  random_stream random(seed, 99);
  for (T& w : critic.parameters().back().value) w = static_cast<T>(random.normal());
  return critic;
}

template <class T>
std::vector<T> values_of(value_head<T> const& critic, sequences_view s) {
  std::vector<T> out(s.total_tokens(), T(9));
  critic.values(s, out);
  return out;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class N>
std::vector<N> plain_values(test::plain_decoder<N> const& plain, sequences_view s) {
  std::vector<N> out(s.total_tokens(), N(0));
  for (std::size_t b = 0; b < s.size(); ++b) {
    auto const rows = plain.hidden(s.sequence(b));
    for (std::size_t i = 1; i < s.length(b); ++i)
      if (s.sequence_mask(b)[i] != 0) out[s.offsets[b] + i] = plain.product("value.weight", rows[i - 1])[0];
  }
  return out;
}

}  // namespace

TEST_CASE("value head: values and every parameter's gradient are those of a plain pass and the complex step") {
  sequences const owned = test::random_sequences({6, 3, 68, 12, 1}, 11, 8);
  sequences_view const s = owned;
  value_head<double> critic = random_critic<double>(5);
  random_stream random(6);
  std::vector<double> slopes(s.total_tokens()), values(s.total_tokens());
  for (double& slope : slopes) slope = random.normal();  // those outside the mask are ignored
  critic.accumulate_value_gradient(s, [&](std::span<double const> seen, std::span<double> out) {
    std::copy(seen.begin(), seen.end(), values.begin());
    std::copy(slopes.begin(), slopes.end(), out.begin());
  });
  CHECK(same_bits(values, values_of(critic, s)));
  using complex = std::complex<double>;
  test::plain_decoder<complex> plain(options, critic.parameters());
  std::vector<complex> const expected_values = plain_values(plain, s);
  for (std::size_t t = 0; t < values.size(); ++t)
    CHECK(values[t] == doctest::Approx(expected_values[t].real()).epsilon(1e-12));
  double worst = 0.0, largest = 0.0;
  for (auto const& p : critic.parameters())
    for (double const g : p.gradient) largest = std::max(largest, std::abs(g));
  for (auto const& p : critic.parameters())
    for (std::size_t j = 0; j < p.value.size(); ++j) {
      complex& weight = plain.weights.at(std::string(p.name))[j];
      weight += complex(0.0, 1e-30);
      std::vector<complex> const moved = plain_values(plain, s);
      weight = weight.real();
      double expected = 0.0;
      for (std::size_t t = 0; t < s.total_tokens(); ++t)
        if (s.mask[t] != 0) expected += slopes[t] * moved[t].imag() * 1e30;
      worst = std::max(worst, std::abs(p.gradient[j] - expected) / std::max(std::abs(expected), 1e-3 * largest));
    }
  MESSAGE("worst relative error ", worst);
  CHECK(worst < 1e-10);
}

TEST_CASE_TEMPLATE("value head: it keeps the laws of a value model", T, float, double) {
  value_head<T> critic = random_critic<T>(3);
  testing::expect_laws(testing::check_value_model_laws(critic, 11));
}

TEST_CASE("value head: made from a language model it has its trunk and says 0 everywhere; both are deep copies") {
  for (bool const tied : {true, false}) {
    decoder_options own = options;
    own.tied = tied;
    decoder<double> language(own, 3);
    value_head<double> critic(language);
    sequences const s = test::random_sequences({6, 3}, 11, 8);
    for (double const v : values_of(critic, s)) CHECK(v == 0.0);
    for (auto const& p : critic.parameters()) {
      if (p.name == "value.weight") continue;
      auto const& all = language.parameters();
      auto const source = std::ranges::find(all, p.name, &parameter<double>::name);
      REQUIRE(source != all.end());
      CHECK(std::ranges::equal(source->value, p.value));
      CHECK(source->value.data() != p.value.data());
    }
  }
}

TEST_CASE("value head: made from a reward model, the value before a token is the score of the text before it") {
  scalar_head<double> reward(options, 4);
  value_head<double> critic(reward);
  sequences const owned = test::random_sequences({6, 12, 3}, 11, 8);
  sequences_view const s = owned;
  std::vector<double> const values = values_of(critic, s);
  for (std::size_t b = 0; b < s.size(); ++b)
    for (std::size_t i = 1; i < s.length(b); ++i) {
      if (s.sequence_mask(b)[i] == 0) continue;
      sequences before;
      before.push_back(s.sequence(b).first(i), {});
      double score = 0.0;
      reward.scores(before, {&score, 1});
      CHECK(values[s.offsets[b] + i] == doctest::Approx(score).epsilon(1e-12));
    }
  for (auto const& p : reward.parameters())
    for (double& v : p.value) v += 0.1;
  CHECK(same_bits(values, values_of(critic, s)));
}

TEST_CASE("value head: a copy is deep and equal") {
  value_head<float> critic = random_critic<float>(14);
  value_head<float> const copy = critic;
  sequences const s = test::random_sequences({12, 7}, 11, 6);
  std::vector<float> const before = values_of(critic, s);
  CHECK(same_bits(before, values_of(copy, s)));
  for (auto const& p : critic.parameters())
    for (float& v : p.value) v += 0.1f;
  CHECK(same_bits(before, values_of(copy, s)));
  CHECK_FALSE(same_bits(before, values_of(critic, s)));
}

TEST_CASE("value head: values and gradients are the same bits for 1, 2 and 3 threads and among any neighbours") {
  sequences const s = test::random_sequences({60, 3, 80, 41, 7, 33}, 11, 4);
  std::vector<float> first;
  for (std::size_t const threads : {1u, 2u, 3u}) {
    value_head<float> critic = random_critic<float>(12, std::make_shared<thread_pool>(threads));
    critic.accumulate_value_gradient(s, [](auto, std::span<float> slopes) { std::ranges::fill(slopes, 0.1f); });
    std::vector<float> all = values_of(critic, s);
    sequences alone;
    alone.push_back_masked(s.view().sequence(2), s.view().sequence_mask(2));
    std::vector<float> const part(all.begin() + 63, all.begin() + 143);
    CHECK(same_bits(part, values_of(critic, alone)));
    for (auto const& p : critic.parameters()) all.insert(all.end(), p.gradient.begin(), p.gradient.end());
    if (threads == 1) first = all;
    CHECK(same_bits(all, first));
  }
}

TEST_CASE("value head: a training step and a reading of values allocate nothing once buffers have grown") {
  value_head<float> critic = random_critic<float>(12, std::make_shared<thread_pool>(2));
  sequences const s = test::random_sequences({60, 3, 33}, 11, 4), smaller = test::random_sequences({20}, 11, 4);
  std::vector<float> out(s.total_tokens());
  auto const step = [&] {
    for (sequences const* const batch : {&s, &smaller}) {
      critic.accumulate_value_gradient(*batch, [](auto, std::span<float> slopes) { std::ranges::fill(slopes, 0.1f); });
      critic.values(*batch, std::span(out).first(batch->total_tokens()));
    }
  };
  step();
  std::size_t const before = allocations();
  step();
  CHECK(allocations() == before);
}

TEST_CASE("value head: a model file gives back the same values") {
  test::temporary_folder const folder;
  value_head<float> critic = random_critic<float>(12);
  save_parameters(folder / "critic", critic.parameters(), to_metadata(critic.options()));
  value_head<float> loaded(decoder_options_from(read_metadata(folder / "critic")));
  load_parameters(folder / "critic", loaded.parameters());
  sequences const s = test::random_sequences({60, 3, 33}, 11, 4);
  CHECK(same_bits(values_of(critic, s), values_of(loaded, s)));
}

TEST_CASE("value head: sizes that disagree, masked-in first tokens and long sequences are refused; no sequences are no work") {
  value_head<float> critic(options);
  std::vector<float> out(91);
  sequences const s = test::random_sequences({12}, 11, 6), too_long = test::random_sequences({91}, 11, 1), none;
  CHECK_THROWS_WITH_AS(critic.values(s, out), "expected value_head::values: out.size() == total_tokens(), got 91",
                       contract_violation);
  CHECK_THROWS_AS(critic.values(too_long, out), contract_violation);
  sequences first_masked;
  first_masked.push_back_masked(std::vector<token_id>{1, 2}, std::vector<std::uint8_t>{1, 1});
  CHECK_THROWS_AS(critic.accumulate_value_gradient(first_masked, [](auto, auto) {}), contract_violation);
  critic.values(none, {});
  critic.accumulate_value_gradient(none, [](auto, auto) {});
}
