// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <ranges>
#include <span>
#include <utility>
#include <vector>

#include <attune/core/sequences.hpp>

namespace attune {

/// Some sequences of a larger batch, copied out to be run through a model at once, and the way between the two for
/// numbers per token. clear() keeps the memory.
class response_batch {
 public:
  void clear() noexcept {
    tokens_.clear();
    source_.clear();
  }

  /// Appends sequence b of `all`.
  void push_back(sequences_view all, std::size_t b) {
    tokens_.push_back_masked(all.sequence(b), all.sequence_mask(b));
    source_.push_back(b);
  }

  std::size_t size() const noexcept { return source_.size(); }
  sequences_view tokens() const noexcept { return tokens_.view(); }
  std::size_t source(std::size_t i) const noexcept { return source_[i]; }

  /// out[t] here = of_all[t] there, over whole sequences; out is resized.
  template <class T>
  void gather(std::span<T const> of_all, sequences_view all, std::vector<T>& out) const {
    sequences_view const here = tokens_;
    out.resize(here.total_tokens());
    for (std::size_t i = 0; i < source_.size(); ++i)
      for (std::size_t k = 0; k < here.length(i); ++k) out[here.offsets[i] + k] = of_all[all.offsets[source_[i]] + k];
  }

  /// The way back for masked-in tokens of the sequences that are here: of_all[t] there = values[t] here. What stands
  /// elsewhere, NaN perhaps, stays behind.
  template <class T>
  void scatter(std::span<T const> values, sequences_view all, std::span<double> of_all) const {
    sequences_view const here = tokens_;
    for (std::size_t i = 0; i < source_.size(); ++i)
      for (std::size_t k = 0; k < here.length(i); ++k)
        if (here.mask[here.offsets[i] + k] != 0)
          of_all[all.offsets[source_[i]] + k] = static_cast<double>(values[here.offsets[i] + k]);
  }

 private:
  sequences tokens_;
  std::vector<std::size_t> source_;
};

/// Calls f(batch) for sequences of `all`, as many at once as fit `token_budget` tokens: a sequence opens the next batch
/// if it would carry this one over; one longer than the budget stands alone; 0 sets no limit. `order` is a range of
/// places in `all`; `batch` is scratch.
template <std::ranges::input_range Order, class F>
void for_response_batches(sequences_view all, Order const& order, std::size_t token_budget, response_batch& batch,
                          F&& f) {
  batch.clear();
  for (std::size_t const b : order) {
    if (batch.size() > 0 && token_budget > 0 && batch.tokens().total_tokens() + all.length(b) > token_budget) {
      f(std::as_const(batch));
      batch.clear();
    }
    batch.push_back(all, b);
  }
  if (batch.size() > 0) f(std::as_const(batch));
}

/// The same for all sequences, in their own order.
template <class F>
void for_response_batches(sequences_view all, std::size_t token_budget, response_batch& batch, F&& f) {
  for_response_batches(all, std::views::iota(std::size_t{0}, all.size()), token_budget, batch, std::forward<F>(f));
}

}  // namespace attune
