// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include <attune/concepts/backend.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/view.hpp>
#include <attune/objective/expects_finite_tokens.hpp>
#include <attune/objective/token_objectives.hpp>

/// The door for another training framework: its logits, or its hidden states and output matrix, in; gradients out, in
/// the same kind of memory. The framework does the rest of the backward pass.
///
/// Row t of logits (or hidden) belongs to batch.tokens[t] and, as everywhere, predicts the token after it. The shift by
/// one is done here: the last row of a sequence and the rows before masked-out tokens have no target, cost nothing but
/// their zero gradient, and are never read, so NaN in them stays there.
namespace attune {

/// Scratch of the calls below, kept between them: nothing is allocated once it has seen a batch as large.
/// Arrays over tokens have one entry more than the batch: entry t + 1 is at once what row t predicts and what token
/// t + 1 got, so the shift moves no data.
template <class T>
struct loss_workspace {
  std::vector<token_id> targets;           // (tokens)
  std::vector<T> logps, slopes;            // (tokens + 1)
  std::vector<T> log_normalizers;          // (tokens + 1)
  std::vector<T> normalizer_slopes;        // (tokens + 1) for who reads the term, else empty; so the next three
  std::vector<T> mean_logps, mean_slopes;
  std::vector<T> entropies, entropy_slopes;
  std::vector<T> collisions;
  std::vector<T> ref_log_normalizers;      // (tokens + 1), kl_on_logits only
  std::vector<T> linear;                   // what the backend asks for, hidden states only
  token_terms terms = {};                  // of the batch that it was prepared for

  /// Sizes the arrays for a batch, sets the numbers to 0 and writes the targets.
  void prepare(sequences_view batch, token_terms wanted) {
    std::size_t const tokens = batch.total_tokens();
    targets.assign(tokens, no_target);
    for (std::size_t b = 0; b < batch.size(); ++b)
      for (std::size_t t = batch.offsets[b] + 1; t < batch.offsets[b + 1]; ++t)
        if (batch.mask[t] != 0) targets[t - 1] = batch.tokens[t];
    terms = wanted;
    auto const clear = [&](std::vector<T>& values, bool is_read) { values.assign(is_read ? tokens + 1 : 0, T(0)); };
    for (std::vector<T>* const values : {&logps, &slopes, &log_normalizers}) clear(*values, true);
    clear(normalizer_slopes, terms.log_normalizers);
    for (std::vector<T>* const values : {&mean_logps, &mean_slopes}) clear(*values, terms.mean_logps);
    for (std::vector<T>* const values : {&entropies, &entropy_slopes}) clear(*values, terms.entropies);
    clear(collisions, terms.collisions);
  }

