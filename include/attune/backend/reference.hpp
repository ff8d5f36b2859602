// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include <attune/backend/backend_contract.hpp>
#include <attune/backend/host_operations.hpp>
#include <attune/concepts/backend.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>

namespace attune {

/// The operations of concepts/backend.hpp as plain loops: the oracle for every other backend, and readable. All sums
/// run in double, first to last; what is stored is rounded once. Needs the standard library alone; not made for speed.
///
/// Beyond the concept: outputs of a row without a target are 0; a NaN among a row's log_normalizer and slopes makes the
/// row's gradient NaN throughout. Throws contract_violation for sizes that disagree or a target outside the vocabulary.
/// Allocates nothing. Every result is a function of the arguments' values alone.
template <StorageScalar S>
class reference_backend : public host_operations<arithmetic_t<S>> {
  using T = arithmetic_t<S>;

 public:
  using scalar = T;
  using storage = S;

  void token_logps(matrix_view<S const> logits, std::span<token_id const> targets, row_logps<T> out) const {
    expects_matrix(logits);
    expects_targets(targets, logits.rows, logits.cols);
    expects_outputs(out, logits.rows);
    for (std::size_t i = 0; i < logits.rows; ++i) forward_row(logits.row(i), logits.cols, targets[i], out, i);
  }

  void token_logps_adjoint(matrix_view<S const> logits, std::span<token_id const> targets,
                           std::span<T const> log_normalizers, row_slopes<T> slopes, matrix_view<S> dlogits) const {
    expects_adjoint(logits, targets, log_normalizers, slopes, dlogits);
    for (std::size_t i = 0; i < logits.rows; ++i)
      for (std::size_t v = 0; v < logits.cols; ++v)
        dlogits(i, v) =
            S(adjoint(static_cast<T>(logits(i, v)), v, logits.cols, targets[i], log_normalizers[i], slopes, i));
  }

  void linear_token_logps(matrix_view<S const> hidden, matrix_view<S const> head, std::span<token_id const> targets,
                          row_logps<T> out, std::span<T> workspace) const {
    expects_linear(hidden, head, targets, workspace, linear_workspace(hidden.rows, head.rows, head.cols));
    expects_outputs(out, hidden.rows);
    for (std::size_t i = 0; i < hidden.rows; ++i) {
      if (targets[i] != no_target)
        for (std::size_t v = 0; v < head.rows; ++v) workspace[v] = logit(hidden, head, i, v);
      forward_row(workspace.data(), head.rows, targets[i], out, i);
    }
  }

  void linear_token_logps_adjoint(matrix_view<S const> hidden, matrix_view<S const> head,
                                  std::span<token_id const> targets, std::span<T const> log_normalizers,
                                  row_slopes<T> slopes, matrix_view<S> dhidden, matrix_view<T> dhead,
                                  std::span<T> workspace) const {
    expects_linear(hidden, head, targets, workspace, linear_workspace(hidden.rows, head.rows, head.cols));
    expects_linear_adjoint(hidden, head, log_normalizers, slopes, dhidden, dhead);
    auto const dlogit = [&](std::size_t i, std::size_t v) {
      if (targets[i] == no_target) return T(0);
      return adjoint(logit(hidden, head, i, v), v, head.rows, targets[i], log_normalizers[i], slopes, i);
    };

    std::span<T> const row = workspace.first(head.rows);
    for (std::size_t i = 0; i < hidden.rows; ++i) {
      for (std::size_t v = 0; v < head.rows; ++v) row[v] = dlogit(i, v);
      for (std::size_t d = 0; d < hidden.cols; ++d) {
        double sum = 0.0;
        if (targets[i] != no_target)
          for (std::size_t v = 0; v < head.rows; ++v)
            sum += static_cast<double>(row[v]) * static_cast<double>(head(v, d));
        dhidden(i, d) = S(static_cast<T>(sum));
      }
    }

    std::span<T> const column = workspace.subspan(head.rows, hidden.rows);
    for (std::size_t v = 0; v < head.rows; ++v) {
      for (std::size_t i = 0; i < hidden.rows; ++i) column[i] = dlogit(i, v);
      for (std::size_t d = 0; d < hidden.cols; ++d) {
        double sum = 0.0;
        for (std::size_t i = 0; i < hidden.rows; ++i)
          if (targets[i] != no_target) sum += static_cast<double>(column[i]) * static_cast<double>(hidden(i, d));
        dhead(v, d) += static_cast<T>(sum);
      }
    }
  }

