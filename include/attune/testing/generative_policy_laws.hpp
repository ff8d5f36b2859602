// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/generative_policy.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/testing/broken_law.hpp>
#include <attune/testing/policy_laws.hpp>

namespace attune::testing {

/// Random prompts of different lengths, nothing masked in.
[[nodiscard]] inline sequences law_prompts(std::size_t vocabulary, policy_law_options const& o, random_stream& random) {
  sequences out;
  for (std::size_t b = 0; b < o.batch; ++b) {
    std::vector<token_id> text(1 + random.below(o.length / 2));
    for (token_id& id : text) id = static_cast<token_id>(random.below(vocabulary));
    out.push_back(text, {});
  }
  return out;
}

/// Laws of GenerativePolicy: prompts come back first and in order, completions masked in and within the limit
/// ("shape"); a sample does not depend on the rest of the batch, only on its stream ("own stream"); it is repeatable
/// ("pure"); and single tokens are distributed as log_probs says, by a chi-square test at five standard deviations
/// ("distribution").
template <GenerativePolicy P>
[[nodiscard]] std::vector<broken_law> check_generative_policy_laws(P& policy, std::size_t vocabulary,
                                                                   policy_law_options o = {}) {
  using T = typename P::scalar;
  law_book book;
  random_stream random(o.seed, 3);
  sequences const prompts = law_prompts(vocabulary, o, random);
  sequences_view const p = prompts;
  sampling_options sampling{.max_new_tokens = o.length / 2, .seed = o.seed};
  sequences out, again;
  policy.generate(p, sampling, out);
  policy.generate(p, sampling, again);
  sequences_view const g = out;
  sequences_view const h = again;
  book.expect(std::ranges::equal(g.tokens, h.tokens), "pure",
              "a second call drew other tokens");
  book.expect(g.size() == p.size(), "shape",
              std::to_string(g.size()) + " sequences for " + std::to_string(p.size()) + " prompts");
  for (std::size_t b = 0; b < g.size() && b < p.size(); ++b) {
    std::string const which = "prompt " + std::to_string(b);
    std::size_t const fresh = g.length(b) < p.length(b) ? 0 : g.length(b) - p.length(b);
    book.expect(fresh >= 1 && fresh <= sampling.max_new_tokens, "shape",
                which + ": " + std::to_string(fresh) + " new tokens");
    if (fresh == 0) continue;
    auto const begin = g.sequence(b).first(p.length(b));
    book.expect(std::ranges::equal(begin, p.sequence(b)), "shape", which + ": the prompt is not repeated");
    for (std::size_t i = 0; i < g.length(b); ++i)
      book.expect(g.sequence_mask(b)[i] == (i < p.length(b) ? 0 : 1), "shape",
                  which + ": the mask is not the completion");
    sequences alone, drawn;
    alone.push_back(p.sequence(b), {});
    sampling_options own = sampling;
    own.first_stream = sampling.first_stream + b;
    policy.generate(alone, own, drawn);
    sequences_view const d = drawn;
    book.expect(std::ranges::equal(d.tokens, g.sequence(b)), "own stream",
                which + " alone, on its stream, gives another sample");
  }

  sequences many;
  for (std::size_t i = 0; i < o.draws; ++i) many.push_back(p.sequence(0), {});
  sampling.max_new_tokens = 1;
  policy.generate(many, sampling, out);
  sequences_view const m = out;
  std::vector<double> counts(vocabulary);
  book.expect(m.size() == o.draws, "shape",
              std::to_string(m.size()) + " sequences for " + std::to_string(o.draws) + " prompts");
  for (std::size_t i = 0; i < m.size(); ++i) {
    book.expect(m.length(i) == p.length(0) + 1, "shape",
                "asked for one token, got a sequence of " + std::to_string(m.length(i)));
    if (m.length(i) == 0) continue;
    std::size_t const token = static_cast<std::size_t>(m.sequence(i).back());
    book.expect(token < vocabulary, "distribution", "a token outside the vocabulary: " + std::to_string(token));
    if (token < vocabulary) counts[token] += 1.0;
  }
  sequences every;
  for (std::size_t v = 0; v < vocabulary; ++v) {
    token_id const next = static_cast<token_id>(v);
    every.push_back(p.sequence(0), std::span(&next, std::size_t{1}));
  }
  sequences_view const e = every;
  std::vector<T> logps(e.total_tokens());
  static_cast<P const&>(policy).log_probs(e, std::span<T>(logps));
  double chi_square = 0.0, degrees = -1.0, rare_expected = 0.0, rare_seen = 0.0;
  auto const cell = [&](double seen, double expected) {
    chi_square += (seen - expected) * (seen - expected) / expected;
    degrees += 1.0;
  };
  for (std::size_t v = 0; v < vocabulary; ++v) {
    double const expected = std::exp(static_cast<double>(logps[e.offsets[v + 1] - 1])) * static_cast<double>(o.draws);
    if (expected >= 5.0) cell(counts[v], expected);
    else rare_expected += expected, rare_seen += counts[v];  // too rare for a cell of their own
  }
  if (rare_expected > 0.0) cell(rare_seen, (std::max)(rare_expected, 5.0));
  if (degrees >= 1.0)
    book.expect(chi_square <= degrees + 5.0 * std::sqrt(2.0 * degrees) + 12.0, "distribution",
                "chi-square " + std::to_string(chi_square) + " with " + std::to_string(degrees) +
                    " degrees of freedom over " + std::to_string(o.draws) + " draws");
  return std::move(book).broken();
}

/// What a sampler should say of a token, had the slow way from the log-probabilities of the whole vocabulary: tempered,
/// filtered, renormalised; minus infinity where the filters leave it out.
[[nodiscard]] inline double filtered_log_prob(std::vector<double> const& logps, token_id id,
                                              sampling_options const& o) {
  double const none = -std::numeric_limits<double>::infinity();
  std::vector<std::size_t> order(logps.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return logps[a] != logps[b] ? logps[a] > logps[b] : a < b; });
  if (o.temperature == 0.0) return static_cast<std::size_t>(id) == order[0] ? 0.0 : none;
  auto const weight = [&](std::size_t i) { return std::exp((logps[order[i]] - logps[order[0]]) / o.temperature); };
  std::size_t const most = o.top_k > 0 ? (std::min)(o.top_k, logps.size()) : logps.size();
  double total = 0.0, kept = 0.0;
  for (std::size_t i = 0; i < most; ++i) total += weight(i);
  std::size_t count = 0;
  while (count < most && (count == 0 || kept < o.top_p * total)) kept += weight(count++);
  for (std::size_t i = 0; i < count; ++i)
    if (order[i] == static_cast<std::size_t>(id)) return std::log(weight(i) / kept);
  return none;
}

