// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/model/decoder_trunk.hpp>
#include <attune/model/token_head.hpp>

namespace attune {

/// A Llama-family language model on the Eigen backend: TermedPolicy, TemperedPolicy and ScoredGenerativePolicy.
///
/// T is float or double. Logits exist a chunk of rows at a time, and only for tokens that are masked in. Errors,
/// determinism and memory are those of decoder_trunk and eigen_backend. Not safe for concurrent calls on one object.
/// A copy is deep: its own parameters, the temperature, no gradients yet, the same thread pool.
template <class T>
class decoder {
 public:
  using scalar = T;

  /// Fresh parameters from `seed`. Without a pool everything runs on the calling thread, with the same results.
  explicit decoder(decoder_options const& options, std::uint64_t seed = 0, std::shared_ptr<thread_pool> pool = nullptr)
      : trunk_(options, seed, std::move(pool), token_head<T>::tensors(options)) {}

  decoder_options const& options() const noexcept { return trunk_.options(); }
  decoder_trunk<T> const& trunk() const noexcept { return trunk_; }
  std::size_t parameter_count() const noexcept { return trunk_.store().parameter_count(); }
  std::vector<parameter<T>> const& parameters() { return trunk_.store().parameters(); }

  /// Floating-point operations of all matrix products since construction.
  double flops() const noexcept { return trunk_.flops(); }

  double temperature() const noexcept { return head_.temperature(); }
  void set_temperature(double temperature) { head_.set_temperature(temperature); }

  void log_probs(sequences_view s, std::span<T> logps) const {
    expects(logps.size() == s.total_tokens(), "decoder::log_probs: logps.size() == total_tokens()", logps.size());
    head_.read(trunk_, s, activations::discard);
    std::ranges::copy(head_.terms().logps, logps.begin());
  }

  void log_probs_with(sequences_view s, term_values<T> terms) const {
    expects_terms(terms, s);
    head_.read(trunk_, s, activations::discard, terms.terms());
    head_.copy_terms(terms);
  }

  void accumulate_gradient(sequences_view s, slopes_of<T> ask) {
    head_.read(trunk_, s, activations::keep);
    ask(head_.terms().logps, head_.slopes().logps);
    trunk_.backward(s, head_.adjoint(trunk_));
  }

  void accumulate_gradient_with(sequences_view s, token_terms terms, term_slopes_of<T> ask) {
    head_.read(trunk_, s, activations::keep, terms);
    ask(head_.terms(), head_.slopes());
    trunk_.backward(s, head_.adjoint(trunk_));
  }

  void generate(sequences_view prompts, sampling_options const& options, sequences& out) {
    head_.generate(trunk_, prompts, options, out, nullptr);
  }

  void generate(sequences_view prompts, sampling_options const& options, sequences& out, std::vector<T>& logps) {
    head_.generate(trunk_, prompts, options, out, &logps);
  }

 private:
  decoder_trunk<T> trunk_;
  token_head<T> head_;
};

}  // namespace attune
