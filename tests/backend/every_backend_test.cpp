// SPDX-License-Identifier: MIT
//
// One test over every backend in host memory: the laws, and losses and gradients of every objective through door 2
// against reference_backend<double>. The worst error of each operation is printed and, where the environment variable
// ATTUNE_BACKENDS names a file, written there as JSON.
#include <attune/concepts/backend.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/eigen.hpp>
#include <attune/backend/reference.hpp>
#include <attune/core/parallel.hpp>
#include <attune/core/storage.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/testing/backend_laws.hpp>

#include "support/keep_worst.hpp"
#include "support/objective_cases.hpp"

using namespace attune;

namespace {

/// All that are tested: a line for each.
using every_backend = std::tuple<  //
    reference_backend<float>,      //
    reference_backend<double>,     //
    reference_backend<bf16>,       //
    reference_backend<f16>,        //
    eigen_backend<float>,          //
    eigen_backend<double>,         //
    eigen_backend<bf16>,           //
    eigen_backend<f16>>;

/// f(backend, its name) for each way in which it can be set up that may matter to a result.
template <class... T, class F>
void each_setting(std::type_identity<reference_backend<T...>>, F const& f) {
  reference_backend<T...> backend;
  f(backend, "reference");
}
template <class... T, class F>
void each_setting(std::type_identity<eigen_backend<T...>>, F const& f) {
  eigen_backend<T...> backend;
  f(backend, "eigen");
  thread_pool pool(3);
  eigen_backend<T...> parallel(&pool, 7);
  f(parallel, "eigen, 3 threads, chunks of 7");
}

template <class S>
struct number {
  static constexpr double epsilon = std::numeric_limits<S>::epsilon();
  static constexpr char const* name = sizeof(S) == 8 ? "f64" : "f32";
};
template <>
struct number<bf16> {
  static constexpr double epsilon = 0x1p-7;
  static constexpr char const* name = "bf16";
};
template <>
struct number<f16> {
  static constexpr double epsilon = 0x1p-10;
  static constexpr char const* name = "f16";
};

struct operation {
  std::string backend, dtype, name;
  double error, bound;

  bool passed() const { return error <= bound; }
};
std::vector<operation> table;

void note(operation done) {
  CAPTURE(done.name);
  CHECK(done.error <= done.bound);
  table.push_back(std::move(done));
}

/// Of several results of one call, the one that uses up most of its bound stands for all.
void note_worst(operation worst, std::initializer_list<std::pair<double, double>> errors_and_bounds) {
  worst.error = 0.0;
  worst.bound = 1.0;
  for (auto const& [error, bound] : errors_and_bounds)
    if (!(error * worst.bound <= worst.error * bound)) worst.error = error, worst.bound = bound;
  note(std::move(worst));
}

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
    test::keep_worst(error, {std::abs(static_cast<double>(a[i]) - exact[i])});
    size = std::max(size, std::abs(exact[i]));
  }
  return error / size;
}

/// In epsilons, of sums over the longest completion: what its log-probabilities lose when each is rounded to an epsilon
/// of itself, and one per token for the rest. Every loss here is a function of such sums, or of single tokens, no
/// steeper than 1.
double summed_rounding(sequences_view text, std::span<double const> logps) {
  double largest = 0.0;
  for (std::size_t b = 0; b < text.size(); ++b) {
    double sum = 0.0;
    for (std::size_t t = text.offsets[b]; t < text.offsets[b + 1]; ++t) sum += 1.0 + std::abs(logps[t]);
    largest = std::max(largest, sum);
  }
  return largest;
}

void write_json(char const* path) {
  std::FILE* const file = std::fopen(path, "w");
  REQUIRE(file != nullptr);
  std::fputs("[\n", file);
  for (std::size_t i = 0; i < table.size(); ++i) {
    operation const& o = table[i];
    std::fprintf(file, "  {\"backend\": \"%s\", \"dtype\": \"%s\", \"operation\": \"%s\", \"passed\": %s, ",
                 o.backend.c_str(), o.dtype.c_str(), o.name.c_str(), o.passed() ? "true" : "false");
    if (std::isfinite(o.error))
      std::fprintf(file, "\"worst_error\": %.3e, \"bound\": %.3e}", o.error, o.bound);
    else
      std::fprintf(file, "\"worst_error\": null, \"bound\": %.3e}", o.bound);
    std::fputs(i + 1 < table.size() ? ",\n" : "\n", file);
  }
  std::fputs("]\n", file);
  CHECK(std::fclose(file) == 0);
}

