// SPDX-License-Identifier: MIT
#include <attune/core/sequences.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "support/allocations.hpp"

using namespace attune;

namespace {

std::vector<token_id> const prompt{5, 6}, reply{7, 8, 9};

struct parts {
  std::vector<token_id> tokens{5, 6, 7, 5, 8};
  std::vector<std::size_t> offsets{0, 3, 5};
  std::vector<std::uint8_t> mask{0, 0, 1, 0, 1};

  std::string refusal(std::size_t vocabulary = 10) const {
    try {
      validate(sequences_view{tokens, offsets, mask}, vocabulary);
    } catch (contract_violation const& e) {
      return e.what();
    }
    return "no error";
  }
};

}  // namespace

TEST_CASE("sequences: prompt and completion lie end to end, the completion masked in") {
  sequences s;
  s.push_back(prompt, reply);
  s.push_back(prompt, {});
  s.push_back(std::span(prompt).first(1), std::span(reply).first(1));
  auto const v = s.view();
  CHECK(v.size() == 3);
  CHECK(v.total_tokens() == 9);
  CHECK(std::vector(v.tokens.begin(), v.tokens.end()) == std::vector<token_id>{5, 6, 7, 8, 9, 5, 6, 5, 7});
  CHECK(std::vector(v.offsets.begin(), v.offsets.end()) == std::vector<std::size_t>{0, 5, 7, 9});
  CHECK(std::vector(v.mask.begin(), v.mask.end()) == std::vector<std::uint8_t>{0, 0, 1, 1, 1, 0, 0, 0, 1});
  CHECK(v.length(0) == 5);
  CHECK(v.sequence(2).size() == 2);
  CHECK(v.sequence(2)[1] == 7);
  CHECK(completion_tokens(v.mask) == 4);
  CHECK(completion_tokens(v.sequence_mask(1)) == 0);
  CHECK_NOTHROW(validate(v, 10));
}

TEST_CASE("sequences: a mask is made from lengths, so a completion may hold any id, the prompt's own too") {
  sequences s;
  s.push_back(prompt, prompt);
  CHECK(completion_tokens(s.view().mask) == 2);
}

TEST_CASE("sequences: push_back_masked keeps the caller's mask") {
  sequences s;
  std::vector<std::uint8_t> const mask{0, 1, 0};
  s.push_back_masked(reply, mask);
  CHECK(s.view().mask[1] == 1);
  CHECK(completion_tokens(s.view().mask) == 1);
  CHECK_THROWS_WITH_AS(s.push_back_masked(prompt, mask),
                       "expected sequences::push_back_masked: mask.size() == tokens.size(), got 3", contract_violation);
}

TEST_CASE("sequences: a completion needs something before it") {
  sequences s;
  CHECK_THROWS_AS(s.push_back({}, reply), contract_violation);
  CHECK(s.size() == 0);
  CHECK_NOTHROW(s.push_back({}, {}));
}

TEST_CASE("sequences: clear keeps the memory, so a reused buffer stops allocating") {
  sequences s;
  auto const fill = [&] {
    s.clear();
    for (int i = 0; i < 10; ++i) s.push_back(prompt, reply);
  };
  fill();
  std::size_t const before = allocations();
  fill();
  CHECK(allocations() == before);
  CHECK(s.size() == 10);
  CHECK(s.total_tokens() == 50);
}

TEST_CASE("sequences: none is none, whether made or default") {
  CHECK(sequences_view().size() == 0);
  CHECK(sequences().size() == 0);
  CHECK_NOTHROW(validate(sequences_view(), 0));
  CHECK_NOTHROW(validate(sequences(), 0));
}

TEST_CASE("validate(sequences_view): every broken promise is refused with its sequence and token") {
  CHECK(parts().refusal() == "no error");
  parts p;
  p.mask.pop_back();
  CHECK(p.refusal() == "expected sequences_view: mask.size() == tokens.size(), got 4");
  p = {};
  p.offsets = {0, 3, 4};
  CHECK(p.refusal() == "expected sequences_view: offsets run from 0 to tokens.size()");
  p.offsets = {1, 3, 5};
  CHECK(p.refusal() == "expected sequences_view: offsets run from 0 to tokens.size()");
  p.offsets = {};
  CHECK(p.refusal() == "expected sequences_view: offsets run from 0 to tokens.size()");
  p.offsets = {0, 4, 3, 5};
  CHECK(p.refusal() == "sequence 1, token 0: expected offsets in order, got 3");
  p.offsets = {0, 99, 5};
  CHECK(p.refusal() == "sequence 0, token 0: expected offsets in order, got 99");
  p = {};
  p.tokens[4] = 10;
  CHECK(p.refusal() == "sequence 1, token 1: expected a token id inside the vocabulary, got 10");
  CHECK(p.refusal(11) == "no error");
  p.tokens[4] = -1;
  CHECK(p.refusal() == "sequence 1, token 1: expected a token id inside the vocabulary, got -1");
  p = {};
  p.mask[2] = 2;
  CHECK(p.refusal() == "sequence 0, token 2: expected a mask of 0 or 1, got 2");
  p = {};
  p.mask[3] = 1;
  CHECK(p.refusal() == "sequence 1, token 0: expected mask 0 on the first token, which nothing precedes, got 1");
}
