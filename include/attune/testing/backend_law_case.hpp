// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <vector>

#include <attune/concepts/backend.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>

namespace attune::testing {

/// One set of random logits, as they lie in storage S, with everything around it, and the answers in long double.
template <class S>
struct backend_law_case {
  using T = arithmetic_t<S>;

  std::size_t rows, vocabulary, stride;
  std::vector<S> logits;  // (rows, stride)
  std::vector<T> slopes, mean_slopes, entropy_slopes;
  std::vector<token_id> targets;
  std::vector<long double> logps, log_normalizers, mean_logps, entropies;
  std::vector<long double> gradient;          // (rows, vocabulary) of slopes and mean_slopes
  std::vector<long double> entropy_gradient;  // (rows, vocabulary) of entropy_slopes
  double scale = 1.0;                                                     ///< of the largest finite logit

  static constexpr S gap = S(-77.0f);  ///< lies between the rows

  backend_law_case(std::size_t n, std::size_t v, random_stream random, double spread = 3.0, double shift = 0.0)
      : rows(n), vocabulary(v), stride(v + 3), logits(n * stride, gap), slopes(n), mean_slopes(n), entropy_slopes(n),
        targets(n) {
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t k = 0; k < v; ++k) logits[i * stride + k] = S(static_cast<T>(shift + spread * random.normal()));
      slopes[i] = static_cast<T>(random.normal());
      mean_slopes[i] = static_cast<T>(random.normal());
      targets[i] = i % 4 == 2 ? no_target : static_cast<token_id>(random.below(v));
    }
    for (T& slope : entropy_slopes) slope = static_cast<T>(random.normal());
    solve();
  }

  /// How far the number that S stores for x may be from it.
  static double rounding(long double x) noexcept {
    if (std::same_as<S, T>) return 0.0;
    double const places = std::same_as<S, bf16> ? 0x1p-8 : 0x1p-11, least = std::same_as<S, bf16> ? 0x1p-133 : 0x1p-25;
    return (std::max)(places * std::abs(static_cast<double>(x)), least);
  }

  matrix_view<S const> view() const { return {logits.data(), rows, vocabulary, stride}; }

  /// To be called again after logits, targets or slopes were changed. The definition, sums in long double.
  void solve() {
    logps.assign(rows, 0.0L);
    log_normalizers = mean_logps = entropies = logps;
    gradient.assign(rows * vocabulary, 0.0L);
    entropy_gradient = gradient;
    for (std::size_t i = 0; i < rows; ++i) {
      if (targets[i] == no_target) continue;
      S const* const x = logits.data() + i * stride;
      long double maximum = static_cast<long double>(x[0]), sum = 0.0L, mean = 0.0L;
      for (std::size_t v = 0; v < vocabulary; ++v) {
        if (static_cast<long double>(x[v]) > maximum) maximum = static_cast<long double>(x[v]);
        if (std::isfinite(x[v])) scale = (std::max)(scale, std::abs(static_cast<double>(x[v])));
      }
      for (std::size_t v = 0; v < vocabulary; ++v) {
        sum += std::exp(static_cast<long double>(x[v]) - maximum);
        mean += static_cast<long double>(x[v]) / static_cast<long double>(vocabulary);
      }
      log_normalizers[i] = maximum + std::log(sum);
      logps[i] = static_cast<long double>(x[targets[i]]) - log_normalizers[i];
      mean_logps[i] = mean - log_normalizers[i];
      if (std::isnan(log_normalizers[i])) entropies[i] = log_normalizers[i];
      for (std::size_t v = 0; v < vocabulary; ++v) {
        long double const logp = static_cast<long double>(x[v]) - log_normalizers[i];
        if (std::exp(logp) > 0.0L) entropies[i] -= std::exp(logp) * logp;
      }
      for (std::size_t v = 0; v < vocabulary; ++v) {
        long double const p = std::exp(static_cast<long double>(x[v]) - log_normalizers[i]);
        long double const hit = static_cast<token_id>(v) == targets[i] ? 1.0L : 0.0L;
        bool const absent =
            static_cast<T>(x[v]) == -std::numeric_limits<T>::infinity() && !std::isnan(log_normalizers[i]);
        gradient[i * vocabulary + v] =
            absent ? 0.0L : slopes[i] * (hit - p) + mean_slopes[i] * (1.0L / static_cast<long double>(vocabulary) - p);
        if (p > 0.0L)  // and 0 where it is not
          entropy_gradient[i * vocabulary + v] =
              -entropy_slopes[i] * p * (static_cast<long double>(x[v]) - log_normalizers[i] + entropies[i]);
      }
    }
  }
};

}  // namespace attune::testing
