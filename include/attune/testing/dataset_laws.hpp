// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/testing/broken_law.hpp>

namespace attune::testing {

/// Laws of DemonstrationDataset, PreferenceDataset and PromptDataset, on the first `rows` rows: size() is constant ("constant size");
/// d[i] gives the same tokens at every call and for any order of calls ("repeatable"); prompts and completions are not
/// empty ("not empty"); margins are finite ("finite margin"). Element access in order, backwards and shuffled.
template <class D>
  requires(DemonstrationDataset<D> || PreferenceDataset<D> || PromptDataset<D>)
[[nodiscard]] std::vector<broken_law> check_dataset_laws(D const& data, std::size_t rows = 1000) {
  struct row {
    std::vector<token_id> prompt, first, second;
    double margin = 0.0;
    bool operator==(row const&) const = default;
  };
  auto const copy = [](std::span<token_id const> s) { return std::vector<token_id>(s.begin(), s.end()); };
  auto const read = [&](std::size_t i) {
    if constexpr (PreferenceDataset<D>) {
      preference_pair const p = data[i];
      return row{copy(p.prompt), copy(p.chosen), copy(p.rejected), p.margin};
    } else if constexpr (DemonstrationDataset<D>) {
      demonstration const p = data[i];
      return row{copy(p.prompt), copy(p.completion), copy(p.completion)};
    } else {
      return row{copy(data[i].prompt), {}, {}};
    }
  };
  law_book book;
  std::size_t const size = static_cast<std::size_t>(data.size());
  std::size_t const checked = (std::min)(size, rows);
  std::vector<row> seen;
  for (std::size_t i = 0; i < checked; ++i) {
    seen.push_back(read(i));
    std::string const place = "row " + std::to_string(i);
    book.expect(!seen[i].prompt.empty(), "not empty", place + ": the prompt has no token");
    if constexpr (DemonstrationDataset<D> || PreferenceDataset<D>)
      book.expect(!seen[i].first.empty() && !seen[i].second.empty(), "not empty", place + ": a completion has no token");
    book.expect(std::isfinite(seen[i].margin), "finite margin", place + ": " + std::to_string(seen[i].margin));
  }
  std::vector<std::size_t> order(checked);
  for (std::size_t i = 0; i < checked; ++i) order[i] = checked - 1 - i;
  for (int pass = 0; pass < 2; ++pass) {
    for (std::size_t const i : order)
      book.expect(read(i) == seen[i], "repeatable",
                  "row " + std::to_string(i) + " differs when read " + (pass == 0 ? "backwards" : "in another order"));
    shuffle(order, random_stream(1));
  }
  book.expect(static_cast<std::size_t>(data.size()) == size, "constant size",
              "was " + std::to_string(size) + ", is " + std::to_string(static_cast<std::size_t>(data.size())));
  return std::move(book).broken();
}

}  // namespace attune::testing
