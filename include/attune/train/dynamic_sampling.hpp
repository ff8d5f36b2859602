// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/train/rollout.hpp>

/// Dynamic sampling (Yu et al. 2025, DAPO, section 3.2): a group of responses whose scores are all equal has advantages
/// of 0 and teaches nothing, so it is dropped and another prompt drawn in its place. The more prompts a policy always
/// solves, the more of an update's batch would otherwise be spent on nothing.
///
/// Deviations from VERL's: as many prompts are drawn as groups are missing, where VERL draws whole batches and throws
/// away what is over; they are drawn from the whole dataset, with replacement, and do not use up the epoch. Equal are
/// scores, as the reward model, missing_eos and the overlong penalty leave them; a KL in the reward does not make them
/// differ.
namespace attune {

/// Appends to `kept` those groups of `from`, num_generations responses one after the other, whose scores are not all
/// equal, and counts the others in kept.dropped_groups; what is true of all that was drawn (new_tokens,
/// generation_seconds, drawn_scores, sampler_log_ratio) adds up over both. Expects whole groups.
inline void keep_unequal_groups(rollout const& from, std::size_t num_generations, rollout& kept) {
  sequences_view const s = from.responses;
  expects(num_generations >= 1 && s.size() % num_generations == 0,
          "keep_unequal_groups: whole groups of num_generations", s.size());
  kept.sampler_log_ratio.add(from.sampler_log_ratio);
  kept.drawn_scores.add(from.drawn_scores);
  kept.new_tokens += from.new_tokens;
  kept.generation_seconds += from.generation_seconds;
  for (std::size_t first = 0; first < s.size(); first += num_generations) {
    std::size_t const last = first + num_generations;
    std::span<double const> const scores(from.scores);
    if (std::ranges::all_of(scores.subspan(first, num_generations), [&](double x) { return x == scores[first]; })) {
      ++kept.dropped_groups;
      continue;
    }
    auto const append = [&](auto const& values, auto& to, std::size_t begin, std::size_t end) {
      to.insert(to.end(), values.begin() + static_cast<std::ptrdiff_t>(begin),
                values.begin() + static_cast<std::ptrdiff_t>(end));
    };
    for (std::size_t b = first; b < last; ++b) kept.responses.push_back_masked(s.sequence(b), s.sequence_mask(b));
    append(from.prompts, kept.prompts, first, last);
    append(from.finished, kept.finished, first, last);
    append(from.scores, kept.scores, first, last);
    append(from.logps, kept.logps, s.offsets[first], s.offsets[last]);
    append(from.ref_logps, kept.ref_logps, s.offsets[first], s.offsets[last]);
  }
}

/// Draws the responses of an update round by round, until no group is missing or max_resamples further rounds are
/// spent. Keeps its memory.
class dynamic_sampling {
 public:
  /// `max_resamples` 0: the first round is all there is, and nothing is dropped.
  dynamic_sampling(std::size_t max_resamples, std::size_t num_generations, std::uint64_t seed)
      : max_resamples_(max_resamples), num_generations_(num_generations), seed_(seed) {}

  /// Fills `out` with the groups of `examples` that teach, and of further prompts for those that do not; none is left
  /// if no group of any round does. The random streams of a round are functions of seed, update, round and
  /// `first_response`, the number that the update's first response has in a run without further rounds. `collect` is a
  /// rollout_collector, whose errors pass through.
  template <class Collect, PromptDataset D>
  void operator()(Collect& collect, D const& prompts, std::span<std::size_t const> examples, std::uint64_t update,
                  std::uint64_t first_response, rollout& out) {
    if (max_resamples_ == 0) return collect(prompts, examples, first_response, out);
    clear(out);
    collect(prompts, examples, first_response, round_);
    keep_unequal_groups(round_, num_generations_, out);
    for (std::size_t round = 1; round <= max_resamples_; ++round) {
      std::size_t const missing = examples.size() - out.responses.size() / num_generations_;
      if (missing == 0) return;
      further_.resize(missing);
      random_stream draw(seed_, first_prompt_stream + update * prompt_streams_per_update + round);
      std::uint64_t const size = static_cast<std::size_t>(prompts.size());
      for (std::size_t& example : further_) example = static_cast<std::size_t>(draw.below(size));
      collect(prompts, further_, round * responses_per_round + first_response, round_);
      keep_unequal_groups(round_, num_generations_, out);
    }
  }

 private:
  // The orders of the data take the random streams from 0 up; rollout_collector says who has the upper half, of which
  // each round takes a part of its own.
  static constexpr std::uint64_t first_prompt_stream = std::uint64_t{1} << 61;
  static constexpr std::uint64_t prompt_streams_per_update = 1024;
  static constexpr std::uint64_t responses_per_round = std::uint64_t{1} << 48;

  static void clear(rollout& out) noexcept {
    out.responses.clear();
    out.prompts.clear();
    out.finished.clear();
    out.logps.clear();
    out.ref_logps.clear();
    out.scores.clear();
    out.sampler_log_ratio = out.drawn_scores = {};
    out.new_tokens = out.dropped_groups = 0;
    out.generation_seconds = 0.0;
  }

  std::size_t max_resamples_, num_generations_;
  std::uint64_t seed_;
  rollout round_;
  std::vector<std::size_t> further_;
};

}  // namespace attune
