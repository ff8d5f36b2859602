// SPDX-License-Identifier: MIT
#include <attune/train/rollout.hpp>

#include "support/allocations.hpp"
#include "support/small_world.hpp"
#include "support/tampered_policy.hpp"
#include "support/temporary_folder.hpp"

#include <attune/model/decoder.hpp>
#include <attune/model/frozen.hpp>
#include <attune/train/reward_functions.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

using namespace attune;
using test::message_of;
using test::tampered_policy;
using test::token_list;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();
constexpr token_id end = 0;
using places = std::vector<std::size_t>;

auto length_of_response() {
  return per_response([](auto, std::span<token_id const> response) { return static_cast<double>(response.size()); });
}

// One rollout, all borrowed things alive for its length.
template <class P, class R, class M, class D>
rollout collect(P& policy, R const& reference, M& reward, D const& prompts, places const& examples,
                rollout_options options, std::uint64_t first = 0, std::size_t budget = 4096, std::uint64_t seed = 1) {
  rollout_collector collector(policy, reference, reward, std::move(options), budget, seed);
  rollout out;
  collector(prompts, examples, first, out);
  return out;
}

token_list response_of(rollout const& of, std::size_t b) {
  sequences_view const s = of.responses;
  auto const all = s.sequence(b);
  return {all.end() - static_cast<std::ptrdiff_t>(completion_tokens(s.sequence_mask(b))), all.end()};
}

std::vector<double> logps_of(rollout const& of, std::size_t b) {
  sequences_view const s = of.responses;
  return {of.logps.begin() + static_cast<std::ptrdiff_t>(s.offsets[b]),
          of.logps.begin() + static_cast<std::ptrdiff_t>(s.offsets[b + 1])};
}

decoder_options small_decoder() {
  return {.vocabulary = 9, .dim = 16, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 24, .window = 12};
}

}  // namespace

TEST_CASE("rollout: num_generations responses to each prompt in turn, with the numbers of both models") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const reference = test::random_tabular<double>({.vocabulary = 6}, 2);
  auto const prompts = test::random_prompts(5, 6, 3);
  auto reward = length_of_response();
  rollout const of = collect(policy, reference, reward, prompts, {4, 0, 2},
                             {.num_generations = 3, .max_new_tokens = 6, .stop_tokens = {end}});
  sequences_view const s = of.responses;
  REQUIRE(s.size() == 9);
  CHECK(of.prompts == places{4, 4, 4, 0, 0, 0, 2, 2, 2});
  std::vector<double> logps(s.total_tokens()), ref_logps(s.total_tokens());
  policy.log_probs(s, logps);
  reference.log_probs(s, ref_logps);
  CHECK(of.logps == logps);
  CHECK(of.ref_logps == ref_logps);
  std::size_t new_tokens = 0;
  bool some_differ = false;
  for (std::size_t b = 0; b < 9; ++b) {
    token_list const& prompt = prompts.rows[of.prompts[b]];
    CHECK(std::equal(prompt.begin(), prompt.end(), s.sequence(b).begin()));
    token_list const response = response_of(of, b);
    CHECK(response.size() + prompt.size() == s.length(b));
    CHECK(response.size() <= 6);
    CHECK(std::count(response.begin(), response.end() - 1, end) == 0);
    CHECK((of.finished[b] == 1) == (response.back() == end));
    CHECK((of.finished[b] == 1 || response.size() == 6));
    CHECK(of.scores[b] == static_cast<double>(response.size()));
    new_tokens += response.size();
    some_differ = some_differ || response != response_of(of, b / 3 * 3);
  }
  CHECK(of.new_tokens == new_tokens);
  CHECK(some_differ);
  CHECK(of.generation_seconds > 0.0);
  CHECK(of.sampler_log_ratio.weight == 0.0);
}

