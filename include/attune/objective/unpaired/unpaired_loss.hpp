// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include <attune/core/contract.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite.hpp>
#include <attune/objective/value_and_slope.hpp>

/// A batch of single responses, each called desirable or undesirable, under any of the objectives beside this file:
/// kto, bco, apo_zero_unpaired. One of your own is an options type with the three functions of UnpairedObjective.
namespace attune {

/// Options that name an objective of one response. For  o  of type O, found beside O:
///   validate(o)                                             throws contract_violation naming field and value
///   validate_baseline(o, baseline)                          likewise, for a baseline that it cannot use
///   unpaired_objective(log_ratio, desirable, o, baseline)   the loss and d loss / d log_ratio
/// Modelled by: kto_options, bco_options, apo_zero_unpaired_options.
template <class O>
concept UnpairedObjective = requires(O const& o, double x, bool desirable) {
  validate(o);
  validate_baseline(o, x);
  { unpaired_objective(x, desirable, o, x) } -> std::same_as<value_and_slope<double>>;
};

/// Log-probabilities of whole completions: sums over their tokens (sequence_sums), under the policy and the reference.
template <class T>
struct unpaired_logps {
  std::span<T const> logps;                 // (examples) under the policy
  std::span<T const> ref_logps;             // (examples) under the reference
  std::span<std::uint8_t const> desirable;  // (examples) 1 or 0
  std::span<double const> weights = {};     // (examples) factor of its loss, >= 0; empty is all 1
};

/// Sum over this batch of the examples' losses / total_examples; overwrites the slopes with its derivatives with
/// respect to the policy's log-probabilities (the reference gets none). total_examples is that of the whole optimiser
/// step, over all of its micro-batches and ranks; 0 means that this batch is all of it. Weights do not change the
/// denominator, as in TRL.
///
/// `baseline` is what gains are measured from, the same number for all micro-batches of a step and not differentiated:
/// kto_kl(...) for KTO, bco_delta.mean for BCO, 0 for APO-zero.
///
/// Expects an example or more, equal sizes, finite log-probabilities, total_examples not smaller than this batch.
/// Slopes may be the memory of logps. The arithmetic is in double, left to right; a number beyond T's range is T's
/// largest. Allocates nothing; writes nothing if it throws.
template <class T, UnpairedObjective O>
T unpaired_loss(unpaired_logps<T> of, std::span<T> slopes, O const& options, double baseline,
                std::size_t total_examples = 0) {
  validate(options);
  validate_baseline(options, baseline);
  std::size_t const examples = of.logps.size();
  expects(examples > 0, "unpaired_loss: at least one example");
  expects(of.ref_logps.size() == examples, "unpaired_loss: ref_logps.size() == logps.size()", of.ref_logps.size());
  expects(of.desirable.size() == examples, "unpaired_loss: desirable.size() == logps.size()", of.desirable.size());
  expects(of.weights.empty() || of.weights.size() == examples, "unpaired_loss: weights.size() == logps.size()",
          of.weights.size());
  expects(slopes.size() == examples, "unpaired_loss: slopes.size() == logps.size()", slopes.size());
  expects(total_examples == 0 || total_examples >= examples, "unpaired_loss: total_examples >= logps.size()",
          total_examples);
  expects_finite(of.logps, "unpaired_loss: logps");
  expects_finite(of.ref_logps, "unpaired_loss: ref_logps");
  expects_finite(of.weights, "unpaired_loss: weights");
  auto const refuse = [](char const* field, std::size_t i, char const* what, std::string const& got) {
    throw contract_violation(std::string("expected unpaired_loss: ") + field + "[" + std::to_string(i) + "] " + what +
                             ", got " + got);
  };
  for (std::size_t i = 0; i < examples; ++i) {
    if (of.desirable[i] > 1) refuse("desirable", i, "0 or 1", std::to_string(of.desirable[i]));
    if (!of.weights.empty() && of.weights[i] < 0.0) refuse("weights", i, ">= 0", std::to_string(of.weights[i]));
  }

  double const total = static_cast<double>(total_examples == 0 ? examples : total_examples);
  double loss = 0.0;
  for (std::size_t i = 0; i < examples; ++i) {
    double const ratio =
        saturate_cast<double>(static_cast<double>(of.logps[i]) - static_cast<double>(of.ref_logps[i]));
    value_and_slope<double> const one = unpaired_objective(ratio, of.desirable[i] != 0, options, baseline);
    double const share = (of.weights.empty() ? 1.0 : of.weights[i]) / total;
    loss = saturate_cast<double>(loss + saturate_cast<double>(share * one.value));
    slopes[i] = saturate_cast<T>(share * one.slope);
  }
  return saturate_cast<T>(loss);
}

}  // namespace attune
