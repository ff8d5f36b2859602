// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>
#include <attune/concepts/backend.hpp>
#include <attune/core/storage.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/testing/backend_laws.hpp>

#include "support/golden_operations.hpp"
#include "support/keep_worst.hpp"
#include "support/objective_cases.hpp"

/// The one test of every backend: the concept's laws, PyTorch's numbers, and losses and gradients of every objective
/// through door 2 against reference_backend<double>.
namespace attune::test {

template <class S>
struct stored_number {
  static constexpr double epsilon = std::numeric_limits<S>::epsilon();
  static constexpr char const* name = sizeof(S) == 8 ? "f64" : "f32";
};
template <>
struct stored_number<bf16> {
  static constexpr double epsilon = 0x1p-7;
  static constexpr char const* name = "bf16";
};
template <>
struct stored_number<f16> {
  static constexpr double epsilon = 0x1p-10;
  static constexpr char const* name = "f16";
};

/// A row of the table: an operation on a backend, by how much it was off and by how much it may be.
struct backend_operation {
  std::string backend, dtype, name;
  double error, bound;

  bool passed() const { return error <= bound; }
};

template <class T, class S>
std::vector<S> stored(std::vector<double> const& x) {
  std::vector<S> y;
  for (double const a : x) y.push_back(static_cast<S>(static_cast<T>(a)));
  return y;
}

template <class S>
std::vector<double> widened(std::vector<S> const& x) {
  return {x.begin(), x.end()};
}

/// Largest |a - exact| / largest |exact|.
template <class S>
double off(std::vector<S> const& a, std::vector<double> const& exact) {
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    keep_worst(error, {std::abs(static_cast<double>(a[i]) - exact[i])});
    size = std::max(size, std::abs(exact[i]));
  }
  return error / size;
}

/// In epsilons, of sums over the longest completion: what its log-probabilities lose when each is rounded to an epsilon
/// of itself, and one per token for the rest. Every loss here is a function of such sums, or of single tokens, no
/// steeper than 1.
inline double summed_rounding(sequences_view text, std::span<double const> logps) {
  double largest = 0.0;
  for (std::size_t b = 0; b < text.size(); ++b) {
    double sum = 0.0;
    for (std::size_t t = text.offsets[b]; t < text.offsets[b + 1]; ++t) sum += 1.0 + std::abs(logps[t]);
    largest = std::max(largest, sum);
  }
  return largest;
}

/// What a backend promises of itself.
struct backend_promises {
  bool bitwise_rows = true;  ///< a row's results are the same bits wherever it stands
  /// To which the gradient of logits is rounded as a factor of dhidden and dhead, relative; 0: it is not.
  double factor_epsilon = 0.0;
  /// What slopes are multiplied with, as losses are in training with f16, whose smallest numbers are not small.
  double slope_scale = 1.0;
};

/// The same objectives with slopes `scale` times as large.
template <class T>
std::vector<objective_case<T>> scaled(std::vector<objective_case<T>> cases, double scale) {
  for (objective_case<T>& one : cases)
    one.ask = [ask = one.ask, scale](sequences_view batch, term_values<T const> const& of, term_slopes<T> const& slopes) {
      T const loss = ask(batch, of, slopes);
      for (std::span<T> const some : {slopes.logps, slopes.mean_logps, slopes.entropies, slopes.log_normalizers})
        for (T& slope : some) slope *= static_cast<T>(scale);
      return loss;
    };
  return cases;
}

/// Of the largest sum of products in a matrix, the sum of their sizes: what the test's batch comes to, or less.
constexpr double cancellation = 8.0;

