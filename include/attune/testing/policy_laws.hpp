// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/policy.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/testing/broken_law.hpp>
#include <attune/testing/differentiable_laws.hpp>

namespace attune::testing {

/// How the policy checkers try a model. They call it with batches of `batch` sequences of at most `length` tokens.
struct policy_law_options {
  std::size_t batch = 4;      ///< sequences per call; >= 2
  std::size_t length = 8;     ///< longest sequence; >= 3, at most the model's window
  std::uint64_t seed = 1;     ///< of the tokens tried
  double tolerance = 0.0;     ///< of numbers that should be equal within rounding; 0: model_tolerance of the scalar
  std::size_t draws = 4000;   ///< samples behind the test of a sampler's distribution
};

/// Random sequences with prompts and completions of different lengths.
[[nodiscard]] inline sequences law_sequences(std::size_t vocabulary, policy_law_options const& o,
                                             random_stream& random) {
  sequences out;
  std::vector<token_id> text;
  for (std::size_t b = 0; b < o.batch; ++b) {
    std::size_t const length = 3 + random.below(o.length - 2);
    text.clear();
    for (std::size_t i = 0; i < length; ++i) text.push_back(static_cast<token_id>(random.below(vocabulary)));
    std::size_t const prompt = 1 + random.below(length - 1);
    std::span<token_id const> const all(text);
    out.push_back(all.first(prompt), all.subspan(prompt));
  }
  return out;
}

/// Laws of ReferencePolicy: "masked", "normalised", "pure", "causal", "local". Reads the model only.
template <ReferencePolicy R>
[[nodiscard]] std::vector<broken_law> check_reference_policy_laws(R const& model, std::size_t vocabulary,
                                                                  policy_law_options o = {}) {
  using T = typename R::scalar;
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>;
  law_book book;
  random_stream random(o.seed);
  auto const log_probs = [&](sequences_view s) {
    std::vector<T> out(s.total_tokens(), T(77));  // a number that no log-probability is
    model.log_probs(s, std::span<T>(out));
    return out;
  };
  sequences const batch = law_sequences(vocabulary, o, random);
  sequences_view const s = batch;
  std::vector<T> const logps = log_probs(s);
  for (std::size_t t = 0; t < logps.size(); ++t) {
    std::string const place = "token " + std::to_string(t) + ": " + std::to_string(logps[t]);
    if (s.mask[t] == 0) book.expect(logps[t] == T(0), "masked", place + " where the mask is 0");
    else book.expect(logps[t] <= T(tolerance), "normalised", place + " is no log-probability");
  }
  book.expect(same_bits(std::span<T const>(logps), std::span<T const>(log_probs(s))), "pure",
              "a second call wrote other bits");

  for (std::size_t b = 0; b < s.size(); ++b) {
    std::string const which = "sequence " + std::to_string(b);
    auto const part = std::span<T const>(logps).subspan(s.offsets[b], s.length(b));
    sequences alone;
    alone.push_back_masked(s.sequence(b), s.sequence_mask(b));
    std::vector<T> const by_itself = log_probs(alone);
    double const apart = largest_difference(std::span<T const>(by_itself), part);
    book.expect(apart <= tolerance, "local", which + " alone is off by " + std::to_string(apart));

    std::size_t const changed = s.length(b) - 1;
    std::vector<token_id> text(s.sequence(b).begin(), s.sequence(b).end());
    text[changed] = static_cast<token_id>((static_cast<std::size_t>(text[changed]) + 1) % vocabulary);
    sequences edited;
    edited.push_back_masked(text, s.sequence_mask(b));
    std::vector<T> const after = log_probs(edited);
    double const leaked = largest_difference(std::span<T const>(after).first(changed), part.first(changed));
    book.expect(leaked <= tolerance, "causal",
                which + ": changing its last token moved earlier ones by " + std::to_string(leaked));

    double total = 0.0;  // over every token that could have been the last
    for (std::size_t v = 0; v < vocabulary;) {
      sequences all;
      for (; v < vocabulary && all.size() < 256; ++v) {
        token_id const next = static_cast<token_id>(v);
        all.push_back(s.sequence(b).first(changed), std::span(&next, std::size_t{1}));
      }
      sequences_view const view = all;
      std::vector<T> const out = log_probs(view);
      for (std::size_t i = 0; i < view.size(); ++i)
        total += std::exp(static_cast<double>(out[view.offsets[i + 1] - 1]));
    }
    book.expect(std::abs(total - 1.0) <= tolerance * 10.0, "normalised",
                which + ": the probabilities of its last token add up to " + std::to_string(total));
  }
  sequences reversed;
  for (std::size_t b = s.size(); b-- > 0;) reversed.push_back_masked(s.sequence(b), s.sequence_mask(b));
  sequences_view const r = reversed;
  std::vector<T> const backwards = log_probs(r);
  for (std::size_t b = 0; b < s.size(); ++b) {
    std::size_t const at = s.size() - 1 - b;
    double const moved = largest_difference(std::span<T const>(backwards).subspan(r.offsets[at], r.length(at)),
                                            std::span<T const>(logps).subspan(s.offsets[b], s.length(b)));
    book.expect(moved <= tolerance, "local", "reversing the batch moved a sequence by " + std::to_string(moved));
  }
  return std::move(book).broken();
}

/// Laws of Policy: ReferencePolicy's, and "consistent", "asks once", "linear", "exact", "accumulates", "stable",
/// "ask throws". Parameters are moved and put back; gradients are zero afterwards.
template <Policy P>
[[nodiscard]] std::vector<broken_law> check_policy_laws(P& policy, std::size_t vocabulary, policy_law_options o = {}) {
  using T = typename P::scalar;
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>;
  law_book book;
  for (broken_law const& law : check_reference_policy_laws(policy, vocabulary, o))
    book.expect(false, law.name.c_str(), law.evidence);
  random_stream random(o.seed, 1);
  sequences const batch = law_sequences(vocabulary, o, random);
  sequences_view const s = batch;
  auto const outputs = [&] {
    std::vector<T> out(s.total_tokens());
    static_cast<P const&>(policy).log_probs(s, std::span<T>(out));
    return out;
  };
  std::vector<T> const expected = outputs();
  std::vector<T> slopes(s.total_tokens());
  for (std::size_t t = 0; t < slopes.size(); ++t)
    if (s.mask[t] != 0) slopes[t] = static_cast<T>(0.5 + random.uniform());
  std::size_t asked = 0;
  policy.accumulate_gradient(s, [&](std::span<T const> logps, std::span<T> ask) {
    ++asked;
    double const off = largest_difference(logps, std::span<T const>(expected));
    book.expect(off <= tolerance, "consistent", "ask sees log-probabilities off by " + std::to_string(off));
    book.expect(ask.size() == logps.size(), "consistent", "ask's spans differ in size");
    for (std::size_t t = 0; t < ask.size(); ++t)
      book.expect(s.mask[t] != 0 || ask[t] == T(0), "masked", "a slope where the mask is 0 is not 0 to begin with");
    std::fill(ask.begin(), ask.end(), T(0));
  });
  book.expect(asked == 1, "asks once", "ask was called " + std::to_string(asked) + " times");
  check_differentiable_laws(
      book, policy, slopes, random, tolerance, outputs,
      [&](std::vector<T> const& given) {
        policy.accumulate_gradient(
            s, [&](std::span<T const>, std::span<T> ask) { std::copy(given.begin(), given.end(), ask.begin()); });
      },
      [&] {
        policy.accumulate_gradient(s, [](std::span<T const>, std::span<T>) { throw law_violation("on purpose"); });
      });
  return std::move(book).broken();
}

}  // namespace attune::testing