  std::size_t linear_workspace(std::size_t rows, std::size_t vocabulary, std::size_t) const noexcept {
    return rows + vocabulary;
  }

  void token_kl(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
                kl_direction direction, row_kl<T> out) const {
    expects_divergence(logits, ref_logits, targets, out);
    for (std::size_t i = 0; i < logits.rows; ++i) {
      out.kl[i] = out.log_normalizers[i] = out.ref_log_normalizers[i] = T(0);
      if (targets[i] == no_target) continue;
      normalizer const p = normalize(logits.row(i), logits.cols), q = normalize(ref_logits.row(i), logits.cols);
      bool const reverse = direction == kl_direction::reverse;
      out.kl[i] = static_cast<T>(reverse ? divergence(logits.row(i), p, ref_logits.row(i), q, logits.cols)
                                         : divergence(ref_logits.row(i), q, logits.row(i), p, logits.cols));
      out.log_normalizers[i] = static_cast<T>(p.maximum + p.log_sum);
      out.ref_log_normalizers[i] = static_cast<T>(q.maximum + q.log_sum);
    }
  }

  void token_kl_adjoint(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
                        kl_direction direction, row_kl<T const> of, std::span<T const> slopes,
                        matrix_view<S> dlogits) const {
    expects_divergence(logits, ref_logits, targets, of);
    expects_divergence_slopes(logits, slopes, dlogits);
    for (std::size_t i = 0; i < logits.rows; ++i) {
      if (targets[i] == no_target) continue;
      double const kl = static_cast<double>(of.kl[i]), slope = static_cast<double>(slopes[i]);
      double const z = static_cast<double>(of.log_normalizers[i]), w = static_cast<double>(of.ref_log_normalizers[i]);
      bool const defined = std::isfinite(kl) && std::isfinite(slope) && std::isfinite(z) && std::isfinite(w);
      for (std::size_t v = 0; v < logits.cols; ++v) {
        if (!defined) dlogits(i, v) = S(std::numeric_limits<T>::quiet_NaN());
        if (!defined || logits(i, v) == -std::numeric_limits<T>::infinity()) continue;
        double const logp = static_cast<double>(logits(i, v)) - z, logq = static_cast<double>(ref_logits(i, v)) - w;
        double const p = std::exp(logp);
        if (direction == kl_direction::forward)
          dlogits(i, v) = S(static_cast<T>(dlogits(i, v)) + static_cast<T>(slope * (p - std::exp(logq))));
        else if (p > 0.0)
          dlogits(i, v) = S(static_cast<T>(dlogits(i, v)) + static_cast<T>(slope * p * ((logp - logq) - kl)));
      }
    }
  }

 private:
  static T logit(matrix_view<S const> hidden, matrix_view<S const> head, std::size_t i, std::size_t v) noexcept {
    double sum = 0.0;
    for (std::size_t d = 0; d < hidden.cols; ++d)
      sum += static_cast<double>(hidden(i, d)) * static_cast<double>(head(v, d));
    return static_cast<T>(sum);
  }

  struct normalizer {
    double maximum, log_sum;
  };

  /// log sum over v of exp(x[v]) = m + log sum over v of exp(x[v] - m), m the maximum. With all -inf, with +inf or with
  /// NaN the difference x[v] - m is NaN somewhere, and so is the result.
  template <class X>
  static normalizer normalize(X const* x, std::size_t count) noexcept {
    double maximum = -std::numeric_limits<double>::infinity();
    for (std::size_t v = 0; v < count; ++v)
      if (static_cast<double>(x[v]) > maximum) maximum = static_cast<double>(x[v]);
    double sum = 0.0;
    for (std::size_t v = 0; v < count; ++v) sum += std::exp(static_cast<double>(x[v]) - maximum);
    return {maximum, std::log(sum)};
  }