TEST_CASE_TEMPLATE("rollout: a response hangs on its number in the run, not on its neighbours nor on the cut", T, float,
                   double) {
  decoder<T> policy(small_decoder(), 5);
  frozen const reference{policy};
  auto const prompts = test::random_prompts(5, 9, 3);
  auto reward = length_of_response();
  rollout_options const options{.num_generations = 2, .max_new_tokens = 6, .stop_tokens = {end}};
  rollout const whole = collect(policy, reference, reward, prompts, {4, 0, 2}, options, 10);
  for (std::size_t const budget : {0u, 1u, 13u}) {
    rollout const cut = collect(policy, reference, reward, prompts, {4, 0, 2}, options, 10, budget);
    CHECK(std::ranges::equal(cut.responses.view().tokens, whole.responses.view().tokens));
    CHECK(cut.logps == whole.logps);
    CHECK(cut.ref_logps == whole.ref_logps);
    CHECK(cut.scores == whole.scores);
  }
  rollout const alone = collect(policy, reference, reward, prompts, {0}, options, 12);
  for (std::size_t g = 0; g < 2; ++g) {
    CHECK(response_of(alone, g) == response_of(whole, 2 + g));
    CHECK(logps_of(alone, g) == logps_of(whole, 2 + g));
  }
  rollout const later = collect(policy, reference, reward, prompts, {4, 0, 2}, options, 16);
  CHECK(!std::ranges::equal(later.responses.view().tokens, whole.responses.view().tokens));
  rollout const seeded = collect(policy, reference, reward, prompts, {4, 0, 2}, options, 10, 4096, 2);
  CHECK(!std::ranges::equal(seeded.responses.view().tokens, whole.responses.view().tokens));
}

TEST_CASE("rollout: the sampler shares no random numbers with the order of the data") {
  // Four random bits per response against the first numbers of the streams that shuffle epochs 0, 1, 2, ...: were they
  // the same stream, a uniform policy would draw exactly what they say.
  tabular_policy<double> policy({.vocabulary = 16});
  auto const prompts = test::random_prompts(1, 16, 3);
  auto reward = length_of_response();
  rollout const of = collect(policy, frozen{policy}, reward, prompts, places(32, 0), {.max_new_tokens = 1});
  std::size_t equal = 0;
  for (std::size_t b = 0; b < 32; ++b)
    equal += response_of(of, b)[0] == static_cast<token_id>(16.0 * random_stream(1, b).uniform()) ? 1 : 0;
  CHECK(equal < 8);
}

TEST_CASE("rollout: a missing end costs what the option says, and a stop token in the prompt is no ending") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  test::prompt_list const prompts{{{end}, {3, end}, {2, end, 4, end}}};
  auto reward = length_of_response();
  places const examples{0, 1, 2};
  auto const with = [&](missing_eos without, std::vector<token_id> stops) {
    return collect(policy, reference, reward, prompts, examples,
                   {.num_generations = 8, .max_new_tokens = 3, .stop_tokens = std::move(stops), .without_eos = without,
                    .missing_eos_penalty = 2.5});
  };
  for (std::vector<token_id> const& stops : {std::vector<token_id>{end}, {end, 5}, {5, 4}}) {
    rollout const keep = with(missing_eos::keep, stops), subtract = with(missing_eos::subtract, stops),
                  replace = with(missing_eos::replace, stops);
    std::size_t finished = 0;
    for (std::size_t b = 0; b < 24; ++b) {
      token_list const response = response_of(keep, b);
      double const raw = static_cast<double>(response.size());
      bool const ended = std::count(stops.begin(), stops.end(), response.back()) > 0;
      CHECK(keep.scores[b] == raw);
      CHECK(subtract.scores[b] == (ended ? raw : raw - 2.5));
      CHECK(replace.scores[b] == (ended ? raw : -2.5));
      CHECK((keep.finished[b] == 1) == ended);
      finished += ended ? 1 : 0;
    }
    CHECK(finished > 0);
    CHECK(finished < 24);
  }
}

