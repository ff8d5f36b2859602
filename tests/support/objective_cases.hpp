// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <attune/core/sequences.hpp>
#include <attune/core/view.hpp>
#include <attune/objective/token_objectives.hpp>

namespace attune::test {

/// A batch to put objectives to: three pairs of sequences and what a model makes of them, in numbers that float has.
struct objective_batch {
  static constexpr std::size_t vocabulary = 257, width = 24;
  sequences text;
  std::vector<double> logits;        // (tokens, vocabulary)
  std::vector<double> hidden, head;  // (tokens, width), (vocabulary, width)

  objective_batch();
  std::size_t tokens() const { return text.total_tokens(); }
};

/// An objective of any kind behind one type, so that whoever takes objectives is compiled once for all of them.
template <class T>
struct objective_case {
  std::string family, name;  ///< "DPO family", "ipo"
  token_terms wanted;
  std::function<T(sequences_view, term_values<T const> const&, term_slopes<T> const&)> ask;

  token_terms terms() const { return wanted; }
  T operator()(sequences_view batch, term_values<T const> const& of, term_slopes<T> const& slopes) const {
    return ask(batch, of, slopes);
  }
};

/// The objectives on tokens: SFT with its options, every pairwise loss by name, the policy gradients and the losses of
/// unpaired responses. `logps` (tokens): the policy's, near which references and old policies are made up, so that no
/// ratio lies where nothing moves. For float and double, with the same made-up numbers.
template <class T>
std::vector<objective_case<T>> objective_cases(sequences_view batch, std::span<double const> logps);

extern template std::vector<objective_case<float>> objective_cases(sequences_view, std::span<double const>);
extern template std::vector<objective_case<double>> objective_cases(sequences_view, std::span<double const>);

}  // namespace attune::test
