// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <attune/backend/eigen_gemm.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/core/sequences.hpp>
#include <attune/model/causal_attention.hpp>
#include <attune/model/decoder_options.hpp>

/// The memory of a decoder's two passes. Everything is grown to the largest batch seen and then reused. T below is the
/// number of tokens, rounded up to gemm_row_multiple; the rows past the last token hold zeros and stay so.
namespace attune {

/// What a forward pass is for: reading its result, or a backward pass after it.
enum class activations { discard, keep };

/// Width of a row that holds all queries, keys and values of a token.
[[nodiscard]] inline std::size_t qkv_width(decoder_options const& o) noexcept {
  return o.dim + 2 * (o.dim / o.heads) * o.kv_heads;
}

/// What one layer's backward pass reads of its forward pass. Normalised inputs and the gated product are made again:
/// cheap arithmetic for a third of the memory.
template <class T>
struct layer_activations {
  aligned_buffer<T> x;           // (T, dim) input of the layer
  aligned_buffer<T> qkv;         // (T, qkv_width) after rotation
  aligned_buffer<T> normalizer;  // (T, heads) of the attention's softmax
  aligned_buffer<T> attended;    // (T, dim)
  aligned_buffer<T> x_mid;       // (T, dim) after attention
  aligned_buffer<T> gate_up;     // (T, 2 hidden)
  aligned_buffer<T> scale1;      // (T) of the two norms
  aligned_buffer<T> scale2;
};

template <class T>
struct decoder_activations {
  static constexpr std::size_t row_block = 128;  // rows of one task; a multiple of gemm_row_multiple

  std::size_t tokens = 0;
  std::size_t rows = 0;                       // tokens, padded
  std::vector<std::uint32_t> position;        // (rows) of each row in its sequence; 0 in padding
  std::vector<layer_activations<T>> layers;   // all of them if kept, else the first serves for all
  aligned_buffer<T> x_final;                  // (T, dim) before the final norm, if kept
  aligned_buffer<T> hidden;                   // (T, dim) after it
  aligned_buffer<T> final_scale;              // (T)
  aligned_buffer<T> n1, n2, h;                // (T, dim) (T, dim) (T, hidden) inputs of the products of one layer

  // Of the backward pass.
  aligned_buffer<T> dx_out, dx_mid, dx_in, d_normed, d_attended;  // (T, dim)
  aligned_buffer<T> d_qkv, d_gate_up, d_h;                        // (T, qkv_width) (T, 2 hidden) (T, hidden)

  void prepare(sequences_view s, decoder_options const& o, activations how, std::size_t threads) {
    tokens = s.total_tokens();
    rows = padded_rows(tokens);
    std::size_t const kept_layers = how == activations::keep ? o.layers : 1;
    if (layers.size() < kept_layers) layers.resize(kept_layers);
    for (std::size_t l = 0; l < kept_layers; ++l) {
      layer_activations<T>& b = layers[l];
      for (aligned_buffer<T>* m : {&b.x, &b.attended, &b.x_mid}) m->resize(rows * o.dim);
      b.qkv.resize(rows * qkv_width(o));
      b.normalizer.resize(rows * o.heads);
      b.gate_up.resize(rows * 2 * o.hidden);
      b.scale1.resize(rows);
      b.scale2.resize(rows);
      clear_padding(b.x, o.dim);
      clear_padding(b.attended, o.dim);
    }
    if (how == activations::keep) x_final.resize(rows * o.dim);
    for (aligned_buffer<T>* m : {&hidden, &n1, &n2}) m->resize(rows * o.dim);
    h.resize(rows * o.hidden);
    final_scale.resize(rows);
    position.assign(rows, 0);
    std::size_t longest = 1;
    for (std::size_t b = 0; b < s.size(); ++b) {
      longest = (std::max)(longest, s.length(b));
      for (std::size_t i = 0; i < s.length(b); ++i) position[s.offsets[b] + i] = static_cast<std::uint32_t>(i);
    }
    scratch_ = attention_scratch(longest);
    attention_.resize(scratch_ * threads);
  }

  void prepare_backward(decoder_options const& o) {
    for (aligned_buffer<T>* m : {&dx_out, &dx_mid, &dx_in, &d_normed, &d_attended}) m->resize(rows * o.dim);
    d_qkv.resize(rows * qkv_width(o));
    clear_padding(d_qkv, qkv_width(o));
    d_gate_up.resize(rows * 2 * o.hidden);
    d_h.resize(rows * o.hidden);
    gain_blocks_ = (rows + row_block - 1) / row_block;
    gain_partials_.resize(gain_blocks_ * o.dim);
    std::fill_n(gain_partials_.data(), gain_blocks_ * o.dim, T(0));
  }

  /// Attention scratch of one worker.
  T* attention_of(std::size_t worker) noexcept { return attention_.data() + worker * scratch_; }

  /// Where the block of rows that starts at `first` sums its part of a norm's gain gradient (dim).
  T* gain_partial(std::size_t first, std::size_t dim) noexcept {
    return gain_partials_.data() + first / row_block * dim;
  }

  /// Adds the blocks' parts in order, whoever made them, and clears them for the next norm.
  void reduce_gain(T* gradient, std::size_t dim) noexcept {
    for (std::size_t block = 0; block < gain_blocks_; ++block)
      for (std::size_t i = 0; i < dim; ++i) {
        gradient[i] += gain_partials_[block * dim + i];
        gain_partials_[block * dim + i] = T(0);
      }
  }

 private:
  void clear_padding(aligned_buffer<T>& m, std::size_t cols) noexcept {
    std::fill(m.data() + tokens * cols, m.data() + rows * cols, T(0));
  }

  aligned_buffer<T> gain_partials_, attention_;
  std::size_t gain_blocks_ = 0;
  std::size_t scratch_ = 0;
};

}  // namespace attune
