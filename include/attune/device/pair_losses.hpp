// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <attune/core/host_device.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/thread_block.hpp>
#include <attune/objective/bradley_terry.hpp>
#include <attune/objective/pairwise/f_divergence.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>
#include <attune/objective/value_and_slope.hpp>

/// Losses over pairs, where the numbers lie: the scalar objectives of objective/ mapped over device memory, a thread a
/// pair, any grid. Arithmetic in double, as on the host; a number beyond float's range is float's largest. Each block's
/// share of the loss goes to partials[block], which sum_partials adds up. Options are validated on the host, before the
/// launch.
namespace attune::device {

/// What one pair adds to the loss of the step, with its slopes in the log-ratios, bent by a divergence or not.
template <PairObjective O>
[[nodiscard]] ATTUNE_HOST_DEVICE pair_value_and_slopes<double> share_of_pair(response_pair<double> p, O const& options,
                                                                             f_divergence_options const& divergence,
                                                                             double weight, double total) noexcept {
  bool const bent = divergence.type != f_divergence_type::reverse_kl;
  double chosen_bend = 1.0, rejected_bend = 1.0;
  if (bent) {
    auto const c = f_divergence_score(p.chosen, divergence), r = f_divergence_score(p.rejected, divergence);
    p.chosen = c.value;
    p.rejected = r.value;
    chosen_bend = c.slope;
    rejected_bend = r.slope;
  }
  pair_value_and_slopes<double> const one = pair_objective(p, options);
  auto const slope = [&](double of_score, double bend) {
    double const of_ratio = bent ? saturate_cast<double>(of_score * bend) : of_score;
    return saturate_cast<double>(weight * of_ratio) / total;
  };
  return {saturate_cast<double>(weight * one.value) / total, slope(one.chosen, chosen_bend),
          slope(one.rejected, rejected_bend)};
}

/// pair_loss: O is any loss of objective/pairwise with a pair_objective (dpo_options, ipo_options, simpo_options ...).
/// What the loss does not read may be null. Slopes may be the memory of the log-probabilities they belong to.
template <PairObjective O>
struct pair_losses {
  O options;
  std::size_t pairs;
  double total;         // pairs of the whole step, or its chosen tokens: see pair_totals
  float const* chosen;  // (pairs) log-probabilities, as pair_logps has them
  float const* rejected;
  float const* ref_chosen = nullptr;  // null: reference-free
  float const* ref_rejected = nullptr;
  std::size_t const* chosen_tokens = nullptr;
  std::size_t const* rejected_tokens = nullptr;
  double const* weights = nullptr;
  float* chosen_slopes;  // (pairs)
  float* rejected_slopes;
  double* partials;  // (blocks)
  f_divergence_options divergence = {};

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    std::size_t const threads = std::size_t{block.blocks()} * block.threads();
    double loss = 0.0;
    for (std::size_t i = std::size_t{block.block()} * block.threads() + block.thread(); i < pairs; i += threads) {
      response_pair<double> p{log_ratio(block, chosen, ref_chosen, i), log_ratio(block, rejected, ref_rejected, i),
                              length(block, chosen_tokens, i), length(block, rejected_tokens, i)};
      double const weight = weights == nullptr ? 1.0 : block.load(weights + i);
      pair_value_and_slopes<double> const one = share_of_pair(p, options, divergence, weight, total);
      loss += one.value;
      block.store(chosen_slopes + i, saturate_cast<float>(one.chosen));
      block.store(rejected_slopes + i, saturate_cast<float>(one.rejected));
    }
    loss = block_sum(block, loss);
    if (block.thread() == 0) block.store(partials + block.block(), loss);
  }

 private:
  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE static double log_ratio(B const& block, float const* policy, float const* reference,
                                             std::size_t i) {
    double const logp = static_cast<double>(block.load(policy + i));
    return reference == nullptr ? logp : saturate_cast<double>(logp - static_cast<double>(block.load(reference + i)));
  }
  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE static double length(B const& block, std::size_t const* tokens, std::size_t i) {
    return tokens == nullptr ? 1.0 : static_cast<double>(block.load(tokens + i));
  }
};

/// bradley_terry_loss: the reward model's, on scores. Slopes may be the memory of the scores they belong to.
struct bradley_terry_losses {
  bradley_terry_options options;
  std::size_t pairs;
  double total;         // pairs of the whole step
  float const* chosen;  // (pairs) scores
  float const* rejected;
  double const* margin = nullptr;
  float* chosen_slopes;  // (pairs)
  float* rejected_slopes;
  double* partials;  // (blocks)

  template <ThreadBlock B>
  ATTUNE_HOST_DEVICE void operator()(B const& block) const {
    std::size_t const threads = std::size_t{block.blocks()} * block.threads();
    double loss = 0.0;
    for (std::size_t i = std::size_t{block.block()} * block.threads() + block.thread(); i < pairs; i += threads) {
      auto const one = bradley_terry_objective(static_cast<double>(block.load(chosen + i)),
                                               static_cast<double>(block.load(rejected + i)),
                                               margin == nullptr ? 0.0 : block.load(margin + i), options);
      loss += one.value / total;
      block.store(chosen_slopes + i, saturate_cast<float>(one.chosen / total));
      block.store(rejected_slopes + i, saturate_cast<float>(one.rejected / total));
    }
    loss = block_sum(block, loss);
    if (block.thread() == 0) block.store(partials + block.block(), loss);
  }
};

}  // namespace attune::device
