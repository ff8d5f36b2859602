// SPDX-License-Identifier: MIT
#include <attune/concepts/dataset.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <span>
#include <vector>

using namespace attune;

namespace {

struct demonstrations_archetype {
  std::size_t size() const { return 0; }
  demonstration operator[](std::size_t) const { return {}; }
};
struct pairs_archetype {
  std::size_t size() const { return 0; }
  preference_pair operator[](std::size_t) const { return {}; }
};
struct feedback_archetype {
  std::size_t size() const { return 0; }
  judged_completion operator[](std::size_t) const { return {}; }
};
struct solutions_archetype {
  std::size_t size() const { return 0; }
  stepwise_completion operator[](std::size_t) const { return {}; }
};
// A row of one's own that converts.
struct own_row {
  std::vector<token_id> text;
  operator preference_pair() const { return {text, text, text, 0.0}; }
};
struct own_rows {
  std::vector<own_row> rows;
  int size() const { return static_cast<int>(rows.size()); }
  own_row const& operator[](std::size_t i) const { return rows[i]; }
};
// The least that is a prompt dataset: rows that lie somewhere, or rows of views.
struct stored_prompt {
  std::vector<token_id> prompt;
};
struct prompt_view {
  std::span<token_id const> prompt;
};
struct views_of_prompts {
  std::size_t size() const { return 0; }
  prompt_view operator[](std::size_t) const { return {}; }
};

struct prompts_that_die {
  std::size_t size() const { return 0; }
  stored_prompt operator[](std::size_t) const { return {}; }
};
struct prompts_without_size {
  prompt_view operator[](std::size_t) const { return {}; }
};
struct prompt_of_other_ids {
  std::vector<long> prompt;
};

struct no_size {
  preference_pair operator[](std::size_t) const { return {}; }
};
struct no_random_access {
  std::size_t size() const { return 0; }
  preference_pair next() { return {}; }
};
struct access_not_const {
  std::size_t size() const { return 0; }
  preference_pair operator[](std::size_t) { return {}; }
};
struct rows_of_text {
  std::size_t size() const { return 0; }
  char const* operator[](std::size_t) const { return ""; }
};

}  // namespace

static_assert(DemonstrationDataset<demonstrations_archetype> && !PreferenceDataset<demonstrations_archetype>);
static_assert(PreferenceDataset<pairs_archetype> && !DemonstrationDataset<pairs_archetype>);
static_assert(FeedbackDataset<feedback_archetype> && !DemonstrationDataset<feedback_archetype>);
static_assert(StepwiseDataset<solutions_archetype> && !FeedbackDataset<solutions_archetype>);
static_assert(!FeedbackDataset<pairs_archetype> && !FeedbackDataset<demonstrations_archetype>);
static_assert(!StepwiseDataset<feedback_archetype> && !StepwiseDataset<demonstrations_archetype>);
static_assert(PromptDataset<feedback_archetype> && PromptDataset<solutions_archetype>);
static_assert(PreferenceDataset<own_rows>);
static_assert(PreferenceDataset<std::vector<preference_pair>>, "a vector will do");
static_assert(!PreferenceDataset<no_size>);
static_assert(!PreferenceDataset<no_random_access>);
static_assert(!PreferenceDataset<access_not_const>);
static_assert(!PreferenceDataset<rows_of_text> && !DemonstrationDataset<rows_of_text>);
static_assert(PromptDataset<std::vector<stored_prompt>> && PromptDataset<views_of_prompts>);
static_assert(PromptDataset<demonstrations_archetype> && PromptDataset<pairs_archetype>);
static_assert(PromptDataset<std::vector<preference_pair>> && PromptDataset<std::vector<demonstration>>);
static_assert(!DemonstrationDataset<views_of_prompts> && !PreferenceDataset<views_of_prompts>);
static_assert(!PromptDataset<prompts_that_die>);
static_assert(!PromptDataset<prompts_without_size>);
static_assert(!PromptDataset<std::vector<prompt_of_other_ids>>);
static_assert(!PromptDataset<access_not_const>);
static_assert(!PromptDataset<own_rows>, "a conversion is no member");
static_assert(!PromptDataset<rows_of_text>);

TEST_CASE("dataset: a prompt is read as a view of where it lies") {
  std::vector<stored_prompt> const data{{{4, 5, 6}}};
  std::span<token_id const> const prompt = data[0].prompt;
  CHECK(prompt.data() == data[0].prompt.data());
  CHECK(prompt.size() == 3);
}

TEST_CASE("dataset: rows of one's own are read through their conversion") {
  own_rows const data{{{{1, 2}}}};
  preference_pair const p = data[0];
  CHECK(p.chosen.size() == 2);
  CHECK(p.margin == 0.0);
}