TEST_CASE("rollout: the overlong penalty grows towards max_new_tokens, on top of what a missing end costs") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  per_response reward([](auto, auto) { return 10.0; });
  places const examples{0, 1, 2};
  test::prompt_list const prompts{{{1}, {2}, {3}}};
  rollout const of = collect(policy, reference, reward, prompts, examples,
                             {.num_generations = 16, .max_new_tokens = 5, .stop_tokens = {end},
                              .without_eos = missing_eos::subtract, .missing_eos_penalty = 2.5, .overlong_buffer = 4,
                              .overlong_factor = 8.0});
  std::vector<std::size_t> lengths(6, 0);
  for (std::size_t b = 0; b < 48; ++b) {
    double const length = static_cast<double>(response_of(of, b).size());
    ++lengths[response_of(of, b).size()];
    CHECK(of.scores[b] == 10.0 - 2.0 * (length - 1.0) - (of.finished[b] == 1 ? 0.0 : 2.5));
  }
  for (std::size_t length = 1; length <= 5; ++length) CHECK(lengths[length] > 0);
  double sum = 0.0;
  for (double const score : of.scores) sum += score;
  CHECK(of.drawn_scores.sum == sum);
  CHECK(of.drawn_scores.weight == 48.0);
}

TEST_CASE("rollout: an end on the last token that there was room for is an ending; one by the window is none") {
  tabular_policy<double> policy({.vocabulary = 3});
  for (token_id v = 0; v < 3; ++v) policy.row(policy.context(token_list{v}))[end] = 60.0;
  auto reward = length_of_response();
  rollout const full = collect(policy, frozen{policy}, reward, test::prompt_list{{{1}}}, {0},
                               {.max_new_tokens = 1, .stop_tokens = {end}});
  CHECK(full.finished[0] == 1);

  decoder<float> windowed(small_decoder(), 5);
  rollout const cut =
      collect(windowed, frozen{windowed}, reward, test::prompt_list{{token_list(10, 1)}}, {0, 0, 0, 0, 0, 0},
              {.max_new_tokens = 50, .stop_tokens = {end}, .without_eos = missing_eos::replace});
  std::size_t at_window = 0;
  for (std::size_t b = 0; b < 6; ++b) {
    CHECK(response_of(cut, b).size() <= 2);
    CHECK((cut.finished[b] == 1) == (response_of(cut, b).back() == end));
    if (cut.finished[b] == 0) CHECK(cut.scores[b] == -1.0);
    at_window += cut.finished[b] == 0 ? 1 : 0;
  }
  CHECK(at_window > 0);
}

TEST_CASE("rollout: with a filter the distance of sampler and policy is reported and not refused") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto reward = length_of_response();
  auto const prompts = test::random_prompts(5, 6, 3);
  for (rollout_options const& options :
       {rollout_options{.max_new_tokens = 4, .top_k = 2}, rollout_options{.max_new_tokens = 4, .top_p = 0.6}}) {
    rollout const of = collect(policy, frozen{policy}, reward, prompts, {0, 1, 2, 3, 4}, options);
    CHECK(of.sampler_log_ratio.weight == static_cast<double>(of.new_tokens));
    // The sampler has renormalised what was left: it is the more certain by -log of the mass kept.
    sequences_view const s = of.responses;
    double expected = 0.0;
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t i = 1; i < s.length(b); ++i) {
        if (s.sequence_mask(b)[i] == 0) continue;
        auto const row = policy.row(policy.context(s.sequence(b).first(i)));
        std::vector<double> p(row.begin(), row.end());
        double all = 0.0, kept = 0.0;
        for (double& x : p) all += x = std::exp(x);
        std::sort(p.rbegin(), p.rend());
        for (std::size_t k = 0; k < p.size() && (options.top_k > 0 ? k < options.top_k : kept < options.top_p * all);
             ++k)
          kept += p[k];
        expected += -std::log(kept / all);
      }
    CHECK(of.sampler_log_ratio.sum == doctest::Approx(expected).epsilon(1e-12));
    CHECK(of.sampler_log_ratio.mean() > 0.1);
  }
}

