// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <attune/core/aligned_buffer.hpp>
#include <attune/core/parameter.hpp>
#include <attune/core/random.hpp>
#include <attune/core/view.hpp>
#include <attune/model/decoder_options.hpp>

/// Named tensors in one contiguous, cache-line-aligned buffer, and their gradients in a second one of the same layout.
/// Matrices are stored (out, in), row-major. The gradient buffer is made when first asked for, so a model that is only
/// read (a reference, a frozen copy) costs its values alone.
namespace attune {

template <class T>
class tensor_store {
 public:
  struct tensor {
    std::size_t offset = 0;
    std::size_t rows = 0;
    std::size_t cols = 0;
  };

  tensor_store() = default;
  /// Copies values; the copy's gradients are zero and not yet made.
  tensor_store(tensor_store const& other)
      : names_(other.names_), tensors_(other.tensors_), decay_(other.decay_), values_(other.values_) {}
  tensor_store(tensor_store&&) noexcept = default;
  tensor_store& operator=(tensor_store const& other) { return *this = tensor_store(other); }
  tensor_store& operator=(tensor_store&&) noexcept = default;

  /// Adds a tensor; call allocate() once after the last. Tensors added one after another with cols a multiple of 16
  /// elements are adjacent, so that q, k and v, say, are one matrix for the product and three names for the user.
  tensor add(std::string name, std::size_t rows, std::size_t cols, bool decay) {
    std::size_t const offset = size_;
    std::size_t constexpr line = aligned_buffer<T>::alignment / sizeof(T);
    size_ += rows * cols;
    if (cols % line != 0 && !joined_) size_ = (size_ + line - 1) / line * line;
    names_.push_back(std::move(name));
    tensors_.push_back({offset, rows, cols});
    decay_.push_back(decay);
    return tensors_.back();
  }

  /// Adds several tensors that share their columns as one matrix without gaps.
  tensor add_joined(std::vector<std::pair<std::string, std::size_t>> const& parts, std::size_t cols, bool decay) {
    std::size_t const offset = size_;
    std::size_t rows = 0;
    joined_ = true;
    for (auto const& [name, part_rows] : parts) {
      add(name, part_rows, cols, decay);
      rows += part_rows;
    }
    joined_ = false;
    std::size_t constexpr line = aligned_buffer<T>::alignment / sizeof(T);
    size_ = (size_ + line - 1) / line * line;
    return {offset, rows, cols};
  }

  void allocate() { values_.resize(size_); }

  matrix_view<T const> value(tensor t) const noexcept { return as_matrix(values_.data() + t.offset, t.rows, t.cols); }
  matrix_view<T> value(tensor t) noexcept { return as_matrix(values_.data() + t.offset, t.rows, t.cols); }
  matrix_view<T> gradient(tensor t) {
    ensure_gradients();
    return as_matrix(gradients_.data() + t.offset, t.rows, t.cols);
  }

  /// One view per name; the same addresses at every call.
  std::vector<parameter<T>> const& parameters() {
    ensure_gradients();
    if (views_.empty())
      for (std::size_t i = 0; i < tensors_.size(); ++i) {
        tensor const& t = tensors_[i];
        std::size_t const count = t.rows * t.cols;
        views_.push_back({names_[i],
                          values_.span().subspan(t.offset, count),
                          gradients_.span().subspan(t.offset, count),
                          {t.rows, t.cols},
                          decay_[i]});
      }
    return views_;
  }

  /// The values of the i-th tensor, in order of addition.
  std::span<T const> values_of(std::size_t i) const noexcept {
    return values_.span().subspan(tensors_[i].offset, tensors_[i].rows * tensors_[i].cols);
  }

  std::span<T> values_of(std::size_t i) noexcept {
    return values_.span().subspan(tensors_[i].offset, tensors_[i].rows * tensors_[i].cols);
  }

  /// A tensor of one row, as a vector.
  std::span<T const> vector(tensor t) const noexcept { return values_.span().subspan(t.offset, t.cols); }
  std::span<T> vector(tensor t) noexcept { return values_.span().subspan(t.offset, t.cols); }
  std::span<T> vector_gradient(tensor t) { return {gradient(t).data, t.cols}; }

