// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>

#include <attune/core/contract.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite.hpp>
#include <attune/objective/pairwise/f_divergence.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>
#include <attune/objective/value_and_slope.hpp>

/// A pairwise loss over a batch of pairs.
namespace attune {

/// Log-probabilities of whole completions: sums over their tokens (sequence_sums), under the policy and the reference.
/// What a loss does not read (pair_inputs) may be empty.
template <class T>
struct pair_logps {
  std::span<T const> chosen;             // (pairs)
  std::span<T const> rejected;           // (pairs)
  std::span<T const> ref_chosen = {};    // (pairs)
  std::span<T const> ref_rejected = {};  // (pairs)
  std::span<std::size_t const> chosen_tokens = {};    // (pairs) tokens in the completion; >= 1
  std::span<std::size_t const> rejected_tokens = {};  // (pairs)
  std::span<double const> weights = {};  // (pairs) of each pair's loss, held fixed; >= 0; empty is all 1. See wpo.hpp
};

/// Denominators: those of the whole optimiser step, over all of its micro-batches and ranks. 0 means that this batch is
/// all of it.
struct pair_totals {
  std::size_t pairs = 0;
  std::size_t chosen_tokens = 0;  ///< read by losses per_chosen_token alone
};

/// How the log-ratios of all pairs of a batch are taken.
struct pair_ratios {
  f_divergence_options divergence = {};  ///< other than reverse_kl for losses that read().divergence alone
  /// Losses see the policy's log-probabilities in the place of log-ratios, as if the reference were uniform; refused
  /// for a loss that has no reference anyway.
  bool reference_free = false;
};

/// Throws contract_violation for what the loss would ignore.
template <class O>
void validate(pair_ratios const& ratios, O const& options) {
  pair_inputs const reads = options.reads();
  auto const refuse = [](char const* option) {
    throw contract_violation(std::string(option) + " has no effect on the loss " + std::string(O::name));
  };
  validate(ratios.divergence);
  if (ratios.divergence.type != f_divergence_type::reverse_kl && !reads.divergence) refuse("an f-divergence");
  if (ratios.reference_free && !reads.reference) refuse("reference_free");
}

/// Some pairs, side by side, then what a loss says of them: a loop over it is one over numbers that alias nothing.
struct pair_block {
  static constexpr std::size_t size = 128;
  double chosen[size], rejected[size], chosen_tokens[size], rejected_tokens[size];
  double value[size], chosen_slope[size], rejected_slope[size];
  double chosen_bend[size], rejected_bend[size];

  /// Log-ratios become the rewards that a divergence implies; after pair_objectives, slopes in these become slopes in
  /// log-ratios.
  void bend(std::size_t count, f_divergence_options divergence) noexcept {
    for (std::size_t k = 0; k < count; ++k) {
      auto const c = f_divergence_score(chosen[k], divergence), r = f_divergence_score(rejected[k], divergence);
      chosen[k] = c.value;
      rejected[k] = r.value;
      chosen_bend[k] = c.slope;
      rejected_bend[k] = r.slope;
    }
  }
  void unbend(std::size_t count) noexcept {
    for (std::size_t k = 0; k < count; ++k) {
      chosen_slope[k] = saturate_cast<double>(chosen_slope[k] * chosen_bend[k]);
      rejected_slope[k] = saturate_cast<double>(rejected_slope[k] * rejected_bend[k]);
    }
  }
};

/// The objective of the first `count` pairs of a block. A loss may have a faster one beside its pair_objective, with
/// the same bits: see dpo.hpp.
template <class O>
void pair_objectives(pair_block& block, std::size_t count, O const& options) noexcept {
  for (std::size_t k = 0; k < count; ++k) {
    pair_value_and_slopes<double> const one =
        pair_objective(response_pair<double>{block.chosen[k], block.rejected[k], block.chosen_tokens[k],
                                             block.rejected_tokens[k]}, options);
    block.value[k] = one.value;
    block.chosen_slope[k] = one.chosen;
    block.rejected_slope[k] = one.rejected;
  }
}

/// The pairs of a batch, checked and in double: what a batch loss runs over.
template <class T>
class pair_batch {
 public:
  /// Throws contract_violation, naming field and pair, unless sizes agree, all that is read is finite, lengths are >= 1
  /// and totals are not smaller than the batch. `caller` is for messages.
  pair_batch(pair_logps<T> const& logps, pair_slopes<T> const& slopes, pair_inputs reads, pair_ratios const& ratios,
             pair_totals totals, char const* caller)
      : logps_(logps), reads_(reads) {
    std::string const who(caller);
    std::size_t const pairs = logps.chosen.size();
    auto const sized = [&](auto values, char const* name) {
      if (values.size() != pairs)
        throw contract_violation("expected " + who + ": " + name + ".size() == chosen.size(), got " +
                                 std::to_string(values.size()));
    };
    auto const finite = [&](auto values, char const* name) {
      sized(values, name);
      if (!all_finite(values)) expects_finite(values, (who + ": " + name).c_str());
    };
    if (pairs == 0) throw contract_violation("expected " + who + ": at least one pair");
    reads_.reference = reads.reference && !ratios.reference_free;
    sized(slopes.chosen, "slopes.chosen");
    sized(slopes.rejected, "slopes.rejected");
    finite(logps.chosen, "chosen");
    finite(logps.rejected, "rejected");
    if (reads_.reference) {
      finite(logps.ref_chosen, "ref_chosen");
      finite(logps.ref_rejected, "ref_rejected");
    }
    if (reads_.lengths) {
      auto const at_least_one = [&](std::span<std::size_t const> tokens, char const* name) {
        sized(tokens, name);
        for (std::size_t i = 0; i < pairs; ++i)
          if (tokens[i] == 0)
            throw contract_violation("expected " + who + ": " + name + "[" + std::to_string(i) + "] >= 1, got 0");
      };
      at_least_one(logps.chosen_tokens, "chosen_tokens");
      at_least_one(logps.rejected_tokens, "rejected_tokens");
    }
    if (!logps.weights.empty()) {
      finite(logps.weights, "weights");
      for (std::size_t i = 0; i < pairs; ++i)
        if (logps.weights[i] < 0.0)
          throw contract_violation("expected " + who + ": weights[" + std::to_string(i) + "] >= 0, got " +
                                   std::to_string(logps.weights[i]));
    }
    std::size_t own = pairs, total = totals.pairs;
    if (reads_.per_chosen_token) {
      own = 0;
      for (std::size_t const tokens : logps.chosen_tokens) own += tokens;
      total = totals.chosen_tokens;
    }
    if (total != 0 && total < own)
      throw contract_violation("expected " + who + ": " +
                               (reads_.per_chosen_token ? "total chosen_tokens" : "total_pairs") +
                               " >= those of the batch, got " + std::to_string(total));
    total_ = static_cast<double>(total == 0 ? own : total);
  }