TEST_CASE("rollout: NaN on masked-out tokens stays out of it") {
  tampered_policy policy(test::random_tabular<double>({.vocabulary = 6}, 1));
  auto reference = policy;
  auto reward = length_of_response();
  auto const prompts = test::random_prompts(5, 6, 3);
  rollout const clean = collect(policy, reference, reward, prompts, {0, 1, 2}, {.max_new_tokens = 4});
  policy.in_log_probs = reference.in_log_probs = test::nan_on_prompts;
  rollout const of = collect(policy, reference, reward, prompts, {0, 1, 2}, {.max_new_tokens = 4});
  CHECK(of.logps == clean.logps);
  CHECK(of.ref_logps == clean.ref_logps);
}

TEST_CASE("rollout: a sampler that draws from another distribution is refused, with the token and both numbers") {
  tampered_policy policy(tabular_policy<double>({.vocabulary = 4}));
  frozen const reference{policy};
  auto reward = length_of_response();
  policy.in_generate = [](sequences&, std::vector<double>& logps) { logps.back() += 1e-6; };
  test::prompt_list const prompts{{{1}, {2, 3}}};
  auto const run = [&](rollout_options options) {
    return message_of<contract_violation>([&] { collect(policy, reference, reward, prompts, {1, 0, 1}, options); });
  };
  CHECK(run({.max_new_tokens = 2}) ==
        "rollout: the sampler drew token 3 of response 2 (prompt 1) with log-probability -1.386293, the policy's "
        "log_probs "
        "says -1.386294: they have to be one distribution");
  policy.in_generate = [](sequences&, std::vector<double>& logps) { logps.back() = missing; };
  CHECK(run({.max_new_tokens = 2}).find("with log-probability nan") != std::string::npos);
  CHECK(run({.max_new_tokens = 2, .top_k = 2}).find("with log-probability nan") != std::string::npos);
  policy.in_generate = [](sequences&, std::vector<double>& logps) { logps.pop_back(); };
  CHECK(run({.max_new_tokens = 2}).find("a log-probability for every token from the policy's generate, got 10") !=
        std::string::npos);
  policy.in_generate = [](sequences&, std::vector<double>& logps) { logps.back() += 1e-15; };
  CHECK(run({.max_new_tokens = 2}) == "nothing thrown");
}

TEST_CASE("rollout: responses that are none, or too few, are refused") {
  tampered_policy policy(tabular_policy<double>({.vocabulary = 4}));
  frozen const reference{policy};
  auto reward = length_of_response();
  test::prompt_list const prompts{{{1}, {2, 3}}};
  auto const run = [&] {
    return message_of<contract_violation>([&] {
      collect(policy, reference, reward, prompts, {0, 1, 0}, {.max_new_tokens = 2});
    });
  };
  policy.in_generate = [](sequences& out, std::vector<double>& logps) {
    logps = {0.0, -std::log(4.0), 0.0, 0.0, 0.0, -std::log(4.0)};
    out.clear();
    out.push_back(token_list{1}, token_list{2});
    out.push_back(token_list{2, 3}, token_list{});
    out.push_back(token_list{1}, token_list{3});
  };
  CHECK(run() == "rollout: no token in response 1 (prompt 1)");
  policy.in_generate = [](sequences& out, std::vector<double>& logps) {
    logps = {0.0, -std::log(4.0)};
    out.clear();
    out.push_back(token_list{1}, token_list{2});
  };
  CHECK(run() == "expected rollout: as many responses as prompts from the policy's generate, got 1");
}

