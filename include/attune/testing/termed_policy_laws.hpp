// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <attune/concepts/policy.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/testing/broken_law.hpp>
#include <attune/testing/differentiable_laws.hpp>
#include <attune/testing/policy_laws.hpp>

namespace attune::testing {

/// The laws of TermedPolicy, over every combination of terms, by name:
///
///   asks once    ask is called once
///   as asked     a term's spans have one entry per token if it was asked for, and none if not
///   masked       values and slopes that come in are 0 where the mask is 0
///   consistent   logps are log_probs', and no value hangs on what else was asked for, nor on which of the two calls
///   terms        mean_logps, entropies and collisions are those of log_probs over the whole vocabulary
///   context      the token itself moves none of the terms at its place
///   exact        a term's gradient is its central difference; that of mean_logps and entropies is also the one had
///                through accumulate_gradient from every token that could have stood there
///   separate     without terms, or with slopes of 0 for them, it is accumulate_gradient; several kinds add up
///   linear, accumulates, stable, ask throws   as for Policy, for each term with slopes
///
/// What the interface cannot show is whether log_normalizers belong to the logits or to others of the same softmax;
/// only that their gradient is theirs. Parameters are moved and put back; gradients are zero afterwards.
template <TermedPolicy P>
class termed_policy_law_check {
 public:
  using T = typename P::scalar;

  termed_policy_law_check(P& policy, std::size_t vocabulary, policy_law_options o)
      : policy_(policy), vocabulary_(vocabulary), tolerance_(o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>),
        random_(o.seed, 10), batch_(law_sequences(vocabulary, o, random_)), s_(batch_) {
    for (values& slopes : slopes_) {
      slopes.resize(s_.total_tokens());
      for (std::size_t t = 0; t < slopes.size(); ++t)
        if (s_.mask[t] != 0) slopes[t] = static_cast<T>(random_.normal());
    }
  }

  std::vector<broken_law> run() && {
    alone();
    for (unsigned bits = 0; bits < 16; ++bits)
      combination({(bits & 1u) != 0, (bits & 2u) != 0, (bits & 4u) != 0, (bits & 8u) != 0});
    for (std::size_t k : {mean_logps, entropies, log_normalizers}) differentiable(k);
    against_the_vocabulary();
    clear_gradients(policy_);
    return std::move(book_).broken();
  }

 private:
  using values = std::vector<T>;
  enum kind : std::size_t { logps, mean_logps, entropies, log_normalizers, collisions, kinds };
  static constexpr std::size_t with_slopes = collisions;
  static constexpr char const* names[kinds] = {"logps", "mean_logps", "entropies", "log_normalizers", "collisions"};

  static token_terms only(std::size_t k) noexcept {
    return {k == mean_logps, k == entropies, k == log_normalizers, k == collisions};
  }
  static bool asked_for(token_terms terms, std::size_t k) noexcept { return k == logps || (terms | only(k)) == terms; }

  template <class U>
  static std::array<std::span<U>, kinds> spans(term_values<U> const& of) {
    return {of.logps, of.mean_logps, of.entropies, of.log_normalizers, of.collisions};
  }
  static std::array<std::span<T>, with_slopes> spans(term_slopes<T> const& of) {
    return {of.logps, of.mean_logps, of.entropies, of.log_normalizers};
  }

  values evaluate(sequences_view s, token_terms terms, std::size_t k) const {
    std::array<values, kinds> out;
    for (std::size_t j = 0; j < kinds; ++j)
      if (asked_for(terms, j)) out[j].assign(s.total_tokens(), T(77));
    static_cast<P const&>(policy_).log_probs_with(s, {out[logps], out[mean_logps], out[entropies], out[log_normalizers],
                                                      out[collisions]});
    return out[k];
  }

  void compare(values const& actual, values const& expected, char const* law, std::string const& what, double allowed) {
    double const off = largest_difference(std::span<T const>(actual), std::span<T const>(expected));
    book_.expect(off <= allowed, law, what + " off by " + std::to_string(off));
  }

  void accumulate(token_terms terms, std::size_t k, values const& given) {
    policy_.accumulate_gradient_with(s_, terms, [&](term_values<T const> const&, term_slopes<T> const& ask) {
      std::copy(given.begin(), given.end(), spans(ask)[k].begin());
    });
  }

  /// Each kind by itself: what the combinations are held against.
  void alone() {
    clear_gradients(policy_);
    policy_.accumulate_gradient(s_, [&](std::span<T const> seen, std::span<T> ask) {
      values_[logps].assign(seen.begin(), seen.end());
      std::copy(slopes_[logps].begin(), slopes_[logps].end(), ask.begin());
    });
    gradients_[logps] = copied_gradients(policy_);
    for (std::size_t k = mean_logps; k < kinds; ++k) {
      values_[k] = evaluate(s_, only(k), k);
      if (k >= with_slopes) continue;
      clear_gradients(policy_);
      accumulate(only(k), k, slopes_[k]);
      gradients_[k] = copied_gradients(policy_);
    }
    for (std::size_t k = 0; k < kinds; ++k)
      for (std::size_t t = 0; t < values_[k].size(); ++t)
        if (s_.mask[t] == 0)
          book_.expect(values_[k][t] == T(0), "masked", std::string(names[k]) + ": not 0 where the mask is 0");
  }

