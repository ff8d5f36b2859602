// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/testing/broken_law.hpp>

namespace attune::testing {

/// Laws of the datasets in concepts/dataset.hpp, on the first `rows` rows: size() is constant ("constant size"); d[i]
/// gives the same tokens and judgements at every call and for any order of calls ("repeatable"); prompts and
/// completions are not empty ("not empty"); margins are finite ("finite margin"), weights also >= 0 ("finite weight");
/// steps end in ascending order within their completion, with a label of 0 or 1 each ("steps"). Element access in
/// order, backwards and shuffled.
template <class D>
  requires(DemonstrationDataset<D> || PreferenceDataset<D> || FeedbackDataset<D> || StepwiseDataset<D> ||
           PromptDataset<D>)
[[nodiscard]] std::vector<broken_law> check_dataset_laws(D const& data, std::size_t rows = 1000) {
  struct row {
    std::vector<token_id> prompt, first, second;
    double margin = 0.0;
    bool desirable = false;
    double weight = 1.0;
    std::vector<std::size_t> step_ends = {};
    std::vector<std::uint8_t> labels = {};
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
    } else if constexpr (FeedbackDataset<D>) {
      judged_completion const p = data[i];
      return row{copy(p.prompt), copy(p.completion), copy(p.completion), 0.0, p.desirable, p.weight};
    } else if constexpr (StepwiseDataset<D>) {
      stepwise_completion const p = data[i];
      return row{.prompt = copy(p.prompt), .first = copy(p.completion), .second = copy(p.completion),
                 .step_ends = {p.step_ends.begin(), p.step_ends.end()}, .labels = {p.labels.begin(), p.labels.end()}};
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
    if constexpr (DemonstrationDataset<D> || PreferenceDataset<D> || FeedbackDataset<D> || StepwiseDataset<D>)
      book.expect(!seen[i].first.empty() && !seen[i].second.empty(), "not empty",
                  place + ": a completion has no token");
    book.expect(std::isfinite(seen[i].margin), "finite margin", place + ": " + std::to_string(seen[i].margin));
    book.expect(std::isfinite(seen[i].weight) && seen[i].weight >= 0.0, "finite weight",
                place + ": " + std::to_string(seen[i].weight));
    if constexpr (StepwiseDataset<D>) {
      auto const& ends = seen[i].step_ends;
      bool const ascending = !ends.empty() && ends.front() >= 1 && ends.back() <= seen[i].first.size() &&
                             std::adjacent_find(ends.begin(), ends.end(), std::greater_equal<>{}) == ends.end();
      book.expect(ascending && seen[i].labels.size() == ends.size() &&
                      std::all_of(seen[i].labels.begin(), seen[i].labels.end(), [](auto label) { return label <= 1; }),
                  "steps", place + ": their ends or labels are not in order");
    }
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