/// A line for each operation, a column for each backend: worst errors, "!" where one is beyond its bound.
void print_table() {
  std::vector<std::string> columns, names;
  auto const add = [](std::vector<std::string>& to, std::string const& x) {
    if (std::find(to.begin(), to.end(), x) == to.end()) to.push_back(x);
  };
  for (operation const& o : table) add(columns, o.backend + ", " + o.dtype), add(names, o.name);
  for (std::size_t c = 0; c < columns.size(); ++c) std::printf("(%zu) %s\n", c + 1, columns[c].c_str());
  std::printf("%-52s", "worst errors");
  for (std::size_t c = 0; c < columns.size(); ++c) std::printf("       (%zu)", c + 1);
  for (std::string const& name : names) {
    std::printf("\n%-52s", name.c_str());
    for (std::string const& column : columns)
      for (operation const& o : table)
        if (o.name == name && o.backend + ", " + o.dtype == column)
          std::printf(" %8.2g%s", o.error, o.passed() ? " " : "!");
  }
  std::printf("\n");
}

}  // namespace

TEST_CASE_TEMPLATE_DEFINE("every backend: the laws, and the losses and gradients of every objective", B, every) {
  using T = typename B::scalar;
  using S = typename B::storage;
  test::objective_batch const batch;
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

  each_setting(std::type_identity<B>{}, [&](B& backend, char const* name) {
    auto const called = [&](std::string what, double error = 0.0, double bound = 0.0) {
      return operation{name, number<S>::name, std::move(what), error, bound};
    };
    for (testing::tried_law const& law : testing::try_backend_laws(backend, {.bitwise_rows = true})) {
      CAPTURE(law.evidence);
      note(called("law: " + law.name, law.error, law.bound));
    }

    loss_workspace<T> workspace;
    std::vector<S> dlogits(n * v), dhidden(n * w);
    std::vector<T> dhead(v * w);
    auto const cases = test::objective_cases<T>(text, of_logits);
    auto const exact_cases = test::objective_cases<double>(text, of_logits);
    double const rounding = summed_rounding(text, of_logits);
    for (std::size_t k = 0; k < cases.size(); ++k) {
      double const loss =
          static_cast<double>(loss_on_logits(backend, cases[k], as_matrix<S const>(logits.data(), n, v), text,
                                             as_matrix(dlogits.data(), n, v), workspace));
      double const expected = loss_on_logits(exact, exact_cases[k], in_logits, text,
                                             as_matrix(exact_dlogits.data(), n, v), exact_workspace);
      note_worst(called(cases[k].family + ", " + cases[k].name + ", on logits"),
                 {{std::abs(loss - expected) / std::max(1.0, std::abs(expected)), rounding * number<T>::epsilon},
                  {off(dlogits, exact_dlogits), rounding * number<T>::epsilon + number<S>::epsilon}});
    }

    auto const hidden_cases = test::objective_cases<T>(text, of_hidden);
    auto const exact_hidden_cases = test::objective_cases<double>(text, of_hidden);
    double const hidden_rounding = summed_rounding(text, of_hidden);
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
                 {{std::abs(loss - expected) / std::max(1.0, std::abs(expected)), hidden_rounding * number<T>::epsilon},
                  {off(dhidden, exact_dhidden), hidden_rounding * number<T>::epsilon + number<S>::epsilon},
                  {off(dhead, exact_dhead), hidden_rounding * number<T>::epsilon}});
    }
  });
}
TEST_CASE_TEMPLATE_APPLY(every, every_backend);

// Runs after those above, as they stand in this file; alone it has nothing to say.
TEST_CASE("every backend: the table of worst errors is printed and written") {
  print_table();
  if (char const* const path = std::getenv("ATTUNE_BACKENDS"); path != nullptr && *path != '\0') {
    CHECK(table.size() >= 50 * std::tuple_size_v<every_backend>);  // a filter would leave a part of the table
    write_json(path);
  }
}
