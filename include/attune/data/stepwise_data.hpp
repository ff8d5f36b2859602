// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <span>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/core/contract.hpp>
#include <attune/data/token_store.hpp>

namespace attune {

/// Solutions in steps in memory: a StepwiseDataset. A row costs 4 bytes per token id, 9 per step, and about a hundred
/// beside (a place, two lengths and two small arrays). Spans stay valid until the object dies.
class stepwise_data {
 public:
  /// Appends a copy. Expects prompt and completion not empty, a step or more, ends in ascending order within the
  /// completion, and a label of 0 or 1 for each.
  void push_back(stepwise_completion const& row) {
    expects(!row.prompt.empty() && !row.completion.empty(),
            "stepwise_data::push_back: a prompt and a completion of at least one token");
    expects((std::max)(row.prompt.size(), row.completion.size()) <= (std::numeric_limits<std::uint32_t>::max)() / 4,
            "stepwise_data::push_back: fewer than 2^30 tokens");
    expects(!row.step_ends.empty(), "stepwise_data::push_back: a step or more");
    expects(row.labels.size() == row.step_ends.size(), "stepwise_data::push_back: labels.size() == step_ends.size()",
            row.labels.size());
    for (std::size_t i = 0; i < row.step_ends.size(); ++i) {
      expects(row.step_ends[i] > (i == 0 ? 0 : row.step_ends[i - 1]) && row.step_ends[i] <= row.completion.size(),
              "stepwise_data::push_back: step_ends in ascending order within the completion", row.step_ends[i]);
      expects(row.labels[i] <= 1, "stepwise_data::push_back: labels of 0 or 1", row.labels[i]);
    }
    token_store::location where = 0;
    std::span<token_id> const out = tokens_.allocate(row.prompt.size() + row.completion.size(), where);
    std::copy(row.completion.begin(), row.completion.end(),
              std::copy(row.prompt.begin(), row.prompt.end(), out.begin()));
    rows_.push_back({where, static_cast<std::uint32_t>(row.prompt.size()),
                     static_cast<std::uint32_t>(row.completion.size()),
                     {row.step_ends.begin(), row.step_ends.end()}, {row.labels.begin(), row.labels.end()}});
  }

  std::size_t size() const noexcept { return rows_.size(); }

  stepwise_completion operator[](std::size_t i) const {
    stored const& row = rows_[i];
    return {tokens_.at(row.where, 0, row.prompt), tokens_.at(row.where, row.prompt, row.completion), row.step_ends,
            row.labels};
  }

  std::size_t total_tokens() const noexcept { return tokens_.total_tokens(); }

 private:
  struct stored {
    token_store::location where;
    std::uint32_t prompt, completion;
    std::vector<std::size_t> step_ends;
    std::vector<std::uint8_t> labels;
  };

  token_store tokens_;
  std::deque<stored> rows_;  // a deque grows without copying
};

static_assert(StepwiseDataset<stepwise_data>);

}  // namespace attune
