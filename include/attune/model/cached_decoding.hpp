// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <attune/backend/eigen_gemm.hpp>
#include <attune/concepts/generative_policy.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/core/random.hpp>
#include <attune/kernel/vector_exp.hpp>
#include <attune/model/decoder_trunk.hpp>
#include <attune/model/token_sampler.hpp>

/// Token-by-token generation with a key/value cache.
///
/// Prompts are read by one packed forward pass per wave; then the wave is dealt out to the threads in groups, and every
/// group decodes to its end as one task, all layers of a step at a time, dropping sequences as they finish: the larger
/// a group, the more often a weight that was fetched and packed is used. Rows are padded to gemm_row_multiple, so a
/// sequence's logits, and with counter-based random numbers its sample, are the same bits whatever it shares a group
/// with and however many threads run. Buffers are kept and reused: a call like one before it allocates nothing but
/// Eigen's packing buffers.
namespace attune {

template <class T>
class cached_decoding {
 public:
  /// Overwrites `out` with every prompt and its completion, and `logps`, unless it is null, with what the sampler gave
  /// each token; see ScoredGenerativePolicy. `output` is the output matrix (vocabulary, dim), `temperature` the
  /// policy's.
  void generate(decoder_trunk<T> const& trunk, matrix_view<T const> output, double temperature, sequences_view prompts,
                sampling_options const& options, sequences& out, std::vector<T>* logps) {
    validate(options);
    decoder_options const& o = trunk.options();
    validate(prompts, o.vocabulary);
    for (std::size_t b = 0; b < prompts.size(); ++b) {
      if (prompts.length(b) == 0) throw contract_violation("generate: prompt " + std::to_string(b) + " is empty");
      if (prompts.length(b) >= o.window)
        throw contract_violation("generate: prompt " + std::to_string(b) + " of " + std::to_string(prompts.length(b)) +
                                 " tokens fills the window of " + std::to_string(o.window));
    }
    out.clear();
    if (logps != nullptr) logps->clear();
    for (std::size_t first = 0; first < prompts.size(); first += wave_size) {
      std::size_t const count = (std::min)(wave_size, prompts.size() - first);
      read_prompts(trunk, prompts, first, count, options);
      std::size_t const threads = trunk.pool() ? trunk.pool()->threads() : 1;
      std::size_t const group_size = (std::max)(smallest_group, padded_rows((count + threads - 1) / threads));
      std::size_t const groups = (count + group_size - 1) / group_size;
      workers_.resize(threads);
      // Here, since which worker meets which group is chance.
      for (scratch& w : workers_) prepare(w, trunk, group_size);
      trunk.run(groups, [&](std::size_t group, std::size_t worker) {
        std::size_t const from = group * group_size;
        decode_group(trunk, output, temperature, prompts, first, from, (std::min)(group_size, count - from), options,
                     workers_[worker]);
      });
      std::size_t steps = 0;
      for (std::size_t i = 0; i < count; ++i) {
        out.push_back(prompts.sequence(first + i), completions_[i]);
        if (logps != nullptr) {
          logps->insert(logps->end(), prompts.length(first + i), T(0));
          logps->insert(logps->end(), logps_[i].begin(), logps_[i].end());
        }
        steps += completions_[i].size();
      }
      double const weights = static_cast<double>(o.layers * o.dim * (trunk.qkv_width() + o.dim + 3 * o.hidden) +
                                                 o.dim * o.vocabulary);
      trunk.count_flops(2.0 * weights * static_cast<double>(steps));
    }
  }

 private:
  static constexpr std::size_t wave_size = 64;
  static constexpr std::size_t smallest_group = 8;

  struct scratch {
    aligned_buffer<T> x, normed, qkv, attended, gate_up, h, logits, scale, scores;
    std::vector<std::size_t> active;  // indices in the wave
    token_sampler sampler;
  };

  T* key(std::size_t l, std::size_t i, std::size_t position) noexcept {
    return cache_.data() + (((l * wave_size + i) * capacity_) + position) * 2 * kv_dim_;
  }

