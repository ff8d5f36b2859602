// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include <attune/concepts/backend.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/core/statistics.hpp>
#include <attune/core/view.hpp>
#include <attune/objective/expects_finite_tokens.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/loss_on_logits.hpp>

/// The exact Kullback-Leibler divergence to a reference, over the whole vocabulary, as a regulariser beside any loss on
/// logits: no sampling noise, where the estimators of kl.hpp see the drawn token alone. Like them it speaks of one
/// token given those before it, and leaves out what a token owes to the KL of later ones.
///
///   T loss = loss_on_logits(backend, objective, logits, batch, dlogits, workspace);
///   loss += kl_on_logits(backend, logits, ref_logits, batch, dlogits, workspace, {.coef = 0.05});
namespace attune {

struct exact_kl_options {
  double coef = 0.1;  ///< weight of the divergence in the loss; > 0 and finite
  kl_direction direction = kl_direction::reverse;  ///< KL(pi || ref), or forward: KL(ref || pi)
  loss_aggregation aggregation = loss_aggregation::token_mean;  ///< from tokens to the step
};

/// Throws contract_violation naming the field and its value.
inline void validate(exact_kl_options const& o) {
  expects(o.coef > 0.0 && o.coef <= (std::numeric_limits<double>::max)(), "exact_kl_options.coef > 0 and finite",
          o.coef);
}

/// This batch's share of the step's coef KL, summed over masked-in tokens with the weights of the aggregation; the
/// shares of a step's micro-batches add up to it. Adds its gradient to dlogits (T, V), which therefore holds numbers
/// already: that of another loss, or 0. Nothing flows to the reference. Per row of logits x, with p and q the softmax
/// of x and of its reference (F.kl_div of PyTorch, log_target and reduction "sum", has them the same way round under
/// other names):
///
///   reverse  KL(p || q)   slope in x  p (log p - log q - KL)      forward  KL(q || p)   slope in x  p - q
///
/// Rows belong to tokens as in loss_on_logits; those that predict nothing are neither read nor touched. A logit of
/// -inf (a masked vocabulary entry) is a probability of 0: 0 log 0 is 0, its gradient exactly 0.
///
/// Expects logits, ref_logits and dlogits of batch.total_tokens() rows and equal cols, dlogits in memory of its own;
/// totals as loss_aggregation.hpp has them, where both counts 0 mean that this batch is all of the step. Where the
/// divergence is not finite (a probability meets a 0, a row without a distribution) a contract_violation names the
/// token, and dlogits is untouched. Adds the tokens' divergences to *kl if it is not null. Sums in double, left to
/// right; a number beyond T's range is T's largest. Allocates nothing once the workspace has seen a batch as large.
template <Backend B>
typename B::scalar kl_on_logits(B& backend, matrix_view<typename B::storage const> logits,
                                matrix_view<typename B::storage const> ref_logits, sequences_view batch,
                                matrix_view<typename B::storage> dlogits, loss_workspace<typename B::scalar>& workspace,
                                exact_kl_options options = {}, aggregation_totals totals = {},
                                metric_sum* kl = nullptr) {
  using T = typename B::scalar;
  validate(options);
  validate(batch, logits.cols);
  expects(batch.size() > 0, "kl_on_logits: at least one sequence");
  expects(logits.rows == batch.total_tokens(), "kl_on_logits: logits.rows == batch.total_tokens()", logits.rows);
  expects(ref_logits.rows == logits.rows, "kl_on_logits: ref_logits.rows == logits.rows", ref_logits.rows);
  expects(ref_logits.cols == logits.cols, "kl_on_logits: ref_logits.cols == logits.cols", ref_logits.cols);
  expects(dlogits.rows == logits.rows, "kl_on_logits: dlogits.rows == logits.rows", dlogits.rows);
  expects(dlogits.cols == logits.cols, "kl_on_logits: dlogits.cols == logits.cols", dlogits.cols);
  if (totals.tokens == 0 && totals.sequences == 0) {
    double const constant_length = totals.constant_length;
    totals = aggregation_totals_of(batch);
    totals.constant_length = constant_length;
  }
  validate(options.aggregation, totals, batch);

  loss_workspace<T>& w = workspace;
  w.prepare(batch, {});
  w.ref_log_normalizers.assign(batch.total_tokens() + 1, T(0));
  row_kl<T> const rows{w.by_row(w.logps), w.by_row(w.log_normalizers), w.by_row(w.ref_log_normalizers)};
  backend.token_kl(logits, ref_logits, w.targets, options.direction, rows);
  std::span<T const> const divergences = w.by_token(w.logps);  // where log-probabilities are with other losses
  expects_finite_tokens(divergences, batch, "kl_on_logits: kl");
  std::span<T> const slopes = w.by_token(w.slopes);
  double loss = 0.0;
  for (std::size_t b = 0; b < batch.size(); ++b) {
    double const weight =
        options.coef * token_weight(options.aggregation, totals, completion_tokens(batch.sequence_mask(b)));
    for (std::size_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
      if (batch.mask[t] == 0) continue;
      double const divergence = static_cast<double>(divergences[t]);
      loss = saturate_cast<double>(loss + saturate_cast<double>(weight * divergence));
      slopes[t] = saturate_cast<T>(weight);
      if (kl != nullptr) kl->add(divergence);
    }
  }
  backend.token_kl_adjoint(logits, ref_logits, w.targets, options.direction,
                           row_kl<T const>{rows.kl, rows.log_normalizers, rows.ref_log_normalizers}, w.by_row(w.slopes),
                           dlogits);
  return saturate_cast<T>(loss);
}

}  // namespace attune
