// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <attune/backend/eigen_gemm.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/core/parallel.hpp>
#include <attune/core/sequences.hpp>
#include <attune/model/causal_attention.hpp>
#include <attune/model/decoder_activations.hpp>
#include <attune/model/decoder_options.hpp>
#include <attune/model/decoder_weights.hpp>
#include <attune/model/rms_norm.hpp>
#include <attune/model/rope.hpp>
#include <attune/model/swiglu.hpp>

/// A Llama-family transformer (Touvron et al. 2023) from token ids to normalised hidden states, with an explicit
/// backward pass over packed sequences of any lengths. What comes after the hidden states is a head's affair:
/// decoder (token log-probs), scalar_head (rewards), value_head (values).
///
/// Shape of the work: per layer three parallel regions forward (rows, sequences, rows) and four backward. Rows are cut
/// at fixed places, weight gradients are cut by output rows and summed over all tokens in one product, so results are
/// the same bits for any number of threads; rows are padded to gemm_row_multiple, so the forward result of a sequence
/// is the same bits whatever its neighbours are. Memory kept per token for the backward pass:
/// layers * (4 dim + 2 kv_dim + 2 hidden + heads + 2) scalars. Buffers are reused; nothing is allocated in a steady
/// state but Eigen's packing buffers.
namespace attune {

template <class T>
class decoder_trunk {
 public:
  struct head_tensor {
    std::string name;
    std::size_t rows;
    bool decay;
  };

  /// Expects valid options. The heads' tensors, (rows, dim) each, live behind the trunk's own and are head(0),
  /// head(1) ...
  decoder_trunk(decoder_options const& options, std::uint64_t seed, std::shared_ptr<thread_pool> pool,
                std::vector<head_tensor> const& heads = {})
      : options_(options), pool_(std::move(pool)) {
    validate(options_);
    weights_ = add_decoder_weights(store_, options_);
    for (head_tensor const& head : heads) heads_.push_back(store_.add(head.name, head.rows, options_.dim, head.decay));
    store_.allocate();
    initialize(store_, options_, seed);
    rope_ = rope_table<T>(options_.window, head_dim(), options_.rope_theta);
  }

  /// A copy owns its own parameters, shares the thread pool, and starts without buffers or gradients.
  decoder_trunk(decoder_trunk const& other)
      : options_(other.options_), pool_(other.pool_), store_(other.store_), weights_(other.weights_),
        heads_(other.heads_), rope_(other.rope_) {}
  decoder_trunk(decoder_trunk&&) noexcept = default;
  decoder_trunk& operator=(decoder_trunk const& other) { return *this = decoder_trunk(other); }
  decoder_trunk& operator=(decoder_trunk&&) noexcept = default;

  decoder_options const& options() const noexcept { return options_; }
  std::size_t head_dim() const noexcept { return options_.dim / options_.heads; }
  std::size_t kv_dim() const noexcept { return head_dim() * options_.kv_heads; }
  std::size_t qkv_width() const noexcept { return attune::qkv_width(options_); }
  thread_pool* pool() const noexcept { return pool_.get(); }
  std::shared_ptr<thread_pool> shared_pool() const noexcept { return pool_; }
  rope_table<T> const& rope() const noexcept { return rope_; }
  tensor_store<T>& store() noexcept { return store_; }
  tensor_store<T> const& store() const noexcept { return store_; }
  decoder_weights<T> const& weights() const noexcept { return weights_; }
  typename tensor_store<T>::tensor head(std::size_t i) const noexcept { return heads_[i]; }

  /// Takes over the values of another trunk of the same shape; heads are left as they are.
  void copy_values(decoder_trunk const& other) {
    expects(options_ == other.options_, "decoder_trunk::copy_values: a trunk of the same options");
    for (std::size_t i = 0; i + heads_.size() < store_.size(); ++i)
      std::ranges::copy(other.store_.values_of(i), store_.values_of(i).begin());
  }