  void read_prompts(decoder_trunk<T> const& trunk, sequences_view prompts, std::size_t first, std::size_t count,
                    sampling_options const& options) {
    decoder_options const& o = trunk.options();
    std::size_t longest = 0;
    wave_.clear();
    completions_.resize(wave_size);
    logps_.resize(wave_size);
    for (std::size_t i = 0; i < count; ++i) {
      wave_.push_back(prompts.sequence(first + i), {});
      longest = (std::max)(longest, prompts.length(first + i));
      completions_[i].clear();
      logps_[i].clear();
    }
    kv_dim_ = trunk.kv_dim();
    capacity_ = (std::min)(o.window, longest + options.max_new_tokens);
    cache_.resize(o.layers * wave_size * capacity_ * 2 * kv_dim_);
    last_hidden_.resize(wave_size * o.dim);
    sequences_view const s = wave_;
    matrix_view<T const> const hidden = trunk.forward(s, activations::keep);
    for (std::size_t i = 0; i < count; ++i) {
      std::copy_n(hidden.row(s.offsets[i + 1] - 1), o.dim, last_hidden_.data() + i * o.dim);
      for (std::size_t l = 0; l < o.layers; ++l) {
        matrix_view<T const> const qkv = trunk.kept_qkv(l);
        for (std::size_t p = 0; p < s.length(i); ++p)
          std::copy_n(qkv.row(s.offsets[i] + p) + o.dim, 2 * kv_dim_, key(l, i, p));
      }
    }
  }

  void prepare(scratch& w, decoder_trunk<T> const& trunk, std::size_t group_size) const {
    decoder_options const& o = trunk.options();
    std::size_t const most_rows = padded_rows(group_size);
    for (aligned_buffer<T>* m : {&w.x, &w.normed, &w.attended}) m->resize(most_rows * o.dim);
    w.qkv.resize(most_rows * trunk.qkv_width());
    w.gate_up.resize(most_rows * 2 * o.hidden);
    w.h.resize(most_rows * o.hidden);
    w.logits.resize(most_rows * o.vocabulary);
    w.scale.resize(most_rows);
    w.scores.resize(capacity_);
    w.active.reserve(group_size);
    w.sampler.reserve(o.vocabulary);
  }

  void decode_group(decoder_trunk<T> const& trunk, matrix_view<T const> output, double temperature,
                    sequences_view prompts, std::size_t wave_first, std::size_t from, std::size_t count,
                    sampling_options const& options, scratch& w) {
    decoder_options const& o = trunk.options();
    w.active.clear();
    for (std::size_t i = 0; i < count; ++i) {
      w.active.push_back(from + i);
      std::copy_n(last_hidden_.data() + (from + i) * o.dim, o.dim, w.normed.data() + i * o.dim);
    }
    for (;;) {
      std::size_t const rows = padded_rows(w.active.size());
      std::fill(w.normed.data() + w.active.size() * o.dim, w.normed.data() + rows * o.dim, T(0));
      gemm_nt<T>(as_matrix<T const>(w.normed.data(), rows, o.dim), output,
                 as_matrix(w.logits.data(), rows, o.vocabulary));
      std::size_t kept = 0;
      for (std::size_t r = 0; r < w.active.size(); ++r) {
        std::size_t const i = w.active[r];
        std::vector<token_id>& completion = completions_[i];
        random_stream random(options.seed, options.first_stream + wave_first + i, completion.size());
        sampled_token const next = w.sampler(std::span<T const>(w.logits.data() + r * o.vocabulary, o.vocabulary),
                                             options, random, temperature);
        completion.push_back(next.id);
        logps_[i].push_back(static_cast<T>(next.logp));
        bool const ended = options.stops(next.id) || completion.size() == options.max_new_tokens ||
                           prompts.length(wave_first + i) + completion.size() >= capacity_;
        if (!ended) w.active[kept++] = i;
      }
      w.active.resize(kept);
      if (kept == 0) return;
      step(trunk, prompts, wave_first, w);
    }
  }

