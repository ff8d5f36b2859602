// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/parameter.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/model/token_sampler.hpp>

namespace attune {

struct tabular_options {
  std::size_t vocabulary = 2;  ///< token ids are 0 ... vocabulary - 1; >= 1
  std::size_t order = 1;       ///< how many tokens before it a token depends on; >= 1
};

inline void validate(tabular_options const& o) {
  expects(o.vocabulary >= 1, "tabular_options.vocabulary >= 1", o.vocabulary);
  expects(o.vocabulary <= static_cast<std::size_t>((std::numeric_limits<token_id>::max)()),
          "tabular_options.vocabulary within token_id", o.vocabulary);
  expects(o.order >= 1, "tabular_options.order >= 1", o.order);
}

/// The smallest language model: one row of logits for every context, which is the last `order` tokens, or all of them
/// while there are fewer. Order 1 is a bigram model.
///
/// Every distribution over the tokens after a context is in it, and all can be enumerated, so the optimum of DPO and of
/// KL-regularised reinforcement learning can be written down (pi_ref * exp(r / beta) / Z: Rafailov et al. 2023, eq. 4)
/// and a trainer be tested against the truth. One parameter, "logits" (contexts, vocabulary), all 0 at first: the
/// uniform distribution. Memory: 2 * (V + V^2 + ... + V^order) * V scalars.
///
/// Copies are deep. Satisfies TermedPolicy, TemperedPolicy and ScoredGenerativePolicy. log_probs allocates nothing;
/// accumulate_gradient only while its buffers grow.
template <class T>
class tabular_policy {
 public:
  using scalar = T;

  explicit tabular_policy(tabular_options options) : options_(options) {
    validate(options_);
    std::size_t const v = options_.vocabulary;
    std::size_t contexts = 0;
    std::size_t of_length = 1;  // V^length
    for (std::size_t length = 1; length <= options_.order; ++length) {
      expects(of_length <= (std::numeric_limits<std::size_t>::max)() / (v * v * 16),
              "tabular_options: vocabulary^(order + 1) parameters that fit in memory", options_.order);
      of_length *= v;
      contexts += of_length;
    }
    logits_.assign(contexts * v, T(0));
    gradient_.assign(contexts * v, T(0));
  }

  tabular_options const& options() const noexcept { return options_; }
  std::size_t contexts() const noexcept { return logits_.size() / options_.vocabulary; }
  std::size_t parameter_count() const noexcept { return logits_.size(); }

  /// Which row scores the token after `before`. Expects before to be non-empty and inside the vocabulary.
  std::size_t context(std::span<token_id const> before) const noexcept {
    std::size_t const length = (std::min)(before.size(), options_.order);
    std::size_t first_row = 0;  // rows of shorter contexts lie first
    std::size_t of_length = options_.vocabulary;
    for (std::size_t shorter = 1; shorter < length; ++shorter) {
      first_row += of_length;
      of_length *= options_.vocabulary;
    }
    std::size_t number = 0;
    for (token_id const id : before.last(length)) number = number * options_.vocabulary + static_cast<std::size_t>(id);
    return first_row + number;
  }

  /// The logits after a context, to read or to set; (vocabulary).
  std::span<T> row(std::size_t context) noexcept {
    return std::span<T>(logits_).subspan(context * options_.vocabulary, options_.vocabulary);
  }
  std::span<T const> row(std::size_t context) const noexcept {
    return std::span<T const>(logits_).subspan(context * options_.vocabulary, options_.vocabulary);
  }

  std::array<parameter<T>, 1> parameters() noexcept {
    return {parameter<T>{.name = "logits",
                         .value = logits_,
                         .gradient = gradient_,
                         .shape = {contexts(), options_.vocabulary},
                         .decay = true}};
  }

  double temperature() const noexcept { return temperature_; }
  void set_temperature(double temperature) {
    validate_temperature(temperature);
    temperature_ = temperature;
  }

  void log_probs(sequences_view s, std::span<T> logps) const {
    check(s, logps.size());
    forward(s, {logps}, {});
  }

