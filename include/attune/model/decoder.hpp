// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <attune/backend/eigen.hpp>
#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/model/cached_decoding.hpp>
#include <attune/model/decoder_trunk.hpp>

namespace attune {

/// A Llama-family language model on the Eigen backend: SmoothedPolicy and ScoredGenerativePolicy.
///
/// T is float or double. Logits exist a chunk of rows at a time, and only for tokens that are masked in. Errors,
/// determinism and memory are those of decoder_trunk and eigen_backend. Not safe for concurrent calls on one object.
/// A copy is deep: its own parameters, no gradients yet, the same thread pool.
template <class T>
class decoder {
 public:
  using scalar = T;

  /// Fresh parameters from `seed`. Without a pool everything runs on the calling thread, with the same results.
  explicit decoder(decoder_options const& options, std::uint64_t seed = 0, std::shared_ptr<thread_pool> pool = nullptr)
      : trunk_(options, seed, std::move(pool), head_of(options)) {}

  decoder(decoder const& other) : trunk_(other.trunk_) {}
  decoder(decoder&&) noexcept = default;
  decoder& operator=(decoder const& other) { return *this = decoder(other); }
  decoder& operator=(decoder&&) noexcept = default;

  decoder_options const& options() const noexcept { return trunk_.options(); }
  decoder_trunk<T> const& trunk() const noexcept { return trunk_; }
  std::size_t parameter_count() const noexcept { return trunk_.store().parameter_count(); }
  std::vector<parameter<T>> const& parameters() { return trunk_.store().parameters(); }

  /// Floating-point operations of all matrix products since construction.
  double flops() const noexcept { return trunk_.flops(); }

  void log_probs(sequences_view s, std::span<T> logps) const {
    expects(logps.size() == s.total_tokens(), "decoder::log_probs: logps.size() == total_tokens()", logps.size());
    forward(s, activations::discard, false);
    for (std::size_t t = 0; t < s.total_tokens(); ++t) logps[t] = s.mask[t] ? work_->logps[t] : T(0);
  }

  void accumulate_gradient(sequences_view s, slopes_of<T> ask) {
    forward(s, activations::keep, false);
    work_->clear_slopes(s.total_tokens(), false);
    ask(work_->logps_of_tokens(s), work_->slopes);
    backward(s, false);
  }

  void accumulate_gradient_smoothed(sequences_view s, smoothed_slopes_of<T> ask) {
    forward(s, activations::keep, true);
    work_->clear_slopes(s.total_tokens(), true);
    ask(work_->logps_of_tokens(s), work_->means_of_tokens(s), work_->slopes, work_->mean_slopes);
    backward(s, true);
  }

  void generate(sequences_view prompts, sampling_options const& options, sequences& out) {
    work().generation.generate(trunk_, output(), prompts, options, out, nullptr);
  }

  void generate(sequences_view prompts, sampling_options const& options, sequences& out, std::vector<T>& logps) {
    work().generation.generate(trunk_, output(), prompts, options, out, &logps);
  }

 private:
  // Rows of hidden states predict the next token: row t answers for token t + 1. Buffers named row_ are aligned with
  // rows, the others with tokens.
  struct buffers {
    std::vector<token_id> targets;
    std::vector<T> row_logps, normalizers, row_means, row_slopes, row_mean_slopes;
    std::vector<T> logps, means, slopes, mean_slopes;
    aligned_buffer<T> d_hidden, linear;
    cached_decoding<T> generation;

    void clear_slopes(std::size_t tokens, bool with_means) {
      slopes.assign(tokens, T(0));
      if (with_means) mean_slopes.assign(tokens, T(0));
    }
    std::span<T const> logps_of_tokens(sequences_view s) const noexcept { return {logps.data(), s.total_tokens()}; }
    std::span<T const> means_of_tokens(sequences_view s) const noexcept { return {means.data(), s.total_tokens()}; }
  };

  static std::vector<typename decoder_trunk<T>::head_tensor> head_of(decoder_options const& o) {
    if (o.tied) return {};
    return {{"output.weight", o.vocabulary, true}};
  }

  typename tensor_store<T>::tensor output_tensor() const noexcept {
    return options().tied ? trunk_.weights().embedding : trunk_.head(0);
  }
  matrix_view<T const> output() const noexcept { return trunk_.store().value(output_tensor()); }
  eigen_backend<T> backend() const { return eigen_backend<T>(trunk_.pool()); }

  buffers& work() const {
    if (!work_) work_ = std::make_unique<buffers>();
    return *work_;
  }

  void forward(sequences_view s, activations how, bool with_means) const {
    buffers& w = work();
    std::size_t const tokens = s.total_tokens();
    matrix_view<T const> const hidden = trunk_.forward(s, how);
    w.targets.assign(tokens, no_target);
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t t = s.offsets[b] + 1; t < s.offsets[b + 1]; ++t)
        if (s.mask[t]) w.targets[t - 1] = s.tokens[t];
    w.row_logps.resize(tokens);
    w.normalizers.resize(tokens);
    w.row_means.resize(with_means ? tokens : 0);
    w.linear.resize(backend().linear_workspace(tokens, options().vocabulary, options().dim));
    backend().linear_token_logps(hidden, output(), w.targets, {w.row_logps, w.normalizers, w.row_means}, w.linear.span());
    shift(w.row_logps, w.logps);
    if (with_means) shift(w.row_means, w.means);
    trunk_.count_flops(head_flops(s));
  }

  static void shift(std::vector<T> const& rows, std::vector<T>& tokens) {
    tokens.resize(rows.size());
    for (std::size_t t = rows.size(); t-- > 1;) tokens[t] = rows[t - 1];
    if (!tokens.empty()) tokens[0] = T(0);
  }

  void backward(sequences_view s, bool with_means) {
    buffers& w = *work_;
    std::size_t const tokens = s.total_tokens();
    auto const unshift = [&](std::vector<T> const& of_tokens, std::vector<T>& of_rows) {
      of_rows.assign(tokens, T(0));
      for (std::size_t t = 0; t + 1 < tokens; ++t)
        if (w.targets[t] != no_target) of_rows[t] = of_tokens[t + 1];
    };
    unshift(w.slopes, w.row_slopes);
    if (with_means) unshift(w.mean_slopes, w.row_mean_slopes);
    w.d_hidden.resize(tokens * options().dim);
    trunk_.store().parameters();  // makes the gradients
    row_slopes<T> const slopes{w.row_slopes, with_means ? std::span<T const>(w.row_mean_slopes) : std::span<T const>{}};
    matrix_view<T> const d_hidden = as_matrix(w.d_hidden.data(), tokens, options().dim);
    backend().linear_token_logps_adjoint(trunk_.last_hidden(), output(), w.targets, w.normalizers, slopes, d_hidden,
                                         trunk_.store().gradient(output_tensor()), w.linear.span());
    trunk_.count_flops(3.0 * head_flops(s));
    trunk_.backward(s, d_hidden);
  }

  double head_flops(sequences_view s) const noexcept {
    return 2.0 * static_cast<double>(options().vocabulary * options().dim) * static_cast<double>(completion_tokens(s.mask));
  }

  decoder_trunk<T> trunk_;
  mutable std::unique_ptr<buffers> work_;
};

}  // namespace attune
