// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/value_model.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/testing/broken_law.hpp>
#include <attune/testing/differentiable_laws.hpp>
#include <attune/testing/policy_laws.hpp>

namespace attune::testing {

/// Laws of ValueModel: "masked", "finite", "pure", "causal", "local", "consistent", "asks once", "linear", "exact",
/// "accumulates", "stable", "ask throws". Parameters are moved and put back; gradients are zero afterwards.
template <ValueModel M>
[[nodiscard]] std::vector<broken_law> check_value_model_laws(M& model, std::size_t vocabulary,
                                                             policy_law_options o = {}) {
  using T = typename M::scalar;
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>;
  law_book book;
  random_stream random(o.seed, 7);
  auto const values_of = [&](sequences_view v) {
    std::vector<T> out(v.total_tokens(), T(77));
    static_cast<M const&>(model).values(v, std::span<T>(out));
    return out;
  };
  sequences const batch = law_sequences(vocabulary, o, random);
  sequences_view const s = batch;
  std::vector<T> const values = values_of(s);
  for (std::size_t t = 0; t < values.size(); ++t) {
    std::string const place = "token " + std::to_string(t) + ": " + std::to_string(values[t]);
    if (s.mask[t] == 0) book.expect(values[t] == T(0), "masked", place + " where the mask is 0");
    else book.expect(std::isfinite(values[t]), "finite", place);
  }
  book.expect(same_bits(std::span<T const>(values), std::span<T const>(values_of(s))), "pure",
              "a second call wrote other bits");

  sequences reversed;
  for (std::size_t b = s.size(); b-- > 0;) reversed.push_back_masked(s.sequence(b), s.sequence_mask(b));
  sequences_view const r = reversed;
  std::vector<T> const backwards = values_of(r);
  for (std::size_t b = 0; b < s.size(); ++b) {
    std::string const which = "sequence " + std::to_string(b);
    auto const part = std::span<T const>(values).subspan(s.offsets[b], s.length(b));
    auto const moved = std::span<T const>(backwards).subspan(r.offsets[s.size() - 1 - b], s.length(b));
    double const displaced = largest_difference(moved, part);
    book.expect(displaced <= tolerance, "local", which + " in a reversed batch is off by " + std::to_string(displaced));
    sequences alone;
    alone.push_back_masked(s.sequence(b), s.sequence_mask(b));
    std::vector<T> const by_itself = values_of(alone);
    double const apart = largest_difference(std::span<T const>(by_itself), part);
    book.expect(apart <= tolerance, "local", which + " alone is off by " + std::to_string(apart));

    for (std::size_t changed = 1; changed < s.length(b); ++changed) {  // this token and all later ones
      std::vector<token_id> text(s.sequence(b).begin(), s.sequence(b).end());
      for (std::size_t i = changed; i < text.size(); ++i)
        text[i] = static_cast<token_id>((static_cast<std::size_t>(text[i]) + 1 + i) % vocabulary);
      sequences edited;
      edited.push_back_masked(text, s.sequence_mask(b));
      std::vector<T> const after = values_of(edited);
      double const leaked = largest_difference(std::span<T const>(after).first(changed + 1), part.first(changed + 1));
      book.expect(leaked <= tolerance, "causal",
                  which + ": changing token " + std::to_string(changed) +
                      " and later ones moved values up to its own by " + std::to_string(leaked));
    }
  }

  std::size_t asked = 0;
  clear_gradients(model);
  model.accumulate_value_gradient(s, [&](std::span<T const> seen, std::span<T> ask) {
    ++asked;
    double const off = largest_difference(seen, std::span<T const>(values));
    book.expect(off <= tolerance, "consistent", "ask sees values off by " + std::to_string(off));
    book.expect(ask.size() == seen.size(), "consistent", "ask's spans differ in size");
    for (std::size_t t = 0; t < ask.size(); ++t)
      book.expect(s.mask[t] != 0 || ask[t] == T(0), "masked", "a slope where the mask is 0 is not 0 to begin with");
    std::fill(ask.begin(), ask.end(), T(0));
  });
  book.expect(asked == 1, "asks once", "ask was called " + std::to_string(asked) + " times");
  std::vector<T> slopes(s.total_tokens());
  for (std::size_t t = 0; t < slopes.size(); ++t)
    if (s.mask[t] != 0) slopes[t] = static_cast<T>(0.5 + random.uniform());
  check_differentiable_laws(
      book, model, slopes, random, tolerance, [&] { return values_of(s); },
      [&](std::vector<T> const& given) {
        model.accumulate_value_gradient(
            s, [&](std::span<T const>, std::span<T> ask) { std::copy(given.begin(), given.end(), ask.begin()); });
      },
      [&] {
        model.accumulate_value_gradient(s, [](std::span<T const>, std::span<T>) { throw law_violation("on purpose"); });
      });
  return std::move(book).broken();
}

/// What ActorCritic promises beyond Policy and ValueModel, whose own checkers are to be run as well: "consistent" (both
/// readings are those of log_probs and values), "asks once", "joint" (the gradient is the sum of the two separate ones)
/// and "ask throws". Gradients are zero afterwards.
template <ActorCritic P>
[[nodiscard]] std::vector<broken_law> check_actor_critic_laws(P& model, std::size_t vocabulary,
                                                              policy_law_options o = {}) {
  using T = typename P::scalar;
  double const tolerance = o.tolerance > 0.0 ? o.tolerance : model_tolerance<T>;
  law_book book;
  random_stream random(o.seed, 8);
  sequences const batch = law_sequences(vocabulary, o, random);
  sequences_view const s = batch;
  std::vector<T> logps(s.total_tokens()), values(s.total_tokens()), both_logps(logps.size(), T(77)),
      both_values = both_logps;
  static_cast<P const&>(model).log_probs(s, std::span<T>(logps));
  static_cast<P const&>(model).values(s, std::span<T>(values));
  static_cast<P const&>(model).log_probs_and_values(s, std::span<T>(both_logps), std::span<T>(both_values));
  auto const agree = [&](std::span<T const> seen, std::vector<T> const& expected, char const* what) {
    double const off = largest_difference(seen, std::span<T const>(expected));
    book.expect(off <= tolerance, "consistent", std::string(what) + " are off by " + std::to_string(off));
  };
  agree(both_logps, logps, "log_probs_and_values: logps");
  agree(both_values, values, "log_probs_and_values: values");

  std::vector<T> slopes(s.total_tokens()), value_slopes(s.total_tokens());
  for (std::size_t t = 0; t < slopes.size(); ++t)
    if (s.mask[t] != 0) {
      slopes[t] = static_cast<T>(random.normal());
      value_slopes[t] = static_cast<T>(random.normal());
    }
  clear_gradients(model);
  model.accumulate_gradient(
      s, [&](std::span<T const>, std::span<T> ask) { std::copy(slopes.begin(), slopes.end(), ask.begin()); });
  model.accumulate_value_gradient(s, [&](std::span<T const>, std::span<T> ask) {
    std::copy(value_slopes.begin(), value_slopes.end(), ask.begin());
  });
  std::vector<T> const apart = copied_gradients(model);
  clear_gradients(model);
  std::size_t asked = 0;
  model.accumulate_gradient_with_values(
      s, [&](std::span<T const> seen_logps, std::span<T const> seen_values, std::span<T> ask, std::span<T> value_ask) {
        ++asked;
        agree(seen_logps, logps, "ask's logps");
        agree(seen_values, values, "ask's values");
        std::copy(slopes.begin(), slopes.end(), ask.begin());
        std::copy(value_slopes.begin(), value_slopes.end(), value_ask.begin());
      });
  book.expect(asked == 1, "asks once", "ask was called " + std::to_string(asked) + " times");
  std::vector<T> const kept = copied_gradients(model);
  double const off = largest_difference(std::span<T const>(kept), std::span<T const>(apart));
  book.expect(off <= tolerance, "joint",
              "the gradient differs from the sum of the separate ones by " + std::to_string(off));
  try {
    model.accumulate_gradient_with_values(s, [](std::span<T const>, std::span<T const>, std::span<T>, std::span<T>) {
      throw law_violation("on purpose");
    });
    book.expect(false, "ask throws", "the exception was swallowed");
  } catch (law_violation const&) {
  }
  book.expect(same_bits(std::span<T const>(kept), std::span<T const>(copied_gradients(model))), "ask throws",
              "the gradients were changed");
  clear_gradients(model);
  return std::move(book).broken();
}

}  // namespace attune::testing
