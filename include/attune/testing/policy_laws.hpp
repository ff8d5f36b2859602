// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
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
[[nodiscard]] inline sequences law_sequences(std::size_t vocabulary, policy_law_options const& o, random_stream& random) {
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
      for (std::size_t i = 0; i < view.size(); ++i) total += std::exp(static_cast<double>(out[view.offsets[i + 1] - 1]));
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
        policy.accumulate_gradient(s, [&](std::span<T const>, std::span<T> ask) { std::copy(given.begin(), given.end(), ask.begin()); });
      },
      [&] { policy.accumulate_gradient(s, [](std::span<T const>, std::span<T>) { throw law_violation("on purpose"); }); });
  return std::move(book).broken();
}

/// The law of SmoothedPolicy: with mean slopes of 0 it equals accumulate_gradient ("smoothed"); and "exact" for the
/// mean over the vocabulary, held against log_probs of every token.
template <SmoothedPolicy P>
[[nodiscard]] std::vector<broken_law> check_smoothed_policy_laws(P& policy, std::size_t vocabulary,
                                                                 policy_law_options o = {}) {
  using T = typename P::scalar;
  using values = std::vector<T>;
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>;
  law_book book;
  random_stream random(o.seed, 2);
  sequences const batch = law_sequences(vocabulary, o, random);
  sequences_view const s = batch;
  clear_gradients(policy);
  policy.accumulate_gradient(s, [&](std::span<T const>, std::span<T> ask) {
    for (std::size_t t = 0; t < ask.size(); ++t)
      if (s.mask[t] != 0) ask[t] = T(1) + static_cast<T>(t % 3);
  });
  values const plain = copied_gradients(policy);
  clear_gradients(policy);
  values means;
  policy.accumulate_gradient_smoothed(
      s, [&](std::span<T const>, std::span<T const> mean_logps, std::span<T> ask, std::span<T> mean_ask) {
        means.assign(mean_logps.begin(), mean_logps.end());
        std::fill(mean_ask.begin(), mean_ask.end(), T(0));
        for (std::size_t t = 0; t < ask.size(); ++t)
          if (s.mask[t] != 0) ask[t] = T(1) + static_cast<T>(t % 3);
      });
  double const off = largest_difference(std::span<T const>(copied_gradients(policy)), std::span<T const>(plain));
  book.expect(off <= tolerance, "smoothed", "with mean slopes of 0 the gradient is off by " + std::to_string(off));

  // mean_logps and its gradient are averages over a batch in which the last token takes every value.
  std::span<token_id const> const before = s.sequence(0).first(s.length(0) - 1);
  sequences all;
  for (std::size_t v = 0; v < vocabulary; ++v) {
    token_id const next = static_cast<token_id>(v);
    all.push_back(before, std::span(&next, std::size_t{1}));
  }
  sequences one;
  token_id const any = 0;
  one.push_back(before, std::span(&any, std::size_t{1}));
  clear_gradients(policy);
  double mean = 0.0;
  policy.accumulate_gradient(all, [&](std::span<T const> logps, std::span<T> ask) {
    sequences_view const view = all;
    for (std::size_t t = 0; t < ask.size(); ++t)
      if (view.mask[t] != 0) {
        ask[t] = T(1) / static_cast<T>(vocabulary);
        mean += static_cast<double>(logps[t]) / static_cast<double>(vocabulary);
      }
  });
  values const expected = copied_gradients(policy);
  clear_gradients(policy);
  policy.accumulate_gradient_smoothed(
      one, [&](std::span<T const>, std::span<T const> mean_logps, std::span<T> ask, std::span<T> mean_ask) {
        std::fill(ask.begin(), ask.end(), T(0));
        mean_ask.back() = T(1);
        double const wrong = std::abs(static_cast<double>(mean_logps.back()) - mean) / (1.0 + std::abs(mean));
        book.expect(wrong <= tolerance, "smoothed", "the mean over the vocabulary is off by " + std::to_string(wrong));
      });
  double const bent = largest_difference(std::span<T const>(copied_gradients(policy)), std::span<T const>(expected));
  book.expect(bent <= tolerance * 10.0, "exact", "the mean's gradient is off by " + std::to_string(bent));
  clear_gradients(policy);
  return std::move(book).broken();
}

/// Laws of TemperedPolicy: the distribution at a temperature is that at 1 to the power of its inverse ("tempered"), bits
/// return with 1 ("restored"), what is no temperature is refused ("refuses"), a copy has the original's ("copied"); and
/// of a Policy all laws hold at another temperature, each under its own name.
template <TemperedPolicy P>
[[nodiscard]] std::vector<broken_law> check_tempered_policy_laws(P& policy, std::size_t vocabulary, policy_law_options o = {}) {
  using T = typename P::scalar;
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>;
  law_book book;
  random_stream random(o.seed, 9);
  double const before = policy.temperature();
  policy.set_temperature(1.0);
  sequences const batch = law_sequences(vocabulary, o, random);
  sequences every;  // all last tokens after the first sequence's beginning
  for (std::size_t v = 0; v < vocabulary; ++v) {
    token_id const next = static_cast<token_id>(v);
    every.push_back(batch.view().sequence(0).first(2), std::span(&next, std::size_t{1}));
  }
  auto const log_probs = [&](P const& p) {
    std::vector<T> out(every.total_tokens());
    p.log_probs(every, std::span<T>(out));
    return out;
  };
  std::vector<T> const plain = log_probs(policy);
  for (double const temperature : {0.5, 3.0}) {
    policy.set_temperature(temperature);
    book.expect(policy.temperature() == temperature, "tempered", "temperature() is not what was set");
    std::vector<T> const tempered = log_probs(policy);
    double sum = 0.0;
    for (std::size_t t = 2; t < plain.size(); t += 3) sum += std::exp(static_cast<double>(plain[t]) / temperature);
    for (std::size_t t = 2; t < plain.size(); t += 3) {
      double const expected = static_cast<double>(plain[t]) / temperature - std::log(sum);
      book.expect(std::abs(static_cast<double>(tempered[t]) - expected) <= tolerance * (1.0 + std::abs(expected)), "tempered",
                  "at " + std::to_string(temperature) + " a log-probability is " + std::to_string(tempered[t]) + ", expected " +
                      std::to_string(expected));
    }
    if constexpr (std::copy_constructible<P>) {
      P const copy = policy;
      book.expect(copy.temperature() == temperature && same_bits(std::span<T const>(log_probs(copy)), std::span<T const>(tempered)),
                  "copied", "a copy has another temperature");
    }
  }
  for (double const wrong : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    bool refused = false;
    try {
      policy.set_temperature(wrong);
    } catch (contract_violation const&) {
      refused = policy.temperature() == 3.0;
    }
    book.expect(refused, "refuses", "a temperature of " + std::to_string(wrong) + " was not, or changed the one there was");
  }
  if constexpr (Policy<P>) {
    policy.set_temperature(0.7);
    for (broken_law const& law : check_policy_laws(policy, vocabulary, o)) book.expect(false, law.name.c_str(), law.evidence);
    if constexpr (SmoothedPolicy<P>)
      for (broken_law const& law : check_smoothed_policy_laws(policy, vocabulary, o))
        book.expect(false, law.name.c_str(), law.evidence);
  }
  policy.set_temperature(1.0);
  book.expect(same_bits(std::span<T const>(log_probs(policy)), std::span<T const>(plain)), "restored",
              "temperature 1 does not bring the bits back");
  policy.set_temperature(before);
  return std::move(book).broken();
}

}  // namespace attune::testing
