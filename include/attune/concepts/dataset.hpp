// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ranges>
#include <span>
#include <type_traits>

#include <attune/core/sequences.hpp>

/// Data as trainers see it: random access to token ids. Whether they lie in memory, in a mapped file or are made on
/// demand is the dataset's affair; the spans of one element stay valid until the next element is asked for, or longer.
namespace attune {

/// One instruction and its response. The completion includes its end-of-sequence token, if the model is to learn one.
struct demonstration {
  std::span<token_id const> prompt;
  std::span<token_id const> completion;
};

/// Two responses to one prompt, the first preferred.
struct preference_pair {
  std::span<token_id const> prompt;
  std::span<token_id const> chosen;
  std::span<token_id const> rejected;
  double margin = 0.0;  ///< by how much chosen is better, where the data say so; unit of the reward
};

/// One response and what somebody thought of it by itself, without another to compare it with.
struct judged_completion {
  std::span<token_id const> prompt;
  std::span<token_id const> completion;
  bool desirable = false;
  double weight = 1.0;  ///< factor of its loss, >= 0 (bco's density ratio, say)
};

/// A solution in steps, each called correct or not. The completion holds all steps with their separators.
struct stepwise_completion {
  std::span<token_id const> prompt;
  std::span<token_id const> completion;
  std::span<std::size_t const> step_ends;  ///< (steps) tokens of the completion up to each step's end; ascending, >= 1
  std::span<std::uint8_t const> labels;    ///< (steps) 1: correct, 0: not
};

/// Laws, of all five (checked by testing::check_dataset_laws): size() is constant; d[i] gives the same tokens and
/// judgements at every call and for any order of calls; prompts and completions are not empty.
template <class D>
concept DemonstrationDataset = requires(D const& d, std::size_t i) {
  { d.size() } -> std::convertible_to<std::size_t>;
  { d[i] } -> std::convertible_to<demonstration>;
};

template <class D>
concept PreferenceDataset = requires(D const& d, std::size_t i) {
  { d.size() } -> std::convertible_to<std::size_t>;
  { d[i] } -> std::convertible_to<preference_pair>;
};

template <class D>
concept FeedbackDataset = requires(D const& d, std::size_t i) {
  { d.size() } -> std::convertible_to<std::size_t>;
  { d[i] } -> std::convertible_to<judged_completion>;
};

template <class D>
concept StepwiseDataset = requires(D const& d, std::size_t i) {
  { d.size() } -> std::convertible_to<std::size_t>;
  { d[i] } -> std::convertible_to<stepwise_completion>;
};

/// What sampling needs: instructions without responses. Rows are of any type with a member `prompt`, so datasets of
/// demonstrations and of preference pairs are prompt datasets too. A row that is handed out by value may not own its
/// prompt, which would die with it.
template <class D>
concept PromptDataset = requires(D const& d, std::size_t i) {
  { d.size() } -> std::convertible_to<std::size_t>;
  { d[i].prompt } -> std::convertible_to<std::span<token_id const>>;
  requires std::is_lvalue_reference_v<decltype(d[i])> || std::ranges::borrowed_range<decltype(d[i].prompt)>;
};

}  // namespace attune