  /// sum over v of p (log p - log q), 0 where p is 0; rounding below 0 is 0.
  static double divergence(S const* x, normalizer p, S const* y, normalizer q, std::size_t count) noexcept {
    if (std::isnan(p.log_sum) || std::isnan(q.log_sum)) return std::numeric_limits<double>::quiet_NaN();
    double sum = 0.0;
    for (std::size_t v = 0; v < count; ++v) {
      double const logp = (static_cast<double>(x[v]) - p.maximum) - p.log_sum;
      double const logq = (static_cast<double>(y[v]) - q.maximum) - q.log_sum;
      if (std::exp(logp) > 0.0) sum += std::exp(logp) * (logp - logq);
    }
    return sum < 0.0 ? 0.0 : sum;
  }

  template <class X>
  static void forward_row(X const* x, std::size_t count, token_id target, row_logps<T> out, std::size_t i) noexcept {
    if (target == no_target) {
      out.logps[i] = out.log_normalizers[i] = T(0);
      if (!out.mean_logps.empty()) out.mean_logps[i] = T(0);
      if (!out.entropies.empty()) out.entropies[i] = T(0);
      if (!out.collisions.empty()) out.collisions[i] = T(0);
      return;
    }
    auto const [maximum, log_sum] = normalize(x, count);
    out.logps[i] = static_cast<T>((static_cast<double>(x[target]) - maximum) - log_sum);
    out.log_normalizers[i] = static_cast<T>(maximum + log_sum);
    if (out.mean_logps.empty() && out.entropies.empty() && out.collisions.empty()) return;
    double sum_of_logits = 0.0, entropy = std::isnan(log_sum) ? log_sum : 0.0, collision = 0.0;
    for (std::size_t v = 0; v < count; ++v) {
      double const logp = (static_cast<double>(x[v]) - maximum) - log_sum;
      double const p = std::exp(logp);
      sum_of_logits += static_cast<double>(x[v]);
      collision += std::exp(2.0 * logp);
      if (p > 0.0) entropy -= p * logp;
    }
    if (!out.mean_logps.empty())
      out.mean_logps[i] = static_cast<T>((sum_of_logits / static_cast<double>(count) - maximum) - log_sum);
    if (!out.entropies.empty()) out.entropies[i] = static_cast<T>(entropy);
    if (!out.collisions.empty()) out.collisions[i] = static_cast<T>(std::log(collision));
  }

  /// slope (1[v = target] - p) + mean_slope (1/V - p) - entropy_slope p (log p + entropy) + log_normalizer_slope p,
  /// and 0 where the logit is -inf.
  static T adjoint(T logit, std::size_t v, std::size_t count, token_id target, T log_normalizer, row_slopes<T> slopes,
                   std::size_t i) noexcept {
    if (target == no_target) return T(0);
    double const slope = static_cast<double>(slopes.logps[i]);
    double const mean_slope = slopes.mean_logps.empty() ? 0.0 : static_cast<double>(slopes.mean_logps[i]);
    double const entropy_slope = slopes.entropy_slopes.empty() ? 0.0 : static_cast<double>(slopes.entropy_slopes[i]);
    double const entropy = slopes.entropies.empty() ? 0.0 : static_cast<double>(slopes.entropies[i]);
    double const rise = slopes.log_normalizers.empty() ? 0.0 : static_cast<double>(slopes.log_normalizers[i]);
    double const logp = static_cast<double>(logit) - static_cast<double>(log_normalizer);
    if (std::isnan(log_normalizer) || std::isnan(slope) || std::isnan(mean_slope) || std::isnan(entropy_slope) ||
        std::isnan(entropy) || std::isnan(rise))
      return std::numeric_limits<T>::quiet_NaN();
    if (logit == -std::numeric_limits<T>::infinity()) return T(0);
    double const p = std::exp(logp);
    // 1 - p of a target that is nearly certain would lose its digits; expm1 keeps them.
    double const from_logp = v == static_cast<std::size_t>(target) ? slope * -std::expm1(logp) : -slope * p;
    double const bent = p > 0.0 ? entropy_slope * p * (logp + entropy) : 0.0;
    return static_cast<T>(from_logp + mean_slope * (1.0 / static_cast<double>(count) - p) + rise * p - bent);
  }
};

}  // namespace attune
