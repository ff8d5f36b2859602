// SPDX-License-Identifier: MIT
#include <attune/core/fingerprint.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

using namespace attune;

namespace {

struct pair {
  std::vector<token_id> prompt, chosen, rejected;
  double margin = 0.0;
};

struct demo {
  std::vector<token_id> prompt, completion;
};

std::vector<pair> const pairs{{{1, 2}, {3}, {4, 5}, 0.0}, {{6}, {7}, {8}, 0.5}};

}  // namespace

TEST_CASE("fingerprint: equal data give equal fingerprints") {
  std::vector<pair> const copy = pairs;
  CHECK(fingerprint(pairs) == fingerprint(copy));
}

TEST_CASE("fingerprint: every id, boundary, margin, row and their order count") {
  std::uint64_t const original = fingerprint(pairs);
  auto const differs = [&](auto change) {
    std::vector<pair> other = pairs;
    change(other);
    return fingerprint(other) != original;
  };
  CHECK(differs([](auto& p) { p[0].prompt[0] = 9; }));
  CHECK(differs([](auto& p) { p[0].chosen[0] = 9; }));
  CHECK(differs([](auto& p) { p[1].rejected[0] = 9; }));
  CHECK(differs([](auto& p) { p[1].margin = 0.25; }));
  CHECK(differs([](auto& p) { p.pop_back(); }));
  CHECK(differs([](auto& p) { std::swap(p[0], p[1]); }));
  CHECK(differs([](auto& p) {  // the same ids in a row, cut elsewhere
    p[0].prompt = {1};
    p[0].chosen = {2, 3};
  }));
}

TEST_CASE("fingerprint: demonstrations have one too") {
  std::vector<demo> const a{{{1}, {2, 3}}};
  std::vector<demo> const b{{{1, 2}, {3}}};
  CHECK(fingerprint(a) == fingerprint(std::vector<demo>(a)));
  CHECK(fingerprint(a) != fingerprint(b));
}

TEST_CASE("fingerprint: prompts alone have one, which responses would change") {
  struct prompt_row {
    std::vector<token_id> prompt;
  };
  std::vector<prompt_row> const a{{{1, 2}}, {{3}}};
  std::vector<prompt_row> const cut_elsewhere{{{1}}, {{2, 3}}};
  std::vector<demo> const with_responses{{{1, 2}, {}}, {{3}, {}}};
  CHECK(fingerprint(a) == fingerprint(std::vector<prompt_row>(a)));
  CHECK(fingerprint(a) != fingerprint(cut_elsewhere));
  CHECK(fingerprint(a) != fingerprint(with_responses));
}

TEST_CASE("fingerprint: every judgement, weight, step and label counts") {
  struct judged {
    std::vector<token_id> prompt, completion;
    bool desirable = false;
    double weight = 1.0;
  };
  std::vector<judged> const a{{{1}, {2, 3}, true, 1.0}};
  CHECK(fingerprint(a) == fingerprint(std::vector<judged>(a)));
  CHECK(fingerprint(a) != fingerprint(std::vector<judged>{{{1}, {2, 3}, false, 1.0}}));
  CHECK(fingerprint(a) != fingerprint(std::vector<judged>{{{1}, {2, 3}, true, 2.0}}));
  CHECK(fingerprint(a) != fingerprint(std::vector<demo>{{{1}, {2, 3}}}));
  struct stepwise {
    std::vector<token_id> prompt, completion;
    std::vector<std::size_t> step_ends;
    std::vector<std::uint8_t> labels;
  };
  std::vector<stepwise> const b{{{1}, {2, 3, 4}, {1, 3}, {1, 0}}};
  CHECK(fingerprint(b) == fingerprint(std::vector<stepwise>(b)));
  CHECK(fingerprint(b) != fingerprint(std::vector<stepwise>{{{1}, {2, 3, 4}, {2, 3}, {1, 0}}}));
  CHECK(fingerprint(b) != fingerprint(std::vector<stepwise>{{{1}, {2, 3, 4}, {1, 3}, {1, 1}}}));
  CHECK(fingerprint(b) != fingerprint(std::vector<stepwise>{{{1}, {2, 3, 4}, {3}, {1}}}));
}
