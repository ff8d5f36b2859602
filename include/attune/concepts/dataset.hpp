// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>

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

/// Laws, of both (checked by testing::check_dataset_laws): size() is constant; d[i] gives the same tokens at every call
/// and for any order of calls; prompts and completions are not empty.
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

}  // namespace attune