  void combination(token_terms terms) {
    std::size_t asked = 0;
    values flat;
    for (bool const with_terms : {true, false}) {
      clear_gradients(policy_);
      policy_.accumulate_gradient_with(s_, terms, [&](term_values<T const> const& seen, term_slopes<T> const& ask) {
        ++asked;
        auto const value = spans(seen);
        auto const slope = spans(ask);
        for (std::size_t k = 0; k < kinds; ++k) {
          std::size_t const size = asked_for(terms, k) ? s_.total_tokens() : 0;
          bool const sized = value[k].size() == size && (k >= with_slopes || slope[k].size() == size);
          book_.expect(sized, "as asked", std::string(names[k]) + ": spans of another size than what was asked for");
          if (!sized || size == 0) continue;
          compare(values(value[k].begin(), value[k].end()), values_[k], "consistent", names[k], tolerance_);
          if (k >= with_slopes) continue;
          for (std::size_t t = 0; t < size; ++t)
            book_.expect(slope[k][t] == T(0), "masked", std::string(names[k]) + ": a slope is not 0 to begin with");
          if (with_terms || k == logps) std::copy(slopes_[k].begin(), slopes_[k].end(), slope[k].begin());
        }
      });
      values expected = gradients_[logps];
      for (std::size_t k = mean_logps; with_terms && k < with_slopes; ++k)
        for (std::size_t i = 0; asked_for(terms, k) && i < expected.size(); ++i) expected[i] += gradients_[k][i];
      compare(copied_gradients(policy_), expected, "separate",
              with_terms ? "slopes of several kinds: the gradient is" : "slopes of logps alone: the gradient is",
              tolerance_);
    }
    book_.expect(asked == 2, "asks once", "ask was called " + std::to_string(asked) + " times in two calls");
    for (std::size_t k = 0; k < kinds; ++k)
      if (asked_for(terms, k)) compare(evaluate(s_, terms, k), values_[k], "consistent", names[k], tolerance_);
  }

  void differentiable(std::size_t k) {
    check_differentiable_laws(
        book_, policy_, slopes_[k], random_, tolerance_, [&] { return evaluate(s_, only(k), k); },
        [&](values const& given) { accumulate(only(k), k, given); },
        [&] {
          policy_.accumulate_gradient_with(s_, only(k), [](term_values<T const> const&, term_slopes<T> const&) {
            throw law_violation("on purpose");
          });
        });
  }

  /// Every masked-in token replaced by each of the vocabulary: d mean_logp = 1/V sum over v of dlogp_v, and
  /// d entropy = -sum over v of p_v log p_v dlogp_v.
  void against_the_vocabulary() {
    for (std::size_t const k : {mean_logps, entropies}) {
      clear_gradients(policy_);
      for (std::size_t b = 0; b < s_.size(); ++b)
        for (std::size_t i = 0; i < s_.length(b); ++i) {
          std::size_t const at = s_.offsets[b] + i;
          if (s_.mask[at] == 0) continue;
          sequences every;
          for (std::size_t v = 0; v < vocabulary_; ++v) {
            token_id const next = static_cast<token_id>(v);
            every.push_back(s_.sequence(b).first(i), std::span(&next, std::size_t{1}));
          }
          double expected = 0.0, collision = 0.0;
          policy_.accumulate_gradient(every, [&](std::span<T const> seen, std::span<T> ask) {
            for (std::size_t t = 0; t < ask.size(); ++t) {
              if (every.view().mask[t] == 0) continue;
              double const logp = static_cast<double>(seen[t]), p = std::exp(logp);
              double const weight = k == mean_logps ? 1.0 / static_cast<double>(vocabulary_) : -p * logp;
              expected += k == mean_logps ? weight * logp : weight;
              collision += p * p;
              ask[t] = static_cast<T>(weight) * slopes_[k][at];
            }
          });
          std::string const where = ", token " + std::to_string(at);
          is_near(values_[k][at], expected, "terms", names[k] + where);
          if (k != mean_logps) continue;
          is_near(values_[collisions][at], std::log(collision), "terms", names[collisions] + where);
          for (std::size_t j = mean_logps; j < kinds; ++j) {
            values const seen = evaluate(every, only(j), j);
            for (std::size_t t = 0; t < seen.size(); ++t)
              if (every.view().mask[t] != 0)
                is_near(seen[t], static_cast<double>(values_[j][at]), "context", names[j] + where);
          }
        }
      compare(gradients_[k], copied_gradients(policy_), "exact", std::string(names[k]) + ": the gradient is",
              tolerance_ * 10.0);
    }
  }

  void is_near(T actual, double expected, char const* law, std::string const& what) {
    book_.expect(std::abs(static_cast<double>(actual) - expected) <= tolerance_ * (1.0 + std::abs(expected)), law,
                 what + ": " + std::to_string(actual) + ", expected " + std::to_string(expected));
  }

  P& policy_;
  std::size_t vocabulary_;
  double tolerance_;
  random_stream random_;
  sequences batch_;
  sequences_view s_;
  law_book book_;
  std::array<values, with_slopes> slopes_;
  std::array<values, kinds> values_;
  std::array<values, with_slopes> gradients_;
};

/// See termed_policy_law_check.
template <TermedPolicy P>
[[nodiscard]] std::vector<broken_law> check_termed_policy_laws(P& policy, std::size_t vocabulary,
                                                               policy_law_options o = {}) {
  return termed_policy_law_check<P>(policy, vocabulary, o).run();
}

}  // namespace attune::testing
