// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>

/// Which examples an optimiser step sees, and how they are cut into micro-batches. Both are pure functions of the
/// options and the step's number: there is no sampler state to save, and nothing to drift when a run is resumed.
namespace attune {

/// The order of a dataset in each epoch. Step s (counted from 0) takes `batch_size` examples of epoch
/// s / steps_per_epoch(); the last step of an epoch takes what is left.
class epoch_order {
 public:
  /// Expects examples >= 1, batch_size >= 1.
  epoch_order(std::size_t examples, std::size_t batch_size, std::uint64_t seed)
      : order_(examples), batch_size_(batch_size), seed_(seed) {
    expects(examples >= 1, "a dataset of at least one example", examples);
    expects(batch_size >= 1, "batch_size >= 1", batch_size);
    shuffle_epoch(0);
  }

  std::size_t steps_per_epoch() const noexcept {
    return order_.size() / batch_size_ + (order_.size() % batch_size_ != 0 ? 1 : 0);
  }

  /// Steps in `epochs` epochs, rounded up to a whole step.
  std::size_t steps_in(double epochs) const {
    return static_cast<std::size_t>(std::ceil(epochs * static_cast<double>(steps_per_epoch())));
  }

  /// Examples that the steps before this one took.
  std::size_t examples_before(std::size_t number) const noexcept {
    return number / steps_per_epoch() * order_.size() + number % steps_per_epoch() * batch_size_;
  }

  /// The dataset indices of a step, in order; valid until the next call. Allocates nothing; O(examples) when the epoch
  /// differs from the last call's, O(1) otherwise.
  std::span<std::size_t const> step(std::size_t number) {
    shuffle_epoch(number / steps_per_epoch());
    std::size_t const first = number % steps_per_epoch() * batch_size_;
    return std::span<std::size_t const>(order_).subspan(first, (std::min)(batch_size_, order_.size() - first));
  }

 private:
  void shuffle_epoch(std::size_t epoch) {
    if (epoch == epoch_) return;
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    shuffle(order_, random_stream(seed_, epoch));
    epoch_ = epoch;
  }

  std::vector<std::size_t> order_;
  std::size_t batch_size_;
  std::uint64_t seed_;
  std::size_t epoch_ = (std::numeric_limits<std::size_t>::max)();
};

/// A dataset whose elements are read as Example, whatever they convert from.
template <class Example, class Dataset>
struct rows_as {
  Dataset const& data;

  std::size_t size() const { return static_cast<std::size_t>(data.size()); }
  Example operator[](std::size_t i) const { return data[i]; }
};

/// Some whole examples of a step, to be run through the model at once. For pairs, sequences 2i and 2i + 1 are the
/// chosen and the rejected response of examples[i].
struct micro_batch {
  sequences_view sequences;
  std::span<std::size_t const> examples;  // (examples) indices into the dataset
  std::span<double const> margins;        // (pairs), else empty
  std::span<std::uint8_t const> desirable = {};  // (examples) of judged completions, else empty
  std::span<double const> weights = {};          // (examples) of judged completions, else empty
  std::span<std::uint8_t const> labels = {};     // (tokens) of solutions in steps, read where the mask is 1; else empty
};

/// The examples of one optimiser step as token sequences, cut into micro-batches in the order in which they came: an
/// example opens the next micro-batch if it would carry the current one over the token budget; one that is longer than
/// the budget stands alone; a pair is never parted. All totals are known before the first micro-batch is run, which is
/// what makes gradient accumulation equal to the full batch. clear() keeps the memory.
class step_batches {
 public:
  /// `micro_batch_tokens` counts prompt and completion tokens; 0 sets no limit.
  explicit step_batches(std::size_t micro_batch_tokens) : budget_(micro_batch_tokens) {}

  void clear() noexcept {
    used_ = 0;
    examples_ = sequences_ = tokens_ = supervised_ = 0;
  }

  /// Appends one example; `index` is its place in the dataset. A contract_violation names it if the prompt or a
  /// completion is empty: nothing in it could be learnt.
  void push_back(demonstration const& d, std::size_t index) {
    check(d.prompt, "prompt", index);
    check(d.completion, "completion", index);
    piece& p = open(d.prompt.size() + d.completion.size());
    append(p, d.prompt, d.completion);
    finish(p, index);
  }

  void push_back(preference_pair const& d, std::size_t index) {
    check(d.prompt, "prompt", index);
    check(d.chosen, "chosen response", index);
    check(d.rejected, "rejected response", index);
    piece& p = open(2 * d.prompt.size() + d.chosen.size() + d.rejected.size());
    append(p, d.prompt, d.chosen);
    append(p, d.prompt, d.rejected);
    p.margins.push_back(d.margin);
    finish(p, index);
  }

