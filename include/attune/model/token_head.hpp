// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <attune/backend/eigen.hpp>
#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/core/sequences.hpp>
#include <attune/model/cached_decoding.hpp>
#include <attune/model/decoder_trunk.hpp>

namespace attune {

/// What makes a language model of a decoder's trunk: the output matrix (the embedding where it is tied), its
/// temperature, and between hidden states and the objective the bookkeeping of who scores whom. Row t of the hidden
/// states answers for token t + 1; everything handed out here is aligned with tokens, 0 where the mask is 0.
///
/// One round is read, then the caller's look at terms() and its writing of slopes(), then adjoint. Logits exist a chunk
/// of rows at a time, and only for tokens that are masked in. The temperature divides the hidden rows, which is the
/// same as dividing the logits and costs dim instead of vocabulary; at 1 nothing is touched. Buffers are kept and
/// reused. A copy has the temperature and no buffers.
template <class T>
class token_head {
 public:
  using tensor = typename tensor_store<T>::tensor;
  using head_tensor = typename decoder_trunk<T>::head_tensor;

  token_head() = default;
  token_head(token_head const& other) noexcept : temperature_(other.temperature_) {}
  token_head(token_head&&) noexcept = default;
  token_head& operator=(token_head const& other) noexcept { return *this = token_head(other); }
  token_head& operator=(token_head&&) noexcept = default;

  /// What a trunk must be given as its first heads.
  static std::vector<head_tensor> tensors(decoder_options const& o) {
    if (o.tied) return {};
    return {{"output.weight", o.vocabulary, true}};
  }

  static tensor output(decoder_trunk<T> const& trunk) noexcept {
    return trunk.options().tied ? trunk.weights().embedding : trunk.head(0);
  }

  double temperature() const noexcept { return temperature_; }
  void set_temperature(double temperature) {
    validate_temperature(temperature);
    temperature_ = temperature;
  }

  /// Runs the trunk over s and scores every masked-in token, with the terms asked for; slopes start at 0. Returns the
  /// trunk's hidden states. Views handed out are valid until the next call.
  matrix_view<T const> read(decoder_trunk<T> const& trunk, sequences_view s, activations how,
                            token_terms terms = {}) const {
    buffers& w = work();
    std::size_t const tokens = s.total_tokens(), dim = trunk.options().dim;
    matrix_view<T const> const hidden = trunk.forward(s, how);
    w.hidden = hidden;
    if (temperature_ != 1.0) {
      w.tempered.resize(tokens * dim);
      T const inverse = static_cast<T>(1.0 / temperature_);
      std::transform(hidden.data, hidden.data + tokens * dim, w.tempered.data(), [=](T h) { return h * inverse; });
      w.hidden = as_matrix<T const>(w.tempered.data(), tokens, dim);
    }
    w.targets.assign(tokens, no_target);
    for (std::size_t t = 1; t < tokens; ++t)
      if (s.mask[t] != 0) w.targets[t - 1] = s.tokens[t];
    w.normalizer_rows.resize(tokens);
    w.logps.resize(tokens);
    w.means.resize(terms.mean_logps ? tokens : 0);
    w.entropies.resize(terms.entropies ? tokens : 0);
    w.normalizers.resize(terms.log_normalizers ? tokens : 0);
    w.collisions.resize(terms.collisions ? tokens : 0);
    w.linear.resize(backend(trunk).linear_workspace(tokens, trunk.options().vocabulary, dim));
    row_logps<T> const rows{w.logps.rows, w.normalizer_rows, w.means.rows, w.entropies.rows, w.collisions.rows};
    backend(trunk).linear_token_logps(w.hidden, trunk.store().value(output(trunk)), w.targets, rows, w.linear.span());
    if (terms.log_normalizers) w.normalizers.rows = w.normalizer_rows;
    w.logps.align_with_tokens();
    w.means.align_with_tokens();
    w.entropies.align_with_tokens();
    w.normalizers.align_with_tokens();
    w.collisions.align_with_tokens();
    trunk.count_flops(flops(trunk));
    return hidden;
  }

  term_values<T const> terms() const noexcept {
    buffers const& w = *work_;
    return {w.logps.tokens, w.means.tokens, w.entropies.tokens, w.normalizers.tokens, w.collisions.tokens};
  }
  term_slopes<T> slopes() noexcept {
    buffers& w = *work_;
    return {w.logps.slopes, w.means.slopes, w.entropies.slopes, w.normalizers.slopes};
  }