  row_logps<T> forward() {
    return {by_row(logps), by_row(log_normalizers), by_row(mean_logps), by_row(entropies), by_row(collisions)};
  }
  row_slopes<T> backward() {
    return {by_row(slopes), by_row(mean_slopes), by_row(entropies), by_row(entropy_slopes), by_row(normalizer_slopes)};
  }
  term_values<T const> values() {
    return {by_token(logps), by_token(mean_logps), by_token(entropies),
            terms.log_normalizers ? by_token(log_normalizers) : std::span<T>(), by_token(collisions)};
  }
  term_slopes<T> value_slopes() {
    return {by_token(slopes), by_token(mean_slopes), by_token(entropy_slopes), by_token(normalizer_slopes)};
  }
  std::span<T> by_row(std::vector<T>& values) const {
    return values.empty() ? std::span<T>() : std::span<T>(values).subspan(1);
  }
  std::span<T> by_token(std::vector<T>& values) const {
    return values.empty() ? std::span<T>() : std::span<T>(values).first(values.size() - 1);
  }
};

/// Puts an objective to the log-probabilities in a workspace, and its slopes there. Returns the loss.
template <class T, class Objective>
T ask_for_slopes(Objective& objective, sequences_view batch, loss_workspace<T>& w) {
  static_assert(TokenObjective<Objective, T> || TermedTokenObjective<Objective, T>,
                "an objective is called as f(batch, logps, slopes), or has terms() and sees f(batch, values, slopes)");
  if constexpr (TermedTokenObjective<Objective, T>)
    return static_cast<T>(objective(batch, w.values(), w.value_slopes()));
  else
    return static_cast<T>(objective(batch, w.values().logps, w.value_slopes().logps));
}

/// Token log-probabilities alone, for a reference policy or an evaluation: logps[t] scores batch.tokens[t], 0 where the
/// mask is 0. Expects logits.rows == logps.size() == batch.total_tokens().
template <Backend B>
void logps_on_logits(B& backend, matrix_view<typename B::storage const> logits, sequences_view batch,
                     std::span<typename B::scalar> logps, loss_workspace<typename B::scalar>& workspace) {
  validate(batch, logits.cols);
  expects(logits.rows == batch.total_tokens(), "logps_on_logits: logits.rows == batch.total_tokens()", logits.rows);
  expects_one_per_token(logps, batch, "logps_on_logits: logps");
  workspace.prepare(batch, {});
  backend.token_logps(logits, workspace.targets, workspace.forward());
  std::ranges::copy(workspace.by_token(workspace.logps), logps.begin());
}

/// The same from hidden states: logits = hidden head^T, of which only a chunk of rows exists at a time.
template <Backend B>
void logps_on_hidden(B& backend, matrix_view<typename B::storage const> hidden,
                     matrix_view<typename B::storage const> head, sequences_view batch,
                     std::span<typename B::scalar> logps, loss_workspace<typename B::scalar>& workspace) {
  validate(batch, head.rows);
  expects(hidden.rows == batch.total_tokens(), "logps_on_hidden: hidden.rows == batch.total_tokens()", hidden.rows);
  expects(hidden.cols == head.cols, "logps_on_hidden: hidden.cols == head.cols", hidden.cols);
  expects_one_per_token(logps, batch, "logps_on_hidden: logps");
  workspace.prepare(batch, {});
  workspace.linear.resize(backend.linear_workspace(hidden.rows, head.rows, head.cols));
  backend.linear_token_logps(hidden, head, workspace.targets, workspace.forward(), workspace.linear);
  std::ranges::copy(workspace.by_token(workspace.logps), logps.begin());
}

/// The loss of a batch from its logits (T, V); overwrites dlogits (T, V) with dL/dlogits. dlogits may be the logits
/// themselves. Objective: a TokenObjective or TermedTokenObjective (sft_on_tokens, dpo_on_tokens, your own).
///
/// Expects logits.rows == dlogits.rows == batch.total_tokens(), equal cols, ids inside the vocabulary. What the
/// objective throws passes through, and dlogits is then untouched. Host memory.
template <Backend B, class Objective>
typename B::scalar loss_on_logits(B& backend, Objective&& objective, matrix_view<typename B::storage const> logits,
                                  sequences_view batch, matrix_view<typename B::storage> dlogits,
                                  loss_workspace<typename B::scalar>& workspace) {
  using T = typename B::scalar;
  validate(batch, logits.cols);
  expects(logits.rows == batch.total_tokens(), "loss_on_logits: logits.rows == batch.total_tokens()", logits.rows);
  expects(dlogits.rows == logits.rows, "loss_on_logits: dlogits.rows == logits.rows", dlogits.rows);
  expects(dlogits.cols == logits.cols, "loss_on_logits: dlogits.cols == logits.cols", dlogits.cols);
  workspace.prepare(batch, terms_of<T>(objective));
  backend.token_logps(logits, workspace.targets, workspace.forward());
  T const loss = ask_for_slopes(objective, batch, workspace);
  backend.token_logps_adjoint(logits, workspace.targets, workspace.by_row(workspace.log_normalizers),
                              workspace.backward(), dlogits);
  return loss;
}

/// The same from hidden states (T, D) and the output matrix (V, D), without logits ever existing as a whole.
/// Overwrites dhidden (T, D) with dL/dhidden and adds dL/dhead to dhead (V, D), which, like every parameter's gradient,
/// may already hold that of other batches and is in the backend's scalar, whatever the head lies in. No aliasing.
template <Backend B, class Objective>
typename B::scalar loss_on_hidden(B& backend, Objective&& objective, matrix_view<typename B::storage const> hidden,
                                  matrix_view<typename B::storage const> head, sequences_view batch,
                                  matrix_view<typename B::storage> dhidden, matrix_view<typename B::scalar> dhead,
                                  loss_workspace<typename B::scalar>& workspace) {
  using T = typename B::scalar;
  validate(batch, head.rows);
  expects(hidden.rows == batch.total_tokens(), "loss_on_hidden: hidden.rows == batch.total_tokens()", hidden.rows);
  expects(hidden.cols == head.cols, "loss_on_hidden: hidden.cols == head.cols", hidden.cols);
  expects(dhidden.rows == hidden.rows && dhidden.cols == hidden.cols, "loss_on_hidden: dhidden shaped like hidden");
  expects(dhead.rows == head.rows && dhead.cols == head.cols, "loss_on_hidden: dhead shaped like head");
  workspace.prepare(batch, terms_of<T>(objective));
  workspace.linear.resize(backend.linear_workspace(hidden.rows, head.rows, head.cols));
  backend.linear_token_logps(hidden, head, workspace.targets, workspace.forward(), workspace.linear);
  T const loss = ask_for_slopes(objective, batch, workspace);
  backend.linear_token_logps_adjoint(hidden, head, workspace.targets, workspace.by_row(workspace.log_normalizers),
                                     workspace.backward(), dhidden, dhead, workspace.linear);
  return loss;
}

}  // namespace attune
