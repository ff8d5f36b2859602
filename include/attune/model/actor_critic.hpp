// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/concepts/value_model.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/model/decoder.hpp>
#include <attune/model/decoder_trunk.hpp>
#include <attune/model/projection.hpp>
#include <attune/model/token_head.hpp>

namespace attune {

/// A language model and its critic on one trunk (Mnih et al. 2016; for language models Ziegler et al. 2019): logits
/// from the output matrix, V(before t) = w . h[t - 1]. ActorCritic, TermedPolicy, TemperedPolicy and
/// ScoredGenerativePolicy. Half the memory and work of two models; in return the value loss moves the policy's trunk.
///
/// The temperature is the policy's alone. Errors, determinism and memory are those of decoder; nothing is allocated in
/// a steady state. Not safe for concurrent calls on one object. A copy is deep: its own parameters, the temperature, no
/// gradients yet, the same thread pool.
template <class T>
class actor_critic {
 public:
  using scalar = T;

  /// Starts as the language model, with w = 0: every value is 0.
  explicit actor_critic(decoder<T> const& initial)
      : trunk_(initial.options(), 0, initial.trunk().shared_pool(), tensors(initial.options())) {
    trunk_.copy_values(initial.trunk());
    auto const from = initial.trunk().store().value(token_head<T>::output(initial.trunk()));
    std::copy_n(from.data, from.rows * from.cols, trunk_.store().value(token_head<T>::output(trunk_)).data);
    std::ranges::fill(trunk_.store().vector(value_tensor()), T(0));
    set_temperature(initial.temperature());
  }

  actor_critic(actor_critic const& other) : trunk_(other.trunk_), head_(other.head_) {}
  actor_critic(actor_critic&&) noexcept = default;
  actor_critic& operator=(actor_critic const& other) { return *this = actor_critic(other); }
  actor_critic& operator=(actor_critic&&) noexcept = default;

  /// The language model without its critic, a deep copy: to save, or to go on with.
  [[nodiscard]] decoder<T> policy() const {
    decoder<T> model(options(), 0, trunk_.shared_pool());
    for (std::size_t i = 0; i < model.parameters().size(); ++i)
      std::ranges::copy(trunk_.store().values_of(i), model.parameters()[i].value.begin());
    model.set_temperature(temperature());
    return model;
  }

  decoder_options const& options() const noexcept { return trunk_.options(); }
  decoder_trunk<T> const& trunk() const noexcept { return trunk_; }
  std::size_t parameter_count() const noexcept { return trunk_.store().parameter_count(); }

  /// The language model's, in its order, then "value.weight".
  std::vector<parameter<T>> const& parameters() { return trunk_.store().parameters(); }
  double flops() const noexcept { return trunk_.flops(); }

  double temperature() const noexcept { return head_.temperature(); }
  void set_temperature(double temperature) { head_.set_temperature(temperature); }

  void log_probs(sequences_view s, std::span<T> logps) const {
    expects(logps.size() == s.total_tokens(), "actor_critic::log_probs: logps.size() == total_tokens()", logps.size());
    head_.read(trunk_, s, activations::discard);
    std::ranges::copy(head_.terms().logps, logps.begin());
  }

  void log_probs_with(sequences_view s, term_values<T> terms) const {
    expects_terms(terms, s);
    head_.read(trunk_, s, activations::discard, terms.terms());
    head_.copy_terms(terms);
  }

  void values(sequences_view s, std::span<T> out) const {
    expects(out.size() == s.total_tokens(), "actor_critic::values: out.size() == total_tokens()", out.size());
    project_values(value_weight(), trunk_.forward(s, activations::discard), s, out);
  }

  void log_probs_and_values(sequences_view s, std::span<T> logps, std::span<T> out) const {
    expects(logps.size() == s.total_tokens() && out.size() == s.total_tokens(),
            "actor_critic::log_probs_and_values: logps.size() == values.size() == total_tokens()", out.size());
    matrix_view<T const> const hidden = head_.read(trunk_, s, activations::discard);
    std::ranges::copy(head_.terms().logps, logps.begin());
    project_values(value_weight(), hidden, s, out);
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

  void accumulate_value_gradient(sequences_view s, value_slopes_of<T> ask) {
    std::size_t const tokens = s.total_tokens();
    matrix_view<T const> const hidden = read_values(s, trunk_.forward(s, activations::keep));
    ask(values_, value_slopes_);
    d_hidden_.resize(tokens * options().dim);
    std::ranges::fill(d_hidden_.span(), T(0));
    value_adjoint(s, hidden, as_matrix(d_hidden_.data(), tokens, options().dim));
  }

  void accumulate_gradient_with_values(sequences_view s, actor_critic_slopes_of<T> ask) {
    matrix_view<T const> const hidden = read_values(s, head_.read(trunk_, s, activations::keep));
    ask(head_.terms().logps, values_, head_.slopes().logps, value_slopes_);
    value_adjoint(s, hidden, head_.adjoint(trunk_));
  }

  void generate(sequences_view prompts, sampling_options const& options, sequences& out) {
    head_.generate(trunk_, prompts, options, out, nullptr);
  }

  void generate(sequences_view prompts, sampling_options const& options, sequences& out, std::vector<T>& logps) {
    head_.generate(trunk_, prompts, options, out, &logps);
  }

 private:
  using tensor = typename tensor_store<T>::tensor;

  static std::vector<typename decoder_trunk<T>::head_tensor> tensors(decoder_options const& o) {
    auto heads = token_head<T>::tensors(o);
    heads.push_back({"value.weight", 1, false});
    return heads;
  }

  tensor value_tensor() const noexcept { return trunk_.head(options().tied ? 0 : 1); }
  std::span<T const> value_weight() const noexcept { return trunk_.store().vector(value_tensor()); }

  matrix_view<T const> read_values(sequences_view s, matrix_view<T const> hidden) {
    values_.resize(s.total_tokens());
    value_slopes_.assign(s.total_tokens(), T(0));
    project_values(value_weight(), hidden, s, std::span<T>(values_));
    return hidden;
  }

  /// Adds the values' part to d_hidden and goes back through the trunk.
  void value_adjoint(sequences_view s, matrix_view<T const> hidden, matrix_view<T> d_hidden) {
    project_values_adjoint(std::span<T const>(value_slopes_), value_weight(), hidden, s, d_hidden,
                           trunk_.store().vector_gradient(value_tensor()));
    trunk_.backward(s, d_hidden);
  }

  decoder_trunk<T> trunk_;
  token_head<T> head_;
  std::vector<T> values_, value_slopes_;
  aligned_buffer<T> d_hidden_;
};

}  // namespace attune
