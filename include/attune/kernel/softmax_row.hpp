// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include <attune/core/lanes.hpp>
#include <attune/core/storage.hpp>

/// One row of logits on a CPU: its normaliser, entropy and collision probability, and the gradient of a log-probability
/// and of the entropy in it. The row comes from memory once in each direction, in blocks that stay in the first-level
/// cache, and once more for the entropy and for the collisions; nothing beside the row is written. Rows are of any
/// StorageScalar S; what is computed is computed in arithmetic_t<S>, and a gradient is rounded once, when it is stored.
///
/// Determinism: element v always lands in the same lane of the same block, and the last few elements go through the
/// same arithmetic as all others. Results are a function of the values alone, never of the pointer's alignment or of
/// what lies around the row.
namespace attune {

/// Elements per block; a multiple of every lane_group's size.
inline constexpr std::size_t softmax_block = 1024;

/// What one reading tells of a row. In double: only what is stored gets rounded.
struct softmax_summary {
  double maximum;     ///< the largest logit; -inf where all are
  double log_sum;     ///< log sum over v of exp(logits[v] - maximum); NaN where the row has no distribution
  double mean_logit;  ///< 1/V sum over v of logits[v], where asked for

  double log_normalizer() const noexcept { return maximum + log_sum; }
};

/// Reads count >= 1 logits. NaN or +inf among them, or nothing but -inf, makes log_sum NaN.
template <class S>
[[nodiscard]] softmax_summary summarize_logits(S const* logits, std::size_t count, bool with_mean) noexcept {
  using T = arithmetic_t<S>;
  using group = lane_group<T>;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  T maximum = lowest;
  double sum = 0.0;
  double plain_sum = 0.0;
  for (std::size_t first = 0; first < count; first += softmax_block) {
    S const* const x = logits + first;
    std::size_t const length = count - first < softmax_block ? count - first : softmax_block;
    std::size_t const rest = length % group::size;
    std::size_t const whole = length - rest;

    group const tail = group::load(x + whole, rest, lowest);
    group highest = tail;
    for (std::size_t v = 0; v < whole; v += group::size) {
      group const g = group::load(x + v);
      for (std::size_t r = 0; r < group::registers; ++r)
        highest.part[r] = g.part[r] > highest.part[r] ? g.part[r] : highest.part[r];
    }
    T all[group::size];
    highest.store(all);
    T block_maximum = maximum;
    for (T const candidate : all) block_maximum = candidate > block_maximum ? candidate : block_maximum;

    if (block_maximum > maximum) {
      if (maximum > lowest) sum *= std::exp(static_cast<double>(maximum) - static_cast<double>(block_maximum));
      maximum = block_maximum;
    }
    T const shift = maximum > lowest ? maximum : T(0);  // so that -inf does not meet -inf before the first number
    group sums = group::filled(T(0));
    auto const add_exp = [&](group const& g) {
      for (std::size_t r = 0; r < group::registers; ++r) sums.part[r] += lanes<T>::exp(g.part[r] - shift);
    };
    for (std::size_t v = 0; v < whole; v += group::size) add_exp(group::load(x + v));
    add_exp(tail);
    sum += sums.total();

    if (with_mean) {
      group plain = group::load(x + whole, rest, T(0));
      for (std::size_t v = 0; v < whole; v += group::size) {
        group const g = group::load(x + v);
        for (std::size_t r = 0; r < group::registers; ++r) plain.part[r] += g.part[r];
      }
      plain_sum += plain.total();
    }
  }
  double const log_sum = maximum > lowest ? std::log(sum) : std::numeric_limits<double>::quiet_NaN();
  return {static_cast<double>(maximum), log_sum, plain_sum / static_cast<double>(count)};
}

/// -sum over v of p log p in nats, p = softmax(logits), of the row that s summarizes; NaN where s.log_sum is. With
/// d = logits[v] - maximum it is log_sum - sum of e^d d / e^log_sum: two terms of one sign, so nothing cancels. Where p
/// underflows, -inf among them, p log p is 0.
template <class S>
[[nodiscard]] double softmax_entropy(S const* logits, std::size_t count, softmax_summary const& s) noexcept {
  using T = arithmetic_t<S>;
  using group = lane_group<T>;
  using integers = typename lanes<T>::integers;
  using values = typename lanes<T>::values;
  T const maximum = static_cast<T>(s.maximum);
  double sum = 0.0;
  for (std::size_t first = 0; first < count; first += softmax_block) {
    S const* const x = logits + first;
    std::size_t const length = count - first < softmax_block ? count - first : softmax_block;
    std::size_t const rest = length % group::size;
    std::size_t const whole = length - rest;
    group sums = group::filled(T(0));
    auto const add = [&](group const& g) {
      for (std::size_t r = 0; r < group::registers; ++r) {
        values const d = g.part[r] - maximum;
        values const e = lanes<T>::exp(d);
        sums.part[r] += (values)((integers)(e * d) & (integers)(e > T(0)));
      }
    };
    for (std::size_t v = 0; v < whole; v += group::size) add(group::load(x + v));
    add(group::load(x + whole, rest, -std::numeric_limits<T>::infinity()));
    sum += sums.total();
  }
  return s.log_sum - sum * std::exp(-s.log_sum);
}

/// log sum over v of p^2, p = softmax(logits), of the row that s summarizes: the log of the probability that two draws
/// agree, in [-log count, 0]; NaN where s.log_sum is.
template <class S>
[[nodiscard]] double softmax_collision(S const* logits, std::size_t count, softmax_summary const& s) noexcept {
  using T = arithmetic_t<S>;
  using group = lane_group<T>;
  T const maximum = static_cast<T>(s.maximum);
  double sum = 0.0;  // >= 1: the largest logit's term
  for (std::size_t first = 0; first < count; first += softmax_block) {
    S const* const x = logits + first;
    std::size_t const length = count - first < softmax_block ? count - first : softmax_block;
    std::size_t const rest = length % group::size;
    std::size_t const whole = length - rest;
    group sums = group::filled(T(0));
    auto const add = [&](group const& g) {
      for (std::size_t r = 0; r < group::registers; ++r) {
        typename lanes<T>::values const e = lanes<T>::exp(g.part[r] - maximum);
        sums.part[r] += e * e;
      }
    };
    for (std::size_t v = 0; v < whole; v += group::size) add(group::load(x + v));
    add(group::load(x + whole, rest, -std::numeric_limits<T>::infinity()));
    sum += sums.total();
  }
  return std::log(sum) - 2.0 * s.log_sum;
}

/// out[v] = f(logits[v]) for an f of lanes, and exactly 0 where logits[v] is -inf. out may be logits itself.
template <class S, class F>
void map_logits(S const* logits, std::size_t count, S* out, F const& f) noexcept {
  using T = arithmetic_t<S>;
  using group = lane_group<T>;
  using integers = typename lanes<T>::integers;
  using values = typename lanes<T>::values;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  auto const transform = [&](group g) {
    for (std::size_t r = 0; r < group::registers; ++r) {
      values const x = g.part[r];
      g.part[r] = (values)((integers)f(x) & ~(integers)(x == lowest));
    }
    return g;
  };
  std::size_t const rest = count % group::size;
  std::size_t const whole = count - rest;
  for (std::size_t v = 0; v < whole; v += group::size) transform(group::load(logits + v)).store(out + v);
  if (rest > 0) transform(group::load(logits + whole, rest, lowest)).store(out + whole, rest);
}

/// out[v] = factor * exp(logits[v] - log_normalizer) + offset, and exactly 0 where logits[v] is -inf. A NaN among the
/// numbers passed makes the whole row NaN. out may be logits itself.
template <class S>
void scaled_softmax(S const* logits, std::size_t count, arithmetic_t<S> log_normalizer, arithmetic_t<S> factor,
                    arithmetic_t<S> offset, S* out) noexcept {
  using T = arithmetic_t<S>;
  using values = typename lanes<T>::values;
  if (log_normalizer != log_normalizer || factor != factor || offset != offset) {
    for (std::size_t v = 0; v < count; ++v) out[v] = S(std::numeric_limits<T>::quiet_NaN());
    return;
  }
  map_logits(logits, count, out,
             [=](values x) -> values { return lanes<T>::exp(x - log_normalizer) * factor + offset; });
}

/// The same less entropy_slope * p * (log p + entropy), p = exp(logits[v] - log_normalizer), which is 0 where p
/// underflows.
template <class S>
void scaled_softmax(S const* logits, std::size_t count, arithmetic_t<S> log_normalizer, arithmetic_t<S> factor,
                    arithmetic_t<S> offset, arithmetic_t<S> entropy_slope, arithmetic_t<S> entropy, S* out) noexcept {
  using T = arithmetic_t<S>;
  using integers = typename lanes<T>::integers;
  using values = typename lanes<T>::values;
  if (entropy_slope != entropy_slope || entropy != entropy) factor = std::numeric_limits<T>::quiet_NaN();
  if (log_normalizer != log_normalizer || factor != factor || offset != offset)
    return scaled_softmax(logits, count, log_normalizer, factor, offset, out);
  map_logits(logits, count, out, [=](values x) -> values {
    values const logp = x - log_normalizer;
    values const p = lanes<T>::exp(logp);
    values const bent = (values)((integers)(p * (logp + entropy)) & (integers)(p > T(0)));
    return p * factor + offset - bent * entropy_slope;
  });
}

}  // namespace attune