  void push_back(judged_completion const& d, std::size_t index) {
    check(d.prompt, "prompt", index);
    check(d.completion, "completion", index);
    piece& p = open(d.prompt.size() + d.completion.size());
    append(p, d.prompt, d.completion);
    p.desirable.push_back(d.desirable ? 1 : 0);
    p.weights.push_back(d.weight);
    finish(p, index);
  }

  /// The mask is 1 on the token after each step's end, where a ValueModel has read the step and nothing more; so that
  /// the last step has such a token too, the sequence ends in one that nothing looks at.
  void push_back(stepwise_completion const& d, std::size_t index) {
    check(d.prompt, "prompt", index);
    check(d.completion, "completion", index);
    check_steps(d, index);
    piece& p = open(d.prompt.size() + d.completion.size() + 1);
    scratch_tokens_.assign(d.prompt.begin(), d.prompt.end());
    scratch_tokens_.insert(scratch_tokens_.end(), d.completion.begin(), d.completion.end());
    scratch_tokens_.push_back(d.completion.back());
    scratch_mask_.assign(scratch_tokens_.size(), 0);
    std::size_t const first = p.tokens.total_tokens();
    p.labels.resize(first + scratch_tokens_.size(), 0);
    for (std::size_t i = 0; i < d.step_ends.size(); ++i) {
      std::size_t const after = d.prompt.size() + d.step_ends[i];
      scratch_mask_[after] = 1;
      p.labels[first + after] = d.labels[i];
    }
    p.tokens.push_back_masked(scratch_tokens_, scratch_mask_);
    ++sequences_;
    tokens_ += scratch_tokens_.size();
    supervised_ += d.step_ends.size();
    finish(p, index);
  }

  /// Number of micro-batches.
  std::size_t size() const noexcept { return used_; }
  micro_batch operator[](std::size_t i) const noexcept {
    piece const& p = pieces_[i];
    return {p.tokens.view(), p.examples, p.margins, p.desirable, p.weights, p.labels};
  }

  std::size_t examples() const noexcept { return examples_; }
  std::size_t sequences() const noexcept { return sequences_; }
  std::size_t tokens() const noexcept { return tokens_; }
  std::size_t supervised_tokens() const noexcept { return supervised_; }

 private:
  struct piece {
    attune::sequences tokens;
    std::vector<std::size_t> examples;
    std::vector<double> margins;
    std::vector<std::uint8_t> desirable;
    std::vector<double> weights;
    std::vector<std::uint8_t> labels;
  };

  static void check(std::span<token_id const> part, char const* what, std::size_t index) {
    if (part.empty()) [[unlikely]]
      throw contract_violation("example " + std::to_string(index) + ": its " + what +
                               " has no token, so there is nothing to learn from it");
  }

  static void check_steps(stepwise_completion const& d, std::size_t index) {
    auto const refuse = [&](std::string const& what) {
      throw contract_violation("example " + std::to_string(index) + ": " + what);
    };
    if (d.step_ends.empty()) refuse("it has no step, so there is nothing to learn from it");
    if (d.labels.size() != d.step_ends.size())
      refuse("it has " + std::to_string(d.step_ends.size()) + " steps and " + std::to_string(d.labels.size()) +
             " labels");
    for (std::size_t i = 0; i < d.step_ends.size(); ++i) {
      if (d.step_ends[i] <= (i == 0 ? 0 : d.step_ends[i - 1]) || d.step_ends[i] > d.completion.size())
        refuse("step " + std::to_string(i) + " ends at token " + std::to_string(d.step_ends[i]) +
               ", expected ends in ascending order within the completion");
      if (d.labels[i] > 1)
        refuse("label " + std::to_string(i) + " is " + std::to_string(d.labels[i]) + ", expected 0 or 1");
    }
  }

  piece& open(std::size_t tokens) {
    bool const full =
        used_ == 0 || (budget_ > 0 && pieces_[used_ - 1].tokens.total_tokens() + tokens > budget_);
    if (full) {
      if (used_ == pieces_.size()) pieces_.emplace_back();
      piece& fresh = pieces_[used_++];
      fresh.tokens.clear();
      fresh.examples.clear();
      fresh.margins.clear();
      fresh.desirable.clear();
      fresh.weights.clear();
      fresh.labels.clear();
    }
    return pieces_[used_ - 1];
  }

  void append(piece& p, std::span<token_id const> prompt, std::span<token_id const> completion) {
    p.tokens.push_back(prompt, completion);
    ++sequences_;
    tokens_ += prompt.size() + completion.size();
    supervised_ += completion.size();
  }

  void finish(piece& p, std::size_t index) {
    p.examples.push_back(index);
    ++examples_;
  }

  std::size_t budget_;
  std::vector<piece> pieces_;
  std::vector<token_id> scratch_tokens_;
  std::vector<std::uint8_t> scratch_mask_;
  std::size_t used_ = 0;
  std::size_t examples_ = 0, sequences_ = 0, tokens_ = 0, supervised_ = 0;
};

}  // namespace attune