  /// Multiply-adds times two of all matrix products since construction.
  double flops() const noexcept { return flops_; }
  void count_flops(double flops) const noexcept { flops_ += flops; }

  /// Hidden states after the final norm (total_tokens, dim), valid until the next call. Throws contract_violation for
  /// ids outside the vocabulary and sequences longer than the window.
  matrix_view<T const> forward(sequences_view s, activations how) const {
    validate(s, options_.vocabulary);
    for (std::size_t b = 0; b < s.size(); ++b)
      if (s.length(b) > options_.window)
        throw contract_violation("sequence " + std::to_string(b) + ": expected at most window = " +
                                 std::to_string(options_.window) + " tokens, got " + std::to_string(s.length(b)));
    if (!work_) work_ = std::make_unique<buffers>();
    buffers& w = *work_;
    w.prepare(s, options_, how, pool_ ? pool_->threads() : 1);
    std::size_t const dim = options_.dim;
    for (std::size_t t = 0; t < w.tokens; ++t) {
      T const* const row = store_.value(weights_.embedding).row(static_cast<std::size_t>(s.tokens[t]));
      std::copy_n(row, dim, w.layers[0].x.data() + t * dim);
    }
    for (std::size_t l = 0; l < options_.layers; ++l) forward_layer(w, s, l, how);
    aligned_buffer<T> const& x = how == activations::keep ? w.x_final : w.layers[0].x;
    for_row_blocks(w, [&](std::size_t first, std::size_t rows) {
      rms_norm<T>(as_matrix(x.data() + first * dim, rows, dim), store_.value(weights_.norm).data,
                  static_cast<T>(options_.norm_epsilon), as_matrix(w.hidden.data() + first * dim, rows, dim),
                  w.final_scale.data() + first);
    });
    flops_ += forward_flops(s);
    return as_matrix<T const>(w.hidden.data(), w.tokens, dim);
  }

  /// Keys and values of layer l of the last forward(s, keep): columns of this (total_tokens, qkv_width) view.
  matrix_view<T const> kept_qkv(std::size_t l) const noexcept {
    return as_matrix<T const>(work_->layers[l].qkv.data(), work_->tokens, qkv_width());
  }

  /// Adds the gradient of sum(d_hidden * hidden) to the parameters' gradients. Expects forward(s, keep) just before,
  /// and d_hidden (total_tokens, dim); the rows are overwritten.
  void backward(sequences_view s, matrix_view<T const> d_hidden) {
    buffers& w = *work_;
    std::size_t const dim = options_.dim;
    store_.parameters();  // makes the gradients, before threads look at them
    w.prepare_backward(options_);
    for_row_blocks(w, [&](std::size_t first, std::size_t rows) {
      auto const dx = as_matrix(w.dx_out.data() + first * dim, rows, dim);
      std::fill_n(dx.data, rows * dim, T(0));
      std::size_t const real = (std::min)(rows, w.tokens > first ? w.tokens - first : 0);
      rms_norm_adjoint<T>(as_matrix<T const>(w.x_final.data() + first * dim, real, dim),
                          store_.value(weights_.norm).data, w.final_scale.data() + first,
                          d_hidden.middle_rows(first, real), dx.middle_rows(0, real), w.gain_partial(first, dim));
    });
    w.reduce_gain(store_.gradient(weights_.norm).data, dim);
    for (std::size_t l = options_.layers; l-- > 0;) backward_layer(w, s, l);
    matrix_view<T> const embedding = store_.gradient(weights_.embedding);
    std::size_t constexpr slice = 64;
    run((dim + slice - 1) / slice, [&](std::size_t task, std::size_t) {
      std::size_t const first = task * slice;
      std::size_t const count = (std::min)(slice, dim - first);
      for (std::size_t t = 0; t < w.tokens; ++t) {
        T* const into = embedding.row(static_cast<std::size_t>(s.tokens[t])) + first;
        T const* const from = w.dx_out.data() + t * dim + first;
        for (std::size_t i = 0; i < count; ++i) into[i] += from[i];
      }
    });
    flops_ += 2.0 * forward_flops(s) + 0.5 * attention_flops(s);  // attention's backward rebuilds the scores
  }