  std::size_t size() const noexcept { return tensors_.size(); }
  std::size_t parameter_count() const noexcept {
    std::size_t count = 0;
    for (tensor const& t : tensors_) count += t.rows * t.cols;
    return count;
  }

 private:
  void ensure_gradients() {
    if (gradients_.size() != values_.size()) gradients_.resize(values_.size());
  }

  std::deque<std::string> names_;  // a deque: views into its strings survive growth and moves
  std::vector<tensor> tensors_;
  std::vector<bool> decay_;
  std::size_t size_ = 0;
  bool joined_ = false;
  aligned_buffer<T> values_;
  aligned_buffer<T> gradients_;
  std::vector<parameter<T>> views_;
};

/// The tensors of a decoder's trunk: everything but an untied output matrix. Names are those of Meta's Llama files.
template <class T>
struct decoder_weights {
  using tensor = typename tensor_store<T>::tensor;

  struct layer {
    tensor attention_norm;  // (1, dim)
    tensor wqkv;            // (dim + 2 kv_dim, dim): wq, wk, wv
    tensor wo;              // (dim, dim)
    tensor ffn_norm;        // (1, dim)
    tensor w13;             // (2 hidden, dim): w1 (gate), w3 (up)
    tensor w2;              // (dim, hidden)
  };

  tensor embedding;  // (vocabulary, dim)
  std::vector<layer> layers;
  tensor norm;  // (1, dim)
};

/// Lays the trunk out in a store; allocate() is left to the caller, who may add a head first.
template <class T>
[[nodiscard]] decoder_weights<T> add_decoder_weights(tensor_store<T>& store, decoder_options const& o) {
  std::size_t const kv_dim = o.dim / o.heads * o.kv_heads;
  decoder_weights<T> w;
  w.embedding = store.add("tok_embeddings.weight", o.vocabulary, o.dim, false);
  for (std::size_t l = 0; l < o.layers; ++l) {
    std::string const prefix = "layers." + std::to_string(l) + ".";
    typename decoder_weights<T>::layer layer;
    layer.attention_norm = store.add(prefix + "attention_norm.weight", 1, o.dim, false);
    layer.wqkv = store.add_joined({{prefix + "attention.wq.weight", o.dim},
                                   {prefix + "attention.wk.weight", kv_dim},
                                   {prefix + "attention.wv.weight", kv_dim}},
                                  o.dim, true);
    layer.wo = store.add(prefix + "attention.wo.weight", o.dim, o.dim, true);
    layer.ffn_norm = store.add(prefix + "ffn_norm.weight", 1, o.dim, false);
    layer.w13 = store.add_joined(
        {{prefix + "feed_forward.w1.weight", o.hidden}, {prefix + "feed_forward.w3.weight", o.hidden}}, o.dim, true);
    layer.w2 = store.add(prefix + "feed_forward.w2.weight", o.dim, o.hidden, true);
    w.layers.push_back(layer);
  }
  w.norm = store.add("norm.weight", 1, o.dim, false);
  return w;
}

/// "Small init" (Nguyen & Salazar 2019): normal with variance 2 / (5 dim); the two projections that write to the
/// residual stream are divided by sqrt(2 layers) besides (Radford et al. 2019). Norm gains are 1.
/// Tensor i draws from stream i of the seed.
template <class T>
void initialize(tensor_store<T>& store, decoder_options const& o, std::uint64_t seed) {
  std::uint64_t stream = 0;
  double const deviation = std::sqrt(2.0 / (5.0 * static_cast<double>(o.dim)));
  for (parameter<T> const& p : store.parameters()) {
    random_stream random(seed, stream++);
    bool const gain = p.name.ends_with("norm.weight");
    bool const residual = p.name.ends_with("wo.weight") || p.name.ends_with("w2.weight");
    double const scale = residual ? deviation / std::sqrt(2.0 * static_cast<double>(o.layers)) : deviation;
    for (T& value : p.value) value = gain ? T(1) : static_cast<T>(scale * random.normal());
  }
}

}  // namespace attune