  /// Runs the newest token of every active sequence through all layers; leaves the final hidden rows in w.normed.
  void step(decoder_trunk<T> const& trunk, sequences_view prompts, std::size_t wave_first, scratch& w) {
    decoder_options const& o = trunk.options();
    auto const& weights = trunk.weights();
    tensor_store<T> const& store = trunk.store();
    std::size_t const rows = padded_rows(w.active.size()), dim = o.dim, width = trunk.qkv_width();
    T const epsilon = static_cast<T>(o.norm_epsilon);
    auto const view = [rows](aligned_buffer<T>& b, std::size_t cols) { return as_matrix(b.data(), rows, cols); };
    auto const position = [&](std::size_t r) {
      return prompts.length(wave_first + w.active[r]) + completions_[w.active[r]].size() - 1;
    };
    std::fill_n(w.x.data(), rows * dim, T(0));
    std::fill_n(w.attended.data(), rows * dim, T(0));
    for (std::size_t r = 0; r < w.active.size(); ++r)
      std::copy_n(store.value(weights.embedding).row(static_cast<std::size_t>(completions_[w.active[r]].back())), dim,
                  w.x.data() + r * dim);
    for (std::size_t l = 0; l < o.layers; ++l) {
      auto const& p = weights.layers[l];
      rms_norm<T>(view(w.x, dim), store.value(p.attention_norm).data, epsilon, view(w.normed, dim), w.scale.data());
      gemm_nt<T>(view(w.normed, dim), store.value(p.wqkv), view(w.qkv, width));
      for (std::size_t r = 0; r < w.active.size(); ++r) {
        T* const qkv = w.qkv.data() + r * width;
        trunk.rope().rotate(qkv, o.heads + o.kv_heads, position(r));
        std::copy_n(qkv + dim, 2 * kv_dim_, key(l, w.active[r], position(r)));
        attend(trunk, l, w.active[r], position(r) + 1, qkv, w.attended.data() + r * dim, w.scores.data());
      }
      gemm_nt<T>(view(w.attended, dim), store.value(p.wo), view(w.x, dim), product::add);
      rms_norm<T>(view(w.x, dim), store.value(p.ffn_norm).data, epsilon, view(w.normed, dim), w.scale.data());
      gemm_nt<T>(view(w.normed, dim), store.value(p.w13), view(w.gate_up, 2 * o.hidden));
      swiglu<T>(view(w.gate_up, 2 * o.hidden), view(w.h, o.hidden));
      gemm_nt<T>(view(w.h, o.hidden), store.value(p.w2), view(w.x, dim), product::add);
    }
    rms_norm<T>(view(w.x, dim), store.value(weights.norm).data, epsilon, view(w.normed, dim), w.scale.data());
  }

  void attend(decoder_trunk<T> const& trunk, std::size_t l, std::size_t i, std::size_t seen, T const* q, T* out,
              T* scores) {
    std::size_t const dim = trunk.head_dim();
    std::size_t const group = trunk.options().heads / trunk.options().kv_heads;
    T const scale = T(1) / std::sqrt(static_cast<T>(dim));
    for (std::size_t h = 0; h < trunk.options().heads; ++h) {
      T const* const query = q + h * dim;
      std::size_t const column = (h / group) * dim;
      T maximum = -std::numeric_limits<T>::infinity();
      for (std::size_t p = 0; p < seen; ++p) {
        T const* const k = key(l, i, p) + column;
        T score = 0;
        for (std::size_t c = 0; c < dim; ++c) score += query[c] * k[c];
        scores[p] = score * scale;
        maximum = (std::max)(maximum, scores[p]);
      }
      for (std::size_t p = 0; p < seen; ++p) scores[p] -= maximum;
      vector_exp(scores, seen);
      T const sum = std::accumulate(scores, scores + seen, T(0));
      T* const result = out + h * dim;
      std::fill_n(result, dim, T(0));
      for (std::size_t p = 0; p < seen; ++p) {
        T const* const v = key(l, i, p) + kv_dim_ + column;
        T const weight = scores[p] / sum;
        for (std::size_t c = 0; c < dim; ++c) result[c] += weight * v[c];
      }
    }
  }

  std::size_t kv_dim_ = 0;
  std::size_t capacity_ = 0;
  aligned_buffer<T> cache_;  // (layers, wave_size, capacity, 2 kv_dim): a position's keys, then its values
  aligned_buffer<T> last_hidden_;
  sequences wave_;
  std::vector<std::vector<token_id>> completions_;  // (wave_size)
  std::vector<std::vector<T>> logps_;               // of their tokens
  std::vector<scratch> workers_;
};

}  // namespace attune