  /// Runs f(task, worker) for task = 0 .. count - 1, on the pool if there is one.
  template <class F>
  void run(std::size_t count, F&& f) const {
    if (pool_)
      pool_->for_each(count, f);
    else
      for (std::size_t i = 0; i < count; ++i) f(i, std::size_t{0});
  }

 private:
  using buffers = decoder_activations<T>;

  static constexpr std::size_t row_block = buffers::row_block;
  static constexpr std::size_t weight_block = 64;

  template <class F>
  void for_row_blocks(buffers const& w, F&& f) const {
    run((w.rows + row_block - 1) / row_block, [&](std::size_t task, std::size_t) {
      std::size_t const first = task * row_block;
      f(first, (std::min)(row_block, w.rows - first));
    });
  }

  double attention_flops(sequences_view s) const noexcept {
    double pairs = 0.0;  // of query and key, the future left out
    for (std::size_t b = 0; b < s.size(); ++b)
      pairs += 0.5 * static_cast<double>(s.length(b)) * static_cast<double>(s.length(b) + 1);
    return static_cast<double>(options_.layers) * 4.0 * static_cast<double>(options_.dim) * pairs;
  }

  double forward_flops(sequences_view s) const noexcept {
    double const weights = static_cast<double>(options_.dim * (qkv_width() + options_.dim + 3 * options_.hidden));
    return 2.0 * static_cast<double>(options_.layers) * weights * static_cast<double>(s.total_tokens()) +
           attention_flops(s);
  }

  /// One sequence and one key/value head in packed (T, qkv_width) rows.
  attention_group<T> group_of(matrix_view<T const> qkv, sequences_view s, std::size_t b, std::size_t g) const noexcept {
    std::size_t const group = options_.heads / options_.kv_heads;
    matrix_view<T const> const rows = qkv.middle_rows(s.offsets[b], s.length(b));
    return {columns(rows, g * group * head_dim(), group * head_dim()),
            columns(rows, options_.dim + g * head_dim(), head_dim()),
            columns(rows, options_.dim + kv_dim() + g * head_dim(), head_dim()), group};
  }

