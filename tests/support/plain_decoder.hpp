// SPDX-License-Identifier: MIT
#pragma once

#include <attune/core/parameter.hpp>
#include <attune/core/sequences.hpp>
#include <attune/model/decoder_options.hpp>

#include <cmath>
#include <complex>
#include <map>
#include <string>
#include <vector>

/// A second, independent writing of the decoder's forward pass: one token at a time, plain loops, any number type. With
/// std::complex<double> and an imaginary step of 1e-30 it gives every derivative to rounding error (Squire & Trapp 1998).
namespace attune::test {

inline double real_part(double x) { return x; }
inline double real_part(std::complex<double> x) { return x.real(); }

template <class N>
struct plain_decoder {
  decoder_options o;
  double temperature = 1.0;
  std::map<std::string, std::vector<N>> weights;

  template <class Parameters>
  plain_decoder(decoder_options const& options, Parameters const& parameters) : o(options) {
    for (auto const& p : parameters)
      for (auto const value : p.value) weights[std::string(p.name)].push_back(N(static_cast<double>(value)));
  }

  std::vector<N> product(std::string const& name, std::vector<N> const& x) const {
    std::vector<N> const& w = weights.at(name);
    std::vector<N> y(w.size() / x.size(), N(0));
    for (std::size_t r = 0; r < y.size(); ++r)
      for (std::size_t c = 0; c < x.size(); ++c) y[r] += w[r * x.size() + c] * x[c];
    return y;
  }

  std::vector<N> norm(std::string const& name, std::vector<N> const& x) const {
    using std::sqrt;
    N sum(0);
    for (N const v : x) sum += v * v;
    N const scale = N(1) / sqrt(sum / N(static_cast<double>(x.size())) + N(o.norm_epsilon));
    std::vector<N> y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * weights.at(name)[i];
    return y;
  }

  void rotate(std::vector<N>& x, std::size_t position) const {
    std::size_t const dim = o.dim / o.heads;
    for (std::size_t i = 0; i < x.size(); i += 2) {
      double const frequency = std::pow(o.rope_theta, -static_cast<double>(i % dim) / static_cast<double>(dim));
      std::complex<double> const turn = std::polar(1.0, static_cast<double>(position) * frequency);
      N const a = x[i], b = x[i + 1];
      x[i] = a * turn.real() - b * turn.imag();
      x[i + 1] = a * turn.imag() + b * turn.real();
    }
  }

  /// Hidden states after the final norm, one vector per token of one sequence.
  std::vector<std::vector<N>> hidden(std::span<token_id const> tokens) const {
    using std::exp;
    using std::sqrt;
    std::size_t const head_dim = o.dim / o.heads;
    std::vector<std::vector<std::vector<N>>> keys(o.layers), values(o.layers);
    std::vector<std::vector<N>> out;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      std::vector<N> const& embedding = weights.at("tok_embeddings.weight");
      auto const begin = embedding.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(tokens[t]) * o.dim);
      std::vector<N> x(begin, begin + static_cast<std::ptrdiff_t>(o.dim));
      for (std::size_t l = 0; l < o.layers; ++l) {
        std::string const layer = "layers." + std::to_string(l) + ".";
        std::vector<N> const normed = norm(layer + "attention_norm.weight", x);
        std::vector<N> q = product(layer + "attention.wq.weight", normed), k = product(layer + "attention.wk.weight", normed);
        rotate(q, t);
        rotate(k, t);
        keys[l].push_back(k);
        values[l].push_back(product(layer + "attention.wv.weight", normed));
        std::vector<N> attended(o.dim, N(0));
        for (std::size_t h = 0; h < o.heads; ++h) {
          std::size_t const g = h / (o.heads / o.kv_heads);
          std::vector<N> score(t + 1, N(0));
          double maximum = -1e300;
          for (std::size_t j = 0; j <= t; ++j) {
            for (std::size_t c = 0; c < head_dim; ++c) score[j] += q[h * head_dim + c] * keys[l][j][g * head_dim + c];
            score[j] /= sqrt(N(static_cast<double>(head_dim)));
            maximum = std::max(maximum, real_part(score[j]));
          }
          N sum(0);
          for (N& s : score) sum += (s = exp(s - N(maximum)));
          for (std::size_t j = 0; j <= t; ++j)
            for (std::size_t c = 0; c < head_dim; ++c)
              attended[h * head_dim + c] += score[j] / sum * values[l][j][g * head_dim + c];
        }
        std::vector<N> const projected = product(layer + "attention.wo.weight", attended);
        for (std::size_t i = 0; i < o.dim; ++i) x[i] += projected[i];
        std::vector<N> const normed2 = norm(layer + "ffn_norm.weight", x);
        std::vector<N> gate = product(layer + "feed_forward.w1.weight", normed2);
        std::vector<N> const up = product(layer + "feed_forward.w3.weight", normed2);
        for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (N(1) + exp(-gate[i])) * up[i];
        std::vector<N> const down = product(layer + "feed_forward.w2.weight", gate);
        for (std::size_t i = 0; i < o.dim; ++i) x[i] += down[i];
      }
      out.push_back(norm("norm.weight", x));
    }
    return out;
  }

  /// Logps and terms as the Policy concept aligns them; 0 where the mask is 0.
  void log_probs(sequences_view s, std::vector<N>& logps, std::vector<N>& means, std::vector<N>& entropies,
                 std::vector<N>* normalizers = nullptr, std::vector<N>* collisions = nullptr) const {
    using std::exp;
    using std::log;
    logps.assign(s.total_tokens(), N(0));
    means.assign(s.total_tokens(), N(0));
    entropies.assign(s.total_tokens(), N(0));
    if (normalizers != nullptr) normalizers->assign(s.total_tokens(), N(0));
    if (collisions != nullptr) collisions->assign(s.total_tokens(), N(0));
    for (std::size_t b = 0; b < s.size(); ++b) {
      auto const rows = hidden(s.sequence(b));
      for (std::size_t i = 1; i < s.length(b); ++i) {
        std::size_t const t = s.offsets[b] + i;
        if (!s.mask[t]) continue;
        std::vector<N> logits = product(o.tied ? "tok_embeddings.weight" : "output.weight", rows[i - 1]);
        for (N& z : logits) z /= N(temperature);
        double maximum = -1e300;
        for (N const z : logits) maximum = std::max(maximum, real_part(z));
        N sum(0), mean(0);
        for (N const z : logits) {
          sum += exp(z - N(maximum));
          mean += z / N(static_cast<double>(logits.size()));
        }
        N const normalizer = N(maximum) + log(sum);
        logps[t] = logits[static_cast<std::size_t>(s.tokens[t])] - normalizer;
        means[t] = mean - normalizer;
        for (N const z : logits) entropies[t] -= exp(z - normalizer) * (z - normalizer);
        if (normalizers != nullptr) (*normalizers)[t] = normalizer;
        if (collisions == nullptr) continue;
        for (N const z : logits) (*collisions)[t] += exp(N(2) * (z - normalizer));
        (*collisions)[t] = log((*collisions)[t]);
      }
    }
  }
};

}  // namespace attune::test
