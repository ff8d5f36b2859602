// SPDX-License-Identifier: MIT
#include <attune/data/load_options.hpp>

#include <doctest/doctest.h>

#include <string>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;

namespace {
bool fits(std::size_t prompt, std::size_t completion, load_options const& o, std::size_t p, std::size_t c) {
  fitted_lengths const fitted = fit(prompt, completion, o);
  return fitted.prompt == p && fitted.completion == c;
}
}  // namespace

TEST_CASE("fit: what fits is left alone, and without a window everything fits") {
  CHECK(fits(6, 4, {.window = 10}, 6, 4));
  CHECK(fits(6, 4, {.window = 10, .truncation = truncation_rule::keep_start}, 6, 4));
  CHECK(fits(1000, 1000, {}, 1000, 1000));
}

TEST_CASE("fit: keep_end takes from the prompt first, down to min_prompt, then from the completion") {
  CHECK(fits(9, 4, {.window = 10, .min_prompt = 2}, 6, 4));
  CHECK(fits(9, 8, {.window = 10, .min_prompt = 2}, 2, 8));
  CHECK(fits(9, 9, {.window = 10, .min_prompt = 2}, 2, 8));
  CHECK(fits(1, 20, {.window = 10, .min_prompt = 2}, 1, 9));
  CHECK(fits(9, 9, {.window = 10}, 5, 5));
  CHECK(fits(3, 9, {.window = 10}, 3, 7));
  CHECK(fits(20, 20, {.window = 2}, 1, 1));
}

TEST_CASE("fit: keep_start takes from the end of the row, until no completion is left") {
  load_options const o{.window = 10, .truncation = truncation_rule::keep_start};
  CHECK(fits(6, 9, o, 6, 4));
  CHECK(fits(9, 9, o, 9, 1));
  CHECK(fits(10, 9, o, 10, 0));
  CHECK(fits(30, 9, o, 10, 0));
}

TEST_CASE("fit: never more than the window, never less than a token of the prompt, never more than was there") {
  for (truncation_rule const rule : {truncation_rule::keep_end, truncation_rule::keep_start})
    for (std::size_t window = 2; window < 12; ++window)
      for (std::size_t floor = 0; floor < window; ++floor)
        for (std::size_t prompt = 1; prompt < 20; ++prompt)
          for (std::size_t completion = 1; completion < 20; ++completion) {
            fitted_lengths const f =
                fit(prompt, completion, {.window = window, .truncation = rule, .min_prompt = floor});
            bool const good = f.prompt >= 1 && f.prompt <= prompt &&
                              std::min(f.completion, completion) + f.prompt <= window &&
                              (rule == truncation_rule::keep_start || f.completion >= 1);
            if (!good) CHECK_MESSAGE(good, window, " ", floor, " ", prompt, " ", completion);
          }
}

TEST_CASE("cut_prompt: the end or the start stays, and bos stays in front") {
  auto const cut = [](load_options const& o, std::size_t keep) {
    std::vector<token_id> prompt{100, 1, 2, 3};
    cut_prompt(prompt, keep, o);
    return prompt;
  };
  using ids = std::vector<token_id>;
  CHECK(cut({}, 2) == ids{2, 3});
  CHECK(cut({.bos = 100}, 2) == ids{100, 3});
  CHECK(cut({.bos = 100}, 1) == ids{100});
  CHECK(cut({.truncation = truncation_rule::keep_start, .bos = 100}, 2) == ids{100, 1});
  CHECK(cut({}, 4) == ids{100, 1, 2, 3});
  CHECK(cut({}, 9) == ids{100, 1, 2, 3});
}

TEST_CASE("load_options: each field out of range is refused by name and value") {
  CHECK_NOTHROW(validate(load_options{}));
  CHECK(message_of<contract_violation>([] { validate(load_options{.window = 1}); }) ==
        "expected load_options.window >= 2, or 0 for no limit, got 1");
  CHECK(message_of<contract_violation>([] { validate(load_options{.window = 8, .min_prompt = 8}); }) ==
        "expected load_options.min_prompt < window, got 8");
  CHECK_THROWS_AS(validate(load_options{.bos = -2}), contract_violation);
  CHECK_THROWS_AS(validate(load_options{.eos = -2}), contract_violation);
}

TEST_CASE("summary: says what became of the rows and where the first ones were") {
  load_report r;
  r.rows = 10;
  r.kept = 3;
  r.prompts_cut = 2;
  for (std::size_t line = 1; line <= 6; ++line) r.dropped[0].add(line * 10);
  r.dropped[1].add(7);
  CHECK(r.dropped_total() == 7);
  CHECK(r.of(drop_reason::no_completion_left).count == 6);
  CHECK(r.of(drop_reason::equal_after_truncation).first_lines == std::vector<std::size_t>{7});
  CHECK(summary(r) ==
        "10 rows, 3 kept, 7 dropped: no completion token left in the window 6 (lines 10, 20, 30, 40, 50, ...): chosen "
        "and "
        "rejected equal after truncation 1 (lines 7); 2 prompts cut");
}