  void forward_layer(buffers& w, sequences_view s, std::size_t l, activations how) const {
    bool const keep = how == activations::keep;
    layer_activations<T>& b = w.layers[keep ? l : 0];
    T* const next = !keep ? b.x.data() : l + 1 < options_.layers ? w.layers[l + 1].x.data() : w.x_final.data();
    auto const& p = weights_.layers[l];
    std::size_t const dim = options_.dim, hidden = options_.hidden, width = qkv_width();
    T const epsilon = static_cast<T>(options_.norm_epsilon);

    for_row_blocks(w, [&](std::size_t first, std::size_t rows) {
      auto const n1 = as_matrix(w.n1.data() + first * dim, rows, dim);
      auto const qkv = as_matrix(b.qkv.data() + first * width, rows, width);
      rms_norm<T>(as_matrix(b.x.data() + first * dim, rows, dim), store_.value(p.attention_norm).data, epsilon, n1,
                  b.scale1.data() + first);
      gemm_nt<T>(n1, store_.value(p.wqkv), qkv);
      for (std::size_t r = 0; r < rows; ++r)
        rope_.rotate(qkv.row(r), options_.heads + options_.kv_heads, w.position[first + r]);
    });

    matrix_view<T const> const qkv = as_matrix<T const>(b.qkv.data(), w.tokens, width);
    std::size_t const group_width = dim / options_.kv_heads;
    run(s.size() * options_.kv_heads, [&](std::size_t task, std::size_t worker) {
      std::size_t const sequence = task / options_.kv_heads, g = task % options_.kv_heads;
      std::size_t const first = s.offsets[sequence];
      if (s.length(sequence) == 0) return;
      causal_attention<T>(
          group_of(qkv, s, sequence, g),
          columns(as_matrix(b.attended.data() + first * dim, s.length(sequence), dim), g * group_width, group_width),
          b.normalizer.data() + first * options_.heads + g * (options_.heads / options_.kv_heads), options_.heads,
          w.attention_of(worker));
    });

    for_row_blocks(w, [&](std::size_t first, std::size_t rows) {
      auto const x_mid = as_matrix(b.x_mid.data() + first * dim, rows, dim);
      auto const n2 = as_matrix(w.n2.data() + first * dim, rows, dim);
      auto const h = as_matrix(w.h.data() + first * hidden, rows, hidden);
      auto const gate_up = as_matrix(b.gate_up.data() + first * 2 * hidden, rows, 2 * hidden);
      std::copy_n(b.x.data() + first * dim, rows * dim, x_mid.data);
      gemm_nt<T>(as_matrix<T const>(b.attended.data() + first * dim, rows, dim), store_.value(p.wo), x_mid,
                 product::add);
      rms_norm<T>(x_mid, store_.value(p.ffn_norm).data, epsilon, n2, b.scale2.data() + first);
      gemm_nt<T>(n2, store_.value(p.w13), gate_up);
      swiglu<T>(gate_up, h);
      std::copy_n(x_mid.data, rows * dim, next + first * dim);
      gemm_nt<T>(h, store_.value(p.w2), as_matrix(next + first * dim, rows, dim), product::add);
    });
  }

