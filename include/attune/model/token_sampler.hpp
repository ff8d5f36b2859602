// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include <attune/concepts/generative_policy.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>

namespace attune {

/// A token, and the log-probability with which it was drawn: over what top-k and top-p left; 0 when greedy.
struct sampled_token {
  token_id id = 0;
  double logp = 0.0;
};

/// Draws one token from a row of logits. Keeps its scratch, so that drawing does not allocate in a steady state.
///
/// Order of operations, as in Hugging Face's generate: temperature, top-k, top-p (on the renormalised survivors).
/// Ties are broken towards the lower id. Probabilities are formed in double; one random number is used per token, none
/// when greedy. Logits without a distribution (a NaN, +inf, nothing but -inf) give a logp that is NaN.
class token_sampler {
 public:
  /// From then on rows of up to `vocabulary` logits allocate nothing.
  void reserve(std::size_t vocabulary) {
    weights_.reserve(vocabulary);
    order_.reserve(vocabulary);
  }

  /// `temperature` is the policy's own, on which the options' acts on top.
  template <class T>
  [[nodiscard]] sampled_token operator()(std::span<T const> logits, sampling_options const& o, random_stream& random,
                                         double temperature = 1.0) {
    if (o.temperature == 0.0)
      return {static_cast<token_id>(std::max_element(logits.begin(), logits.end()) - logits.begin())};

    double const divisor = o.temperature * temperature;
    double const maximum = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
    weights_.resize(logits.size());
    for (std::size_t v = 0; v < logits.size(); ++v)
      weights_[v] = std::exp((static_cast<double>(logits[v]) - maximum) / divisor);

    double const all = std::accumulate(weights_.begin(), weights_.end(), 0.0);
    if (!std::isfinite(all)) return {0, std::numeric_limits<double>::quiet_NaN()};  // and sorting NaN is undefined
    bool const top_k = o.top_k > 0 && o.top_k < logits.size();
    if (!top_k && o.top_p >= 1.0) return draw(all, random);

    order_.resize(logits.size());
    std::iota(order_.begin(), order_.end(), token_id{0});
    auto const more_probable = [&](token_id a, token_id b) {
      double const x = weights_[static_cast<std::size_t>(a)], y = weights_[static_cast<std::size_t>(b)];
      return x != y ? x > y : a < b;
    };
    std::size_t keep = top_k ? o.top_k : logits.size();
    if (top_k)
      std::nth_element(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(keep), order_.end(), more_probable);
    std::sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(keep), more_probable);
    double total = 0.0;
    for (std::size_t i = 0; i < keep; ++i) total += weights_[static_cast<std::size_t>(order_[i])];
    double kept = 0.0;
    std::size_t last = 0;
    while (last < keep && (last == 0 || kept < o.top_p * total))
      kept += weights_[static_cast<std::size_t>(order_[last++])];
    for (std::size_t i = last; i < order_.size(); ++i) weights_[static_cast<std::size_t>(order_[i])] = 0.0;
    return draw(kept, random);
  }

 private:
  sampled_token draw(double total, random_stream& random) const {
    double remaining = random.uniform() * total;
    std::size_t last = 0;
    for (std::size_t v = 0; v < weights_.size(); ++v) {
      if (weights_[v] == 0.0) continue;
      last = v;
      remaining -= weights_[v];
      if (remaining < 0.0) break;
    }
    // The last possible token where rounding leaves a crumb.
    return {static_cast<token_id>(last), std::log(weights_[last] / total)};
  }

  std::vector<double> weights_;
  std::vector<token_id> order_;
};

}  // namespace attune