  /// As TermedPolicy's log_probs_with, but for sizes: what is not empty of `out` has one entry per token of s.
  void copy_terms(term_values<T> out) const {
    auto const copy = [](std::span<T const> from, std::span<T> to) {
      if (!to.empty()) std::ranges::copy(from, to.begin());
    };
    term_values<T const> const v = terms();
    copy(v.logps, out.logps);
    copy(v.mean_logps, out.mean_logps);
    copy(v.entropies, out.entropies);
    copy(v.log_normalizers, out.log_normalizers);
    copy(v.collisions, out.collisions);
  }

  /// Adds the output matrix's gradient and returns that of the hidden states (total_tokens, dim), overwritten. Expects
  /// read just before, with the same trunk.
  matrix_view<T> adjoint(decoder_trunk<T>& trunk) {
    buffers& w = *work_;
    std::size_t const tokens = w.targets.size(), dim = trunk.options().dim;
    w.logps.align_with_rows(w.targets);
    w.means.align_with_rows(w.targets);
    w.entropies.align_with_rows(w.targets);
    w.normalizers.align_with_rows(w.targets);
    w.d_hidden.resize(tokens * dim);
    matrix_view<T> const d_hidden = as_matrix(w.d_hidden.data(), tokens, dim);
    matrix_view<T> const gradient = trunk.store().gradient(output(trunk));
    row_slopes<T> const slopes{w.logps.row_slopes, w.means.row_slopes, w.entropies.rows, w.entropies.row_slopes,
                               w.normalizers.row_slopes};
    backend(trunk).linear_token_logps_adjoint(w.hidden, std::as_const(trunk).store().value(output(trunk)), w.targets,
                                              w.normalizer_rows, slopes, d_hidden, gradient, w.linear.span());
    if (temperature_ != 1.0) {
      T const inverse = static_cast<T>(1.0 / temperature_);
      for (T& d : w.d_hidden.span()) d *= inverse;
    }
    trunk.count_flops(3.0 * flops(trunk));
    return d_hidden;
  }

  /// See ScoredGenerativePolicy; logps may be null.
  void generate(decoder_trunk<T> const& trunk, sequences_view prompts, sampling_options const& options, sequences& out,
                std::vector<T>* logps) {
    work().generation.generate(trunk, trunk.store().value(output(trunk)), temperature_, prompts, options, out, logps);
  }

 private:
  /// One statistic of the tokens and its slopes, as rows and as tokens. Empty where it is not asked for.
  struct statistic {
    std::vector<T> rows, tokens, slopes, row_slopes;

    void resize(std::size_t size) {
      rows.resize(size);
      tokens.resize(size);
      slopes.assign(size, T(0));
      row_slopes.resize(size);
    }
    void align_with_tokens() noexcept {
      if (rows.empty()) return;
      tokens[0] = T(0);  // and rows without a target are 0, the last one of a sequence among them
      std::copy(rows.begin(), rows.end() - 1, tokens.begin() + 1);
    }
    void align_with_rows(std::vector<token_id> const& targets) noexcept {
      for (std::size_t t = 0; t < row_slopes.size(); ++t)
        row_slopes[t] = targets[t] != no_target ? slopes[t + 1] : T(0);
    }
  };

  struct buffers {
    matrix_view<T const> hidden;  // what the output matrix is multiplied with: the trunk's rows, or `tempered`
    aligned_buffer<T> tempered;
    std::vector<token_id> targets;
    std::vector<T> normalizer_rows;  // for the adjoint, whether the objective asked or not
    statistic logps, means, entropies, normalizers, collisions;
    aligned_buffer<T> d_hidden, linear;
    cached_decoding<T> generation;
  };

  buffers& work() const {
    if (!work_) work_ = std::make_unique<buffers>();
    return *work_;
  }

  static eigen_backend<T> backend(decoder_trunk<T> const& trunk) { return eigen_backend<T>(trunk.pool()); }

  double flops(decoder_trunk<T> const& trunk) const noexcept {
    auto const scored = std::ranges::count_if(work_->targets, [](token_id t) { return t != no_target; });
    return 2.0 * static_cast<double>(trunk.options().vocabulary * trunk.options().dim) * static_cast<double>(scored);
  }

  double temperature_ = 1.0;
  mutable std::unique_ptr<buffers> work_;
};

}  // namespace attune
