// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <attune/concepts/value_model.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/model/decoder.hpp>
#include <attune/model/decoder_trunk.hpp>
#include <attune/model/projection.hpp>
#include <attune/model/scalar_head.hpp>

namespace attune {

/// A critic of its own: a decoder's trunk and one output, V(before t) = w . h[t - 1], without a bias. ValueModel.
/// Errors, determinism and memory are those of decoder_trunk; nothing is allocated in a steady state. Not safe for
/// concurrent calls on one object. A copy is deep: its own parameters, no gradients yet, the same thread pool.
template <class T>
class value_head {
 public:
  using scalar = T;

  /// Starts from the language model's trunk with w = 0: every value is 0 (Ziegler et al. 2019, in its released code).
  explicit value_head(decoder<T> const& initial)
      : value_head(initial.options(), 0, initial.trunk().shared_pool()) {
    trunk_.copy_values(initial.trunk());
  }

  /// Starts as the reward model: values are what it would say of the text so far (Stiennon et al. 2020, section 3.4).
  /// Its pooling stays behind; a value is read at one token.
  explicit value_head(scalar_head<T> const& initial)
      : value_head(initial.options(), 0, initial.trunk().shared_pool()) {
    trunk_.copy_values(initial.trunk());
    std::ranges::copy(initial.trunk().store().vector(initial.trunk().head(0)),
                      trunk_.store().vector(trunk_.head(0)).begin());
  }

  /// A fresh trunk from `seed`, and w = 0.
  explicit value_head(decoder_options const& options, std::uint64_t seed = 0,
                      std::shared_ptr<thread_pool> pool = nullptr)
      : trunk_(options, seed, std::move(pool), {{"value.weight", 1, false}}) {
    std::ranges::fill(trunk_.store().vector(trunk_.head(0)), T(0));
  }

  value_head(value_head const& other) : trunk_(other.trunk_) {}
  value_head(value_head&&) noexcept = default;
  value_head& operator=(value_head const& other) { return *this = value_head(other); }
  value_head& operator=(value_head&&) noexcept = default;

  decoder_options const& options() const noexcept { return trunk_.options(); }
  decoder_trunk<T> const& trunk() const noexcept { return trunk_; }
  std::size_t parameter_count() const noexcept { return trunk_.store().parameter_count(); }
  std::vector<parameter<T>> const& parameters() { return trunk_.store().parameters(); }
  double flops() const noexcept { return trunk_.flops(); }

  void values(sequences_view s, std::span<T> out) const {
    expects(out.size() == s.total_tokens(), "value_head::values: out.size() == total_tokens()", out.size());
    project_values(weight(), trunk_.forward(s, activations::discard), s, out);
  }

  void accumulate_value_gradient(sequences_view s, value_slopes_of<T> ask) {
    std::size_t const tokens = s.total_tokens();
    matrix_view<T const> const hidden = trunk_.forward(s, activations::keep);
    values_.resize(tokens);
    slopes_.assign(tokens, T(0));
    project_values(weight(), hidden, s, std::span<T>(values_));
    ask(values_, slopes_);
    d_hidden_.resize(tokens * options().dim);
    std::ranges::fill(d_hidden_.span(), T(0));
    matrix_view<T> const d_hidden = as_matrix(d_hidden_.data(), tokens, options().dim);
    project_values_adjoint(std::span<T const>(slopes_), weight(), hidden, s, d_hidden,
                           trunk_.store().vector_gradient(trunk_.head(0)));
    trunk_.backward(s, d_hidden);
  }

 private:
  std::span<T const> weight() const noexcept { return trunk_.store().vector(trunk_.head(0)); }

  decoder_trunk<T> trunk_;
  std::vector<T> values_, slopes_;
  aligned_buffer<T> d_hidden_;
};

}  // namespace attune