  void log_probs_with(sequences_view s, term_values<T> terms) const {
    check(s, terms.logps.size());
    expects_terms(terms, s);
    forward(s, terms, {});
  }

  void accumulate_gradient(sequences_view s, slopes_of<T> ask) {
    accumulate(s, {}, [&] { ask(logps_.values, logps_.slopes); });
  }

  void accumulate_gradient_with(sequences_view s, token_terms terms, term_slopes_of<T> ask) {
    accumulate(s, terms, [&] {
      ask({logps_.values, means_.values, entropies_.values, log_normalizers_.values, collisions_.values},
          {logps_.slopes, means_.slopes, entropies_.slopes, log_normalizers_.slopes});
    });
  }

  /// As GenerativePolicy and ScoredGenerativePolicy say. A completion ends with a stop token or after max_new_tokens;
  /// there is no window. Allocates only while its buffers grow.
  void generate(sequences_view prompts, sampling_options const& options, sequences& out) {
    sample(prompts, options, out, nullptr);
  }
  void generate(sequences_view prompts, sampling_options const& options, sequences& out, std::vector<T>& logps) {
    sample(prompts, options, out, &logps);
  }

 private:
  void check(sequences_view s, std::size_t outputs) const {
    validate(s, options_.vocabulary);
    expects(outputs == s.total_tokens(), "tabular_policy: logps.size() == s.total_tokens()", outputs);
  }

  void sample(sequences_view prompts, sampling_options const& options, sequences& out, std::vector<T>* logps) {
    validate(options);
    validate(prompts, options_.vocabulary);
    for (std::size_t b = 0; b < prompts.size(); ++b)
      expects(prompts.length(b) > 0, "tabular_policy: a token or more in the prompt, but none in prompt", b);
    out.clear();
    if (logps != nullptr) logps->clear();
    for (std::size_t b = 0; b < prompts.size(); ++b) {
      std::span<token_id const> const prompt = prompts.sequence(b);
      random_stream stream(options.seed, options.first_stream + b);
      text_.assign(prompt.begin(), prompt.end());
      if (logps != nullptr) logps->insert(logps->end(), prompt.size(), T(0));
      for (std::size_t n = 0; n < options.max_new_tokens; ++n) {
        sampled_token const next =
            sampler_(std::span<T const>(std::as_const(*this).row(context(text_))), options, stream, temperature_);
        text_.push_back(next.id);
        if (logps != nullptr) logps->push_back(static_cast<T>(next.logp));
        if (options.stops(next.id)) break;
      }
      out.push_back(prompt, std::span<token_id const>(text_).subspan(prompt.size()));
    }
  }

  // Calls f(token index, row number) for every masked-in token.
  template <class F>
  void for_each_target(sequences_view s, F&& f) const {
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t i = 1; i < s.length(b); ++i) {
        std::size_t const t = s.offsets[b] + i;
        if (s.mask[t] != 0) f(t, context(s.sequence(b).first(i)));
      }
  }

  // log p[v] = (logits[v] - top) / temperature - log_sum; kept apart, since their sum would round large logits away.
  struct normalizer {
    T top;
    T inverse_temperature;
    T log_sum;
    T log_prob(T logit) const noexcept { return (logit - top) * inverse_temperature - log_sum; }
    T log_normalizer() const noexcept { return top * inverse_temperature + log_sum; }
  };

  // All but out.logps may be empty.
  void forward(sequences_view s, term_values<T> out, std::span<normalizer> normalizers) const {
    for (std::span<T> const all : {out.logps, out.mean_logps, out.entropies, out.log_normalizers, out.collisions})
      std::fill(all.begin(), all.end(), T(0));
    bool const beside = out.terms().any();
    for_each_target(s, [&](std::size_t t, std::size_t context) {
      std::span<T const> const logits = row(context);
      normalizer const n = normalize(logits);
      out.logps[t] = n.log_prob(logits[static_cast<std::size_t>(s.tokens[t])]);
      if (!normalizers.empty()) normalizers[t] = n;
      if (!beside) return;
      double sum_of_logps = 0.0, entropy = 0.0, collision = 0.0;
      for (T const logit : logits) {
        double const logp = static_cast<double>(n.log_prob(logit)), p = std::exp(logp);
        sum_of_logps += logp;
        if (p > 0.0) entropy -= p * logp;
        collision += p * p;
      }
      double const count = static_cast<double>(logits.size());
      if (!out.mean_logps.empty()) out.mean_logps[t] = static_cast<T>(sum_of_logps / count);
      if (!out.entropies.empty()) out.entropies[t] = static_cast<T>(entropy);
      if (!out.log_normalizers.empty()) out.log_normalizers[t] = n.log_normalizer();
      if (!out.collisions.empty()) out.collisions[t] = static_cast<T>(std::log(collision));
    });
  }

