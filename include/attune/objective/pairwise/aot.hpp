// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/pairwise/pair_loss.hpp>
#include <attune/objective/pairwise/pair_objective.hpp>

/// Alignment via optimal transport (Melnyk et al. 2024, "Distributional preference alignment of LLMs via optimal
/// transport"): asks that the distribution of one quantity over a batch lie above that of another, quantile by
/// quantile, instead of pair by pair. A loss of the batch: there is no objective of one pair.
namespace attune {

/// Which distributions are compared.
enum class aot_comparison {
  paired,    ///< the policy's chosen less rejected log-probability above the reference's (section 3, "paired")
  unpaired,  ///< log-ratios of chosen responses above those of rejected ones; chosen[i] and rejected[i] need not belong
};

struct aot_options {
  static constexpr std::string_view name = "aot";
  double beta = 0.01;            ///< scale of the differences of quantiles; > 0
  double label_smoothing = 0.0;  ///< weight of the loss of the opposite order; [0, 1/2]
  aot_comparison comparison = aot_comparison::paired;

  static constexpr pair_inputs reads() noexcept { return {}; }
};

/// Throws contract_violation naming the field and its value.
inline void validate(aot_options const& o) {
  expects(o.beta > 0.0 && o.beta <= (std::numeric_limits<double>::max)(), "aot_options.beta > 0 and finite", o.beta);
  expects(o.label_smoothing >= 0.0 && o.label_smoothing <= 0.5, "aot_options.label_smoothing in [0, 0.5]",
          o.label_smoothing);
}

/// Scratch of aot_loss, kept between calls.
struct aot_workspace {
  std::vector<double> above, below;             // (pairs) what is to lie above, and below
  std::vector<std::size_t> above_at, below_at;  // (pairs) their orders

  void sort(std::span<double const> values, std::vector<std::size_t>& order) {
    order.resize(values.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    // Equal values in the order they came in, so that the slopes are a function of the numbers alone.
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return values[a] < values[b] || (values[a] == values[b] && a < b);
    });
  }
};

/// Mean over k of -(1 - e) log s(z_k) - e log s(-z_k), z_k = beta (k-th smallest above - k-th smallest below),
/// e = label_smoothing; overwrites the slopes with its derivatives with respect to the policy's log-probabilities. The
/// order is held fixed; where values tie the loss has a kink, and the slopes are those of the order in which they came.
///
/// Quantiles are the step's: a step in several micro-batches would sort each for itself and depend on the cut, so
/// total_pairs must be 0 or the batch's size. Other expectations as pair_loss has them. Allocates when a batch is
/// larger than any before; writes no slope if it throws.
template <class T>
T aot_loss(pair_logps<T> logps, pair_slopes<T> slopes, aot_options const& options, aot_workspace& w,
           pair_totals totals = {}, pair_ratios ratios = {}) {
  validate(options);
  validate(ratios, options);
  pair_batch<T> const batch(logps, slopes, options.reads(), ratios, totals, "aot_loss");
  std::size_t const pairs = batch.size();
  expects(totals.pairs == 0 || totals.pairs == pairs,
          "aot_loss: the pairs of a step in one batch, over which it sorts (a larger micro_batch_tokens, or a smaller "
          "batch_size); total_pairs",
          totals.pairs);
  bool const paired = options.comparison == aot_comparison::paired;
  w.above.resize(pairs);
  w.below.resize(pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    double const chosen = static_cast<double>(logps.chosen[i]), rejected = static_cast<double>(logps.rejected[i]);
    double const ref_chosen = ratios.reference_free ? 0.0 : static_cast<double>(logps.ref_chosen[i]);
    double const ref_rejected = ratios.reference_free ? 0.0 : static_cast<double>(logps.ref_rejected[i]);
    w.above[i] = saturate_cast<double>(paired ? chosen - rejected : chosen - ref_chosen);
    w.below[i] = saturate_cast<double>(paired ? ref_chosen - ref_rejected : rejected - ref_rejected);
  }
  w.sort(w.above, w.above_at);
  w.sort(w.below, w.below_at);
  double loss = 0.0;
  for (std::size_t k = 0; k < pairs; ++k) {
    std::size_t const a = w.above_at[k], b = w.below_at[k];
    double const z = pair_margin(w.above[a], w.below[b], options.beta);
    auto const plain = negative_log_sigmoid(z);
    auto const one = through_margin<double>(
        {plain.value + options.label_smoothing * z, plain.slope + options.label_smoothing}, options.beta);
    double const weight = batch.weight(a);
    loss += saturate_cast<double>(weight * one.value) / batch.total();
    double const slope = saturate_cast<double>(weight * one.chosen) / batch.total();
    slopes.chosen[a] = saturate_cast<T>(slope);
    if (paired) slopes.rejected[a] = saturate_cast<T>(-slope);
    else slopes.rejected[b] = saturate_cast<T>(-slope);
  }
  return saturate_cast<T>(loss);
}

}  // namespace attune