/// Laws of ScoredGenerativePolicy: the sample is that of generate without logps ("same sample"); one entry per token, 0
/// on prompts ("shape"); and each is the log-probability with which the token was drawn ("scored"): log_probs of the
/// result where nothing is filtered, their renormalisation after temperature, top-k and top-p, 0 when greedy.
template <ScoredGenerativePolicy P>
[[nodiscard]] std::vector<broken_law> check_scored_generative_policy_laws(P& policy, std::size_t vocabulary,
                                                                          policy_law_options o = {}) {
  using T = typename P::scalar;
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>;
  law_book book;
  random_stream random(o.seed, 6);
  sequences const prompts = law_prompts(vocabulary, o, random);
  std::size_t const limit = o.length / 2;
  sampling_options const tried[] = {
      {.max_new_tokens = limit, .seed = o.seed},
      {.temperature = 0.7, .max_new_tokens = limit, .seed = o.seed},
      {.temperature = 1.3, .top_k = 2, .max_new_tokens = limit, .seed = o.seed},
      {.top_p = 0.55, .max_new_tokens = limit, .seed = o.seed},
      {.temperature = 0.8, .top_k = 3, .top_p = 0.65, .max_new_tokens = limit, .seed = o.seed},
      {.temperature = 0.0, .max_new_tokens = limit}};
  for (sampling_options const& options : tried) {
    std::string const how = "temperature " + std::to_string(options.temperature) + ", top-k " +
                            std::to_string(options.top_k) + ", top-p " + std::to_string(options.top_p);
    sequences plain, out;
    std::vector<T> drawn(3, T(9)), scored;
    policy.generate(prompts, options, plain);
    policy.generate(prompts, options, out, drawn);
    sequences_view const g = out;
    book.expect(
        std::ranges::equal(g.tokens, plain.view().tokens) && std::ranges::equal(g.offsets, plain.view().offsets),
        "same sample", how + ": asking for log-probabilities changed the tokens");
    book.expect(
        drawn.size() == g.total_tokens(), "shape",
        how + ": " + std::to_string(drawn.size()) + " entries for " + std::to_string(g.total_tokens()) + " tokens");
    if (drawn.size() != g.total_tokens()) continue;
    scored.resize(g.total_tokens());
    static_cast<P const&>(policy).log_probs(g, std::span<T>(scored));
    bool const plainly = options.temperature == 1.0 && options.top_k == 0 && options.top_p == 1.0;
    for (std::size_t b = 0; b < g.size(); ++b)
      for (std::size_t i = 0; i < g.length(b); ++i) {
        std::size_t const t = g.offsets[b] + i;
        if (g.mask[t] == 0) {
          book.expect(drawn[t] == T(0), "shape", how + ": an entry on a prompt is not 0");
          continue;
        }
        double expected = static_cast<double>(scored[t]);
        if (!plainly) {
          sequences every;
          for (std::size_t v = 0; v < vocabulary; ++v) {
            token_id const next = static_cast<token_id>(v);
            every.push_back(g.sequence(b).first(i), std::span(&next, std::size_t{1}));
          }
          sequences_view const e = every;
          std::vector<T> all(e.total_tokens());
          static_cast<P const&>(policy).log_probs(e, std::span<T>(all));
          std::vector<double> last;
          for (std::size_t v = 0; v < vocabulary; ++v) last.push_back(static_cast<double>(all[e.offsets[v + 1] - 1]));
          expected = filtered_log_prob(last, g.tokens[t], options);
        }
        double const actual = static_cast<double>(drawn[t]);
        book.expect(std::abs(actual - expected) <= tolerance * (1.0 + std::abs(expected)), "scored",
                    how + ": token " + std::to_string(t) + " was drawn with " + std::to_string(actual) + ", expected " +
                        std::to_string(expected));
      }
  }
  return std::move(book).broken();
}

}  // namespace attune::testing