  normalizer normalize(std::span<T const> logits) const {
    T const top = *std::max_element(logits.begin(), logits.end());
    T const inverse = static_cast<T>(1.0 / temperature_);
    double sum = 0.0;
    for (T const logit : logits) sum += std::exp(static_cast<double>((logit - top) * inverse));
    return {top, inverse, static_cast<T>(std::log(sum))};
  }

  // One number per token and its slope; empty where it was not asked for.
  struct token_term {
    std::vector<T> values, slopes;

    void resize(std::size_t size) {
      values.resize(size);
      slopes.assign(size, T(0));
    }
    T slope(std::size_t t) const noexcept { return slopes.empty() ? T(0) : slopes[t]; }
  };

  template <class Ask>
  void accumulate(sequences_view s, token_terms wanted, Ask&& ask) {
    std::size_t const tokens = s.total_tokens();
    check(s, tokens);
    normalizers_.resize(tokens);
    logps_.resize(tokens);
    means_.resize(wanted.mean_logps ? tokens : 0);
    entropies_.resize(wanted.entropies ? tokens : 0);
    log_normalizers_.resize(wanted.log_normalizers ? tokens : 0);
    collisions_.resize(wanted.collisions ? tokens : 0);
    forward(s, {logps_.values, means_.values, entropies_.values, log_normalizers_.values, collisions_.values},
            normalizers_);
    ask();
    // d logp[target] / d x[v] = 1[v = target] - p[v];  d mean_logp / d x[v] = 1/V - p[v];
    // d entropy / d x[v] = -p[v] (log p[v] + entropy);  d log_normalizer / d x[v] = p[v];  x = logits / temperature
    for_each_target(s, [&](std::size_t t, std::size_t context) {
      std::span<T const> const logits = row(context);
      std::span<T> const gradient =
          std::span<T>(gradient_).subspan(context * options_.vocabulary, options_.vocabulary);
      T const slope = logps_.slopes[t], mean_slope = means_.slope(t);
      T const entropy_slope = entropies_.slope(t), normalizer_slope = log_normalizers_.slope(t);
      if (slope == T(0) && mean_slope == T(0) && entropy_slope == T(0) && normalizer_slope == T(0)) return;
      T const inverse = normalizers_[t].inverse_temperature;
      T const both = (slope + mean_slope - normalizer_slope) * inverse;
      T const share = mean_slope * inverse / static_cast<T>(options_.vocabulary);
      for (std::size_t v = 0; v < logits.size(); ++v)
        gradient[v] += share - both * std::exp(normalizers_[t].log_prob(logits[v]));
      gradient[static_cast<std::size_t>(s.tokens[t])] += slope * inverse;
      if (entropy_slope == T(0)) return;
      for (std::size_t v = 0; v < logits.size(); ++v) {
        T const logp = normalizers_[t].log_prob(logits[v]), p = std::exp(logp);
        if (p > T(0)) gradient[v] -= entropy_slope * inverse * p * (logp + entropies_.values[t]);
      }
    });
  }

  tabular_options options_;
  double temperature_ = 1.0;
  std::vector<T> logits_;
  std::vector<T> gradient_;
  token_term logps_, means_, entropies_, log_normalizers_, collisions_;
  std::vector<normalizer> normalizers_;
  std::vector<token_id> text_;
  token_sampler sampler_;
};

}  // namespace attune
