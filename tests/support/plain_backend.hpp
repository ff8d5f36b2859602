// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

#include <attune/concepts/backend.hpp>

/// A backend as its concept's formulas read, without a thought for speed or overflow: what tests of code over any
/// backend run on, so that they depend on no other header's correctness.
template <class T>
struct plain_backend {
  using scalar = T;
  using matrix = attune::matrix_view<T>;
  using const_matrix = attune::matrix_view<T const>;
  using targets_view = std::span<attune::token_id const>;

  void token_logps(const_matrix logits, targets_view targets, attune::row_logps<T> out) {
    for (std::size_t i = 0; i < logits.rows; ++i) {
      out.logps[i] = 0;
      if (targets[i] == attune::no_target) continue;
      T sum = 0, mean = 0;
      for (std::size_t v = 0; v < logits.cols; ++v) sum += std::exp(logits(i, v));
      out.log_normalizers[i] = std::log(sum);
      for (std::size_t v = 0; v < logits.cols; ++v) mean += (logits(i, v) - std::log(sum)) / static_cast<T>(logits.cols);
      out.logps[i] = logits(i, static_cast<std::size_t>(targets[i])) - std::log(sum);
      if (!out.mean_logps.empty()) out.mean_logps[i] = mean;
    }
  }

  void token_logps_adjoint(const_matrix logits, targets_view targets, std::span<T const> log_normalizers,
                           attune::row_slopes<T> slopes, matrix dlogits) {
    for (std::size_t i = 0; i < logits.rows; ++i)
      for (std::size_t v = 0; v < logits.cols; ++v) {
        if (targets[i] == attune::no_target) {
          dlogits(i, v) = 0;
          continue;
        }
        T const p = std::exp(logits(i, v) - log_normalizers[i]);
        T const hit = static_cast<std::size_t>(targets[i]) == v ? T(1) : T(0);
        T const mean_slope = slopes.mean_logps.empty() ? T(0) : slopes.mean_logps[i];
        dlogits(i, v) = slopes.logps[i] * (hit - p) + mean_slope * (T(1) / static_cast<T>(logits.cols) - p);
      }
  }

  std::size_t linear_workspace(std::size_t rows, std::size_t vocabulary, std::size_t) { return rows * vocabulary; }

  matrix linear(const_matrix hidden, const_matrix head, targets_view targets, std::span<T> workspace) {
    auto const logits = attune::as_matrix(workspace.data(), hidden.rows, head.rows);
    for (std::size_t i = 0; i < hidden.rows; ++i)
      for (std::size_t v = 0; v < head.rows; ++v) {
        logits(i, v) = 0;
        for (std::size_t d = 0; d < head.cols && targets[i] != attune::no_target; ++d)
          logits(i, v) += hidden(i, d) * head(v, d);
      }
    return logits;
  }
  void linear_token_logps(const_matrix hidden, const_matrix head, targets_view targets, attune::row_logps<T> out,
                          std::span<T> workspace) {
    token_logps(linear(hidden, head, targets, workspace), targets, out);
  }
  void linear_token_logps_adjoint(const_matrix hidden, const_matrix head, targets_view targets,
                                  std::span<T const> log_normalizers, attune::row_slopes<T> slopes, matrix dhidden,
                                  matrix dhead, std::span<T> workspace) {
    auto const logits = linear(hidden, head, targets, workspace);
    token_logps_adjoint(logits, targets, log_normalizers, slopes, logits);
    for (std::size_t i = 0; i < hidden.rows; ++i)
      for (std::size_t d = 0; d < head.cols; ++d) {
        dhidden(i, d) = 0;
        for (std::size_t v = 0; v < head.rows && targets[i] != attune::no_target; ++v) {
          dhidden(i, d) += logits(i, v) * head(v, d);
          dhead(v, d) += logits(i, v) * hidden(i, d);
        }
      }
  }

  void segment_sum(std::span<T const> values, std::span<std::size_t const> offsets, std::span<T> out) {
    for (std::size_t b = 0; b < out.size(); ++b) {
      double sum = 0;
      for (std::size_t t = offsets[b]; t < offsets[b + 1]; ++t) sum += static_cast<double>(values[t]);
      out[b] = static_cast<T>(sum);
    }
  }
  void segment_broadcast(std::span<T const> values, std::span<std::size_t const> offsets, std::span<T> out) {
    for (std::size_t b = 0; b < values.size(); ++b)
      for (std::size_t t = offsets[b]; t < offsets[b + 1]; ++t) out[t] = values[b];
  }
  double squared_norm(std::span<T const> values) {
    double sum = 0;
    for (T const x : values) sum += static_cast<double>(x) * static_cast<double>(x);
    return sum;
  }
  void adamw(attune::adamw_update<T> update, std::span<T> value, std::span<T const> gradient, std::span<T> first,
             std::span<T> second) {
    for (std::size_t i = 0; i < value.size(); ++i) update(value[i], gradient[i], first[i], second[i]);
  }
};

static_assert(attune::Backend<plain_backend<float>> && attune::Backend<plain_backend<double>>);