  std::size_t size() const noexcept { return logps_.chosen.size(); }
  double total() const noexcept { return total_; }
  double weight(std::size_t i) const noexcept { return logps_.weights.empty() ? 1.0 : logps_.weights[i]; }

  /// Pairs [first, first + count) as a loss sees them.
  void gather(std::size_t first, std::size_t count, pair_block& out) const noexcept {
    ratios(logps_.chosen, logps_.ref_chosen, first, count, out.chosen);
    ratios(logps_.rejected, logps_.ref_rejected, first, count, out.rejected);
    for (std::size_t k = 0; k < count; ++k) {
      out.chosen_tokens[k] = reads_.lengths ? static_cast<double>(logps_.chosen_tokens[first + k]) : 1.0;
      out.rejected_tokens[k] = reads_.lengths ? static_cast<double>(logps_.rejected_tokens[first + k]) : 1.0;
    }
  }

 private:
  void ratios(std::span<T const> policy, std::span<T const> reference, std::size_t first, std::size_t count,
              double* out) const noexcept {
    if (reads_.reference)
      for (std::size_t k = 0; k < count; ++k)
        out[k] =
            saturate_cast<double>(static_cast<double>(policy[first + k]) - static_cast<double>(reference[first + k]));
    else
      for (std::size_t k = 0; k < count; ++k) out[k] = static_cast<double>(policy[first + k]);
  }

  pair_logps<T> const& logps_;
  pair_inputs reads_;
  double total_ = 0.0;
};

/// Sum over this batch of the pairs' losses / total_pairs (per_chosen_token: / total chosen tokens); overwrites the
/// slopes with its derivatives with respect to the policy's log-probabilities (the reference gets none).
///
/// Expects a pair or more, equal sizes, finite log-probabilities, lengths >= 1 where they are read, totals not smaller
/// than this batch. Slopes may be the memory of the log-probabilities they belong to. The arithmetic is in double, left
/// to right; what lies beyond T's range is T's largest number. Allocates nothing; writes nothing if it throws.
template <class T, PairObjective O>
T pair_loss(pair_logps<T> logps, pair_slopes<T> slopes, O const& options, pair_totals totals = {},
            pair_ratios ratios = {}) {
  validate(options);
  validate(ratios, options);
  pair_batch<T> const batch(logps, slopes, options.reads(), ratios, totals, "pair_loss");
  double loss = 0.0;
  bool const bent = ratios.divergence.type != f_divergence_type::reverse_kl;
  pair_block block;
  for (std::size_t first = 0; first < batch.size(); first += pair_block::size) {
    std::size_t const count = (std::min)(pair_block::size, batch.size() - first);
    batch.gather(first, count, block);
    if (bent) block.bend(count, ratios.divergence);
    pair_objectives(block, count, options);
    if (bent) block.unbend(count);
    if (!logps.weights.empty())
      for (std::size_t k = 0; k < count; ++k) {
        double const weight = logps.weights[first + k];
        block.value[k] = saturate_cast<double>(weight * block.value[k]);
        block.chosen_slope[k] = saturate_cast<double>(weight * block.chosen_slope[k]);
        block.rejected_slope[k] = saturate_cast<double>(weight * block.rejected_slope[k]);
      }
    for (std::size_t k = 0; k < count; ++k) block.value[k] /= batch.total();
    for (std::size_t k = 0; k < count; ++k) loss += block.value[k];
    for (std::size_t k = 0; k < count; ++k)
      slopes.chosen[first + k] = saturate_cast<T>(block.chosen_slope[k] / batch.total());
    for (std::size_t k = 0; k < count; ++k)
      slopes.rejected[first + k] = saturate_cast<T>(block.rejected_slope[k] / batch.total());
  }
  return saturate_cast<T>(loss);
}

}  // namespace attune