  void backward_layer(buffers& w, sequences_view s, std::size_t l) {
    layer_activations<T>& b = w.layers[l];
    auto const& p = weights_.layers[l];
    std::size_t const dim = options_.dim, hidden = options_.hidden, width = qkv_width();
    T const epsilon = static_cast<T>(options_.norm_epsilon);
    decoder_trunk const& self = *this;  // weights are read through the constant view

    for_row_blocks(w, [&](std::size_t first, std::size_t rows) {
      auto const at = [&](aligned_buffer<T>& m, std::size_t cols) {
        return as_matrix(m.data() + first * cols, rows, cols);
      };
      gemm_nn<T>(at(w.dx_out, dim), self.store_.value(p.w2), at(w.d_h, hidden));
      swiglu_adjoint<T>(at(b.gate_up, 2 * hidden), at(w.d_h, hidden), at(w.d_gate_up, 2 * hidden), at(w.h, hidden));
      gemm_nn<T>(at(w.d_gate_up, 2 * hidden), self.store_.value(p.w13), at(w.d_normed, dim));
      std::copy_n(w.dx_out.data() + first * dim, rows * dim, w.dx_mid.data() + first * dim);
      rms_norm_adjoint<T>(at(b.x_mid, dim), self.store_.value(p.ffn_norm).data, b.scale2.data() + first,
                          at(w.d_normed, dim), at(w.dx_mid, dim), w.gain_partial(first, dim));
      rms_norm<T>(at(b.x_mid, dim), self.store_.value(p.ffn_norm).data, epsilon, at(w.n2, dim),
                  b.scale2.data() + first);
      gemm_nn<T>(at(w.dx_mid, dim), self.store_.value(p.wo), at(w.d_attended, dim));
    });
    w.reduce_gain(store_.gradient(p.ffn_norm).data, dim);

    matrix_view<T const> const qkv = as_matrix<T const>(b.qkv.data(), w.tokens, width);
    std::size_t const group = options_.heads / options_.kv_heads, group_width = dim / options_.kv_heads;
    run(s.size() * options_.kv_heads, [&](std::size_t task, std::size_t worker) {
      std::size_t const sequence = task / options_.kv_heads, g = task % options_.kv_heads;
      std::size_t const first = s.offsets[sequence], length = s.length(sequence);
      if (length == 0) return;
      auto const rows_of = [&](aligned_buffer<T>& m) {
        return columns(as_matrix<T>(m.data() + first * dim, length, dim), g * group_width, group_width);
      };
      matrix_view<T> const d_rows = as_matrix(w.d_qkv.data() + first * width, length, width);
      causal_attention_adjoint<T>(group_of(qkv, s, sequence, g), rows_of(b.attended), rows_of(w.d_attended),
                                  b.normalizer.data() + first * options_.heads + g * group, options_.heads,
                                  columns(d_rows, g * group_width, group_width),
                                  columns(d_rows, dim + g * head_dim(), head_dim()),
                                  columns(d_rows, dim + kv_dim() + g * head_dim(), head_dim()),
                                  w.attention_of(worker));
    });

    for_row_blocks(w, [&](std::size_t first, std::size_t rows) {
      auto const at = [&](aligned_buffer<T>& m, std::size_t cols) {
        return as_matrix(m.data() + first * cols, rows, cols);
      };
      auto const d_qkv = at(w.d_qkv, width);
      for (std::size_t r = 0; r < rows; ++r)
        rope_.rotate_back(d_qkv.row(r), options_.heads + options_.kv_heads, w.position[first + r]);
      gemm_nn<T>(d_qkv, self.store_.value(p.wqkv), at(w.d_normed, dim));
      std::copy_n(w.dx_mid.data() + first * dim, rows * dim, w.dx_in.data() + first * dim);
      rms_norm_adjoint<T>(at(b.x, dim), self.store_.value(p.attention_norm).data, b.scale1.data() + first,
                          at(w.d_normed, dim), at(w.dx_in, dim), w.gain_partial(first, dim));
      rms_norm<T>(at(b.x, dim), self.store_.value(p.attention_norm).data, epsilon, at(w.n1, dim),
                  b.scale1.data() + first);
    });
    w.reduce_gain(store_.gradient(p.attention_norm).data, dim);

    // All four weight gradients as one list of tasks, each a block of output rows summed over all tokens.
    struct weight_task {
      T const* out;
      T const* in;
      matrix_view<T> gradient;
    };
    weight_task const products[] = {{w.d_qkv.data(), w.n1.data(), store_.gradient(p.wqkv)},
                                    {w.dx_mid.data(), b.attended.data(), store_.gradient(p.wo)},
                                    {w.d_gate_up.data(), w.n2.data(), store_.gradient(p.w13)},
                                    {w.dx_out.data(), w.h.data(), store_.gradient(p.w2)}};
    std::size_t tasks = 0;
    for (weight_task const& t : products) tasks += (t.gradient.rows + weight_block - 1) / weight_block;
    run(tasks, [&](std::size_t task, std::size_t) {
      for (weight_task const& t : products) {
        std::size_t const blocks = (t.gradient.rows + weight_block - 1) / weight_block;
        if (task >= blocks) {
          task -= blocks;
          continue;
        }
        std::size_t const first = task * weight_block, count = (std::min)(weight_block, t.gradient.rows - first);
        gemm_tn<T>(columns(as_matrix<T const>(t.out, w.rows, t.gradient.rows), first, count),
                   as_matrix<T const>(t.in, w.rows, t.gradient.cols), t.gradient.middle_rows(first, count),
                   product::add);
        return;
      }
    });
    std::swap(w.dx_out, w.dx_in);
  }

  decoder_options options_;
  std::shared_ptr<thread_pool> pool_;
  tensor_store<T> store_;
  decoder_weights<T> weights_;
  std::vector<typename tensor_store<T>::tensor> heads_;
  rope_table<T> rope_;
  mutable std::unique_ptr<buffers> work_;
  mutable double flops_ = 0.0;
};

}  // namespace attune