/// All that is tested of a backend, each checked.
template <Backend B>
std::vector<backend_operation> try_backend(B& backend, std::string const& name, backend_promises const& promised = {}) {
  using T = typename B::scalar;
  using S = typename B::storage;
  objective_batch const batch;
  sequences_view const text = batch.text;
  std::size_t const n = batch.tokens(), v = batch.vocabulary, w = batch.width;
  // What is stored may be narrower than what is computed with: both sides start from the stored numbers.
  std::vector<S> const logits = stored<T, S>(batch.logits), hidden = stored<T, S>(batch.hidden),
                       head = stored<T, S>(batch.head);
  std::vector<double> const exact_logits = widened(logits), exact_hidden = widened(hidden), exact_head = widened(head);
  auto const in_logits = as_matrix<double const>(exact_logits.data(), n, v),
             in_hidden = as_matrix<double const>(exact_hidden.data(), n, w),
             in_head = as_matrix<double const>(exact_head.data(), v, w);
  reference_backend<double> exact;
  loss_workspace<double> exact_workspace;
  std::vector<double> of_logits(n), of_hidden(n), exact_dlogits(n * v), exact_dhidden(n * w), exact_dhead(v * w);
  logps_on_logits(exact, in_logits, text, std::span<double>(of_logits), exact_workspace);
  logps_on_hidden(exact, in_hidden, in_head, text, std::span<double>(of_hidden), exact_workspace);

  std::vector<backend_operation> table;
  auto const note = [&](backend_operation done) {
    CAPTURE(done.name);
    CHECK(done.error <= done.bound);
    table.push_back(std::move(done));
  };
  // Of several results of one call, the one that uses up most of its bound stands for all.
  auto const note_worst = [&](backend_operation worst, std::initializer_list<std::pair<double, double>> errors_and_bounds) {
    worst.error = 0.0;
    worst.bound = 1.0;
    for (auto const& [error, bound] : errors_and_bounds)
      if (!(error * worst.bound <= worst.error * bound)) worst.error = error, worst.bound = bound;
    note(std::move(worst));
  };
  auto const called = [&](std::string what, double error = 0.0, double bound = 0.0) {
    return backend_operation{name, stored_number<S>::name, std::move(what), error, bound};
  };
  for (testing::tried_law const& law : testing::try_backend_laws(backend, {.bitwise_rows = promised.bitwise_rows})) {
    CAPTURE(law.evidence);
    note(called("law: " + law.name, law.error, law.bound));
  }
  if constexpr (std::is_same_v<S, T>)  // the files' numbers are not those of sixteen bits
    for (golden_operation const& golden : try_golden(backend)) note(called("golden: " + golden.name, golden.error, golden.bound));

  loss_workspace<T> workspace;
  std::vector<S> dlogits(n * v), dhidden(n * w);
  std::vector<T> dhead(v * w);
  auto const cases = scaled(objective_cases<T>(text, of_logits), promised.slope_scale);
  auto const exact_cases = scaled(objective_cases<double>(text, of_logits), promised.slope_scale);
  double const rounding = summed_rounding(text, of_logits);
  for (std::size_t k = 0; k < cases.size(); ++k) {
    double const loss =
        static_cast<double>(loss_on_logits(backend, cases[k], as_matrix<S const>(logits.data(), n, v), text,
                                           as_matrix(dlogits.data(), n, v), workspace));
    double const expected = loss_on_logits(exact, exact_cases[k], in_logits, text,
                                           as_matrix(exact_dlogits.data(), n, v), exact_workspace);
    note_worst(called(cases[k].family + ", " + cases[k].name + ", on logits"),
               {{std::abs(loss - expected) / std::max(1.0, std::abs(expected)), rounding * stored_number<T>::epsilon},
                {off(dlogits, exact_dlogits), rounding * stored_number<T>::epsilon + stored_number<S>::epsilon}});
  }

  auto const hidden_cases = scaled(objective_cases<T>(text, of_hidden), promised.slope_scale);
  auto const exact_hidden_cases = scaled(objective_cases<double>(text, of_hidden), promised.slope_scale);
  double const hidden_rounding = summed_rounding(text, of_hidden);
  double const of_factors = cancellation * promised.factor_epsilon;
  for (std::size_t k = 0; k < hidden_cases.size(); ++k) {
    std::fill(dhead.begin(), dhead.end(), T(0));
    std::fill(exact_dhead.begin(), exact_dhead.end(), 0.0);
    double const loss = static_cast<double>(loss_on_hidden(
        backend, hidden_cases[k], as_matrix<S const>(hidden.data(), n, w), as_matrix<S const>(head.data(), v, w),
        text, as_matrix(dhidden.data(), n, w), as_matrix(dhead.data(), v, w), workspace));
    double const expected = loss_on_hidden(exact, exact_hidden_cases[k], in_hidden, in_head, text,
                                           as_matrix(exact_dhidden.data(), n, w),
                                           as_matrix(exact_dhead.data(), v, w), exact_workspace);
    note_worst(called(hidden_cases[k].family + ", " + hidden_cases[k].name + ", on hidden"),
               {{std::abs(loss - expected) / std::max(1.0, std::abs(expected)), hidden_rounding * stored_number<T>::epsilon},
                {off(dhidden, exact_dhidden),
                 hidden_rounding * stored_number<T>::epsilon + stored_number<S>::epsilon + of_factors},
                {off(dhead, exact_dhead), hidden_rounding * stored_number<T>::epsilon + of_factors}});
  }
  return table;
}

}  // namespace attune::test