TEST_CASE("rollout: numbers that are not finite are refused by response and prompt, and say whose they are") {
  tampered_policy policy(tabular_policy<double>({.vocabulary = 4}));
  tampered_policy reference = policy;
  test::prompt_list const prompts{{{1}, {2, 3}}};
  auto const run = [&](auto& reward) {
    return message_of<nonfinite_error>([&] {
      collect(policy, reference, reward, prompts, {0, 1, 0}, {.max_new_tokens = 2});
    });
  };
  auto reward = length_of_response();
  auto const spoil = [](sequences_view s, std::span<double> logps) {
    for (std::size_t b = 0; b < s.size(); ++b)
      if (s.sequence(b)[0] == 2) logps[s.offsets[b + 1] - 1] = missing;
  };
  policy.in_log_probs = spoil;
  CHECK(run(reward) == "rollout: the policy's log-probabilities are not finite in response 1 (prompt 1)");
  policy.in_log_probs = {};
  reference.in_log_probs = spoil;
  CHECK(run(reward) == "rollout: the reference's log-probabilities are not finite in response 1 (prompt 1)");
  reference.in_log_probs = {};
  per_response broken([](std::span<token_id const> prompt, auto) {
    return prompt.size() == 2 ? -std::numeric_limits<double>::infinity() : 0.0;
  });
  CHECK(run(broken) == "rollout: the reward is not finite for response 1 (prompt 1)");
  CHECK(run(reward) == "nothing thrown");
}

TEST_CASE("rollout: a prompt that the policy refuses is named as the dataset names it") {
  decoder<float> policy(small_decoder(), 5);
  frozen const reference{policy};
  auto reward = length_of_response();
  auto const run = [&](test::prompt_list const& prompts) {
    return message_of<contract_violation>([&] {
      collect(policy, reference, reward, prompts, {2, 1, 0, 3}, {.num_generations = 2});
    });
  };
  CHECK(run({{{1}, token_list(12, 4), {2}, {3}}}) ==
        "generate: prompt 2 of 12 tokens fills the window of 12; in the dataset it is prompt 1");
  CHECK(run({{{1}, {2, 9}, {2}, {3}}}) ==
        "sequence 2, token 1: expected a token id inside the vocabulary, got 9; in the dataset it is prompt 1");
  CHECK(run({{{1}, {}, {2}, {3}}}) == "rollout: prompt 1 has no token");
}

TEST_CASE("rollout: policy and reference answer at one temperature, whenever it was set") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  policy.set_temperature(0.5);
  frozen const reference{policy};
  auto reward = length_of_response();
  auto const prompts = test::random_prompts(5, 6, 3);
  rollout_collector collector(policy, reference, reward, {.max_new_tokens = 4}, 100, 1);
  rollout out;
  collector(prompts, places{0, 1}, 0, out);
  CHECK(out.logps == out.ref_logps);
  policy.set_temperature(0.7);
  CHECK(message_of<contract_violation>([&] { collector(prompts, places{0, 1}, 0, out); }) ==
        "expected rollout: policy and reference at one temperature; the reference has, got 0.5");
}

TEST_CASE("rollout: what the reward model throws passes through as it is") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto offline = [](sequences_view, std::span<double>) { throw std::runtime_error("the reward server is down"); };
  CHECK(message_of<std::runtime_error>([&] {
          collect(policy, frozen{policy}, offline, test::random_prompts(5, 6, 3), {0}, {});
        }) == "the reward server is down");
}

TEST_CASE("rollout: one filled again allocates nothing, but for a policy's and a reward model's own") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  frozen const reference{policy};
  auto reward = length_of_response();
  auto const prompts = test::random_prompts(9, 6, 3);
  places const examples{0, 1, 2, 3, 4, 5, 6, 7, 8};
  rollout_collector collector(policy, reference, reward, {.num_generations = 2, .max_new_tokens = 5}, 30, 1);
  rollout out;
  for (std::uint64_t i = 0; i < 4; ++i) collector(prompts, examples, 18 * i, out);
  std::size_t const before = allocations();
  for (std::uint64_t i = 4; i < 8; ++i) collector(prompts, examples, 18 * i, out);
  CHECK(allocations() == before);
}
