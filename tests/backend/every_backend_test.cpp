// SPDX-License-Identifier: MIT
//
// The one test of support/every_backend.hpp over every backend in host memory. The worst error of each operation is printed
// and, where the environment variable ATTUNE_BACKENDS names a file, written there as JSON.
#include <attune/concepts/backend.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
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

#include "support/every_backend.hpp"

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

std::vector<test::backend_operation> table;

void write_json(char const* path) {
  std::FILE* const file = std::fopen(path, "w");
  REQUIRE(file != nullptr);
  std::fputs("[\n", file);
  for (std::size_t i = 0; i < table.size(); ++i) {
    test::backend_operation const& o = table[i];
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
  for (test::backend_operation const& o : table) add(columns, o.backend + ", " + o.dtype), add(names, o.name);
  for (std::size_t c = 0; c < columns.size(); ++c) std::printf("(%zu) %s\n", c + 1, columns[c].c_str());
  std::printf("%-52s", "worst errors");
  for (std::size_t c = 0; c < columns.size(); ++c) std::printf("       (%zu)", c + 1);
  for (std::string const& name : names) {
    std::printf("\n%-52s", name.c_str());
    for (std::string const& column : columns) {
      auto const found = std::find_if(table.begin(), table.end(), [&](test::backend_operation const& o) {
        return o.name == name && o.backend + ", " + o.dtype == column;
      });
      if (found == table.end()) std::printf("        - ");
      else std::printf(" %8.2g%s", found->error, found->passed() ? " " : "!");
    }
  }
  std::printf("\n");
}

}  // namespace

TEST_CASE_TEMPLATE_DEFINE("every backend: the laws, PyTorch's numbers, the losses and gradients of every objective", B, every) {
  each_setting(std::type_identity<B>{}, [](B& backend, char const* name) {
    for (test::backend_operation& done : test::try_backend(backend, name)) table.push_back(std::move(done));
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
