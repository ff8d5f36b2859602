// SPDX-License-Identifier: MIT
#include <attune/train/dynamic_sampling.hpp>

#include "support/small_world.hpp"
#include "support/temporary_folder.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace attune;
using test::message_of;
using test::token_list;

namespace {

// What a collector was asked for; responses are made of the prompt's place and the response's number, and a group is
// useful if its prompt is at least `useful_from`.
struct recorder {
  struct call {
    std::vector<std::size_t> examples;
    std::uint64_t first_response;
  };
  std::size_t num_generations = 2;
  std::size_t useful_from = 0;
  std::vector<call> calls = {};

  template <class D>
  void operator()(D const&, std::span<std::size_t const> examples, std::uint64_t first_response, rollout& out) {
    calls.push_back({{examples.begin(), examples.end()}, first_response});
    out = {};
    for (std::size_t const example : examples)
      for (std::size_t g = 0; g < num_generations; ++g) {
        auto const id = static_cast<token_id>(example);
        out.responses.push_back(token_list{id}, token_list(1 + g, static_cast<token_id>(g)));
        out.prompts.push_back(example);
        out.finished.push_back(static_cast<std::uint8_t>(g % 2));
        out.scores.push_back(example >= useful_from ? static_cast<double>(g) : 0.5);
        out.drawn_scores.add(out.scores.back());
        for (std::size_t k = 0; k < 2 + g; ++k) {
          out.logps.push_back(static_cast<double>(example) + 0.1 * static_cast<double>(k));
          out.ref_logps.push_back(-out.logps.back());
        }
        out.new_tokens += 1 + g;
      }
    out.sampler_log_ratio.add(0.25);
    out.generation_seconds = 0.5;
  }
};

test::prompt_list prompts(std::size_t count) {
  test::prompt_list out;
  for (std::size_t i = 0; i < count; ++i) out.rows.push_back({static_cast<token_id>(i)});
  return out;
}

}  // namespace

TEST_CASE("dynamic sampling: useful groups stay whole and in order, with everything that belongs to them") {
  recorder collect{.num_generations = 3, .useful_from = 4};
  rollout drawn, kept;
  std::vector<std::size_t> const examples{5, 1, 4, 2};
  collect(prompts(6), examples, 0, drawn);
  keep_unequal_groups(drawn, 3, kept);
  CHECK(kept.prompts == std::vector<std::size_t>{5, 5, 5, 4, 4, 4});
  CHECK(kept.scores == std::vector<double>{0, 1, 2, 0, 1, 2});
  CHECK(kept.finished == std::vector<std::uint8_t>{0, 1, 0, 0, 1, 0});
  CHECK(kept.dropped_groups == 2);
  CHECK(kept.responses.size() == 6);
  sequences_view const s = kept.responses;
  REQUIRE(kept.logps.size() == s.total_tokens());
  for (std::size_t b = 0; b < 6; ++b) {
    CHECK(s.length(b) == 2 + b % 3);
    CHECK(s.sequence(b)[0] == (b < 3 ? 5 : 4));
    CHECK(completion_tokens(s.sequence_mask(b)) == 1 + b % 3);
    CHECK(kept.logps[s.offsets[b] + 1] == (b < 3 ? 5.1 : 4.1));
    CHECK(kept.ref_logps[s.offsets[b] + 1] == (b < 3 ? -5.1 : -4.1));
  }
  CHECK(kept.new_tokens == 24);  // all that was drawn
  CHECK(kept.drawn_scores.weight == 12.0);
  CHECK(kept.drawn_scores.sum == 9.0);
  CHECK(kept.sampler_log_ratio.weight == 1.0);
  CHECK(message_of<contract_violation>([&] { keep_unequal_groups(drawn, 5, kept); }) ==
        "expected keep_unequal_groups: whole groups of num_generations, got 12");
}

TEST_CASE("dynamic sampling: off, it is the collector alone") {
  recorder collect{.useful_from = 100};
  dynamic_sampling sample(0, 2, 7);
  rollout out;
  std::vector<std::size_t> const examples{3, 1};
  sample(collect, prompts(6), examples, 5, 40, out);
  REQUIRE(collect.calls.size() == 1);
  CHECK(collect.calls[0].examples == examples);
  CHECK(collect.calls[0].first_response == 40);
  CHECK(out.responses.size() == 4);
  CHECK(out.dropped_groups == 0);
}

TEST_CASE("dynamic sampling: it asks for as many prompts as groups are missing, and stops when none is or at the limit") {
  auto const data = prompts(20);
  std::vector<std::size_t> const examples{0, 12, 1, 2, 13, 3};
  rollout out;
  recorder collect{.useful_from = 10};
  dynamic_sampling sample(50, 2, 7);
  sample(collect, data, examples, 5, 40, out);
  CHECK(out.responses.size() == 12);
  for (std::size_t const p : out.prompts) CHECK(p >= 10);
  std::size_t missing = 6, asked = 0;
  for (auto const& call : collect.calls) {
    CHECK(call.examples.size() == missing);
    asked += missing;
    for (std::size_t const e : call.examples) missing -= e >= 10 ? 1 : 0;
  }
  CHECK(missing == 0);
  CHECK(collect.calls.size() > 2);
  CHECK(out.dropped_groups == asked - 6);
  CHECK(out.drawn_scores.weight == 2.0 * static_cast<double>(asked));

  recorder nothing{.useful_from = 100};
  dynamic_sampling twice(2, 2, 7);
  twice(nothing, data, examples, 5, 40, out);
  CHECK(nothing.calls.size() == 3);
  CHECK(out.responses.size() == 0);
  CHECK(out.logps.empty());
  CHECK(out.dropped_groups == 18);

  recorder all{};
  sample(all, data, examples, 5, 40, out);
  CHECK(all.calls.size() == 1);
  CHECK(out.responses.size() == 12);
  CHECK(out.dropped_groups == 0);  // of this update alone
}

TEST_CASE("dynamic sampling: streams are functions of seed, update and round, and no two rounds share one") {
  auto const data = prompts(1000);
  std::vector<std::size_t> const examples{0, 1, 2, 3};
  auto const calls_of = [&](std::uint64_t seed, std::uint64_t update, std::size_t useful_from) {
    recorder collect{.useful_from = useful_from};
    rollout out;
    dynamic_sampling sample(6, 2, seed);
    sample(collect, data, examples, update, 8 * update, out);
    return collect.calls;
  };
  auto const never = calls_of(7, 3, 5000), again = calls_of(7, 3, 5000), half = calls_of(7, 3, 500);
  REQUIRE(never.size() == 7);
  for (std::size_t i = 0; i < 7; ++i) CHECK(never[i].examples == again[i].examples);
  for (std::size_t i = 1; i < half.size(); ++i) {  // fewer are missing: the first of the same round
    CHECK(half[i].first_response == never[i].first_response);
    for (std::size_t k = 0; k < half[i].examples.size(); ++k) CHECK(half[i].examples[k] == never[i].examples[k]);
  }
  std::set<std::uint64_t> positions;
  std::set<std::vector<std::size_t>> drawn;
  for (std::uint64_t update = 0; update < 5; ++update)
    for (auto const& call : calls_of(7, update, 5000)) {
      for (std::uint64_t k = 0; k < 8; ++k) CHECK(positions.insert(call.first_response + k).second);
      if (call.examples != examples) CHECK(drawn.insert(call.examples).second);
    }
  CHECK(drawn.size() == 30);
  CHECK(calls_of(8, 3, 5000)[1].examples != never[1].examples);
}
