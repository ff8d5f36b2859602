// SPDX-License-Identifier: MIT
#pragma once

#include <attune/concepts/value_model.hpp>
#include <attune/core/parameter.hpp>
#include <attune/core/sequences.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <vector>

namespace attune::test {

/// A critic with one weight per token: V(before t) = weights[tokens[t - 1]]. A ValueModel.
template <class T>
class token_value {
 public:
  using scalar = T;

  explicit token_value(std::size_t vocabulary) : weights_(vocabulary, T(0)), gradient_(vocabulary, T(0)) {}

  void values(sequences_view s, std::span<T> out) const {
    for (std::size_t t = 0; t < s.total_tokens(); ++t)
      out[t] = s.mask[t] != 0 ? weights_[static_cast<std::size_t>(s.tokens[t - 1])] : T(0);
  }

  void accumulate_value_gradient(sequences_view s, value_slopes_of<T> ask) {
    values_.resize(s.total_tokens());
    slopes_.assign(s.total_tokens(), T(0));
    values(s, values_);
    ask(values_, slopes_);
    for (std::size_t t = 0; t < s.total_tokens(); ++t)
      if (s.mask[t] != 0) gradient_[static_cast<std::size_t>(s.tokens[t - 1])] += slopes_[t];
  }

  std::array<parameter<T>, 1> parameters() noexcept {
    return {parameter<T>{.name = "values", .value = weights_, .gradient = gradient_, .shape = {1, weights_.size()}, .decay = false}};
  }

 private:
  std::vector<T> weights_, gradient_, values_, slopes_;
};

}  // namespace attune::test
