// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include <attune/concepts/backend.hpp>
#include <attune/core/lanes.hpp>
#include <attune/core/storage.hpp>
#include <attune/kernel/softmax_row.hpp>

/// Two rows of logits on a CPU: the Kullback-Leibler divergence of one softmax from the other, and its gradient. Both
/// rows come from memory once in each direction; the forward pass reads them again from the cache, once their
/// normalisers are known. Nothing beside the rows is written. Determinism is that of softmax_row.hpp.
namespace attune {

/// sum over v of p (log p - log q) in nats, p = softmax(logits) and q = softmax(other), of the rows that s and r
/// summarize. Where p underflows its term is 0, -inf among them, whatever q is; where q is 0 and p is not it is +inf.
/// NaN where either row has no distribution. Never negative: rounding below 0 is 0, and equal rows give exactly 0.
template <class S>
[[nodiscard]] double softmax_divergence(S const* logits, S const* other, std::size_t count, softmax_summary const& s,
                                        softmax_summary const& r) noexcept {
  using T = arithmetic_t<S>;
  using group = lane_group<T>;
  using integers = typename lanes<T>::integers;
  using values = typename lanes<T>::values;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  T const maximum = static_cast<T>(s.maximum), other_maximum = static_cast<T>(r.maximum);
  T const shift = static_cast<T>(s.log_sum - r.log_sum);
  double sum = 0.0;
  for (std::size_t first = 0; first < count; first += softmax_block) {
    S const* const x = logits + first;
    S const* const y = other + first;
    std::size_t const length = count - first < softmax_block ? count - first : softmax_block;
    std::size_t const rest = length % group::size;
    std::size_t const whole = length - rest;
    group sums = group::filled(T(0));
    auto const add = [&](group const& a, group const& b) {
      for (std::size_t k = 0; k < group::registers; ++k) {
        values const d = a.part[k] - maximum;
        values const e = lanes<T>::exp(d);
        values const term = e * ((d - (b.part[k] - other_maximum)) - shift);
        sums.part[k] += (values)((integers)term & (integers)(e > T(0)));
      }
    };
    for (std::size_t v = 0; v < whole; v += group::size) add(group::load(x + v), group::load(y + v));
    add(group::load(x + whole, rest, lowest), group::load(y + whole, rest, lowest));
    sum += sums.total();
  }
  double const divergence = sum * std::exp(-s.log_sum);
  return divergence < 0.0 ? 0.0 : divergence;
}

/// Entry i of `out`: the divergence between the rows x (of the policy) and y (of the reference) and both normalisers; 0
/// without a target, and then nothing is read.
template <class S>
void divergence_row(S const* x, S const* y, std::size_t count, token_id target, kl_direction direction,
                    row_kl<arithmetic_t<S>> out, std::size_t i) noexcept {
  using T = arithmetic_t<S>;
  if (target == no_target) {
    out.kl[i] = out.log_normalizers[i] = out.ref_log_normalizers[i] = T(0);
    return;
  }
  softmax_summary const s = summarize_logits(x, count, false), r = summarize_logits(y, count, false);
  out.kl[i] = static_cast<T>(direction == kl_direction::reverse ? softmax_divergence(x, y, count, s, r)
                                                                : softmax_divergence(y, x, count, r, s));
  out.log_normalizers[i] = static_cast<T>(s.log_normalizer());
  out.ref_log_normalizers[i] = static_cast<T>(r.log_normalizer());
}

/// out[v] += f(x[v], y[v]) for an f of lanes.
template <class S, class F>
void add_over_logits(S const* x, S const* y, std::size_t count, S* out, F const& f) noexcept {
  using T = arithmetic_t<S>;
  using group = lane_group<T>;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  auto const sum = [&](group const& a, group const& b, group into) {
    for (std::size_t k = 0; k < group::registers; ++k)
      into.part[k] += f(a.part[k], b.part[k]);
    return into;
  };
  std::size_t const rest = count % group::size;
  std::size_t const whole = count - rest;
  for (std::size_t v = 0; v < whole; v += group::size)
    sum(group::load(x + v), group::load(y + v), group::load(out + v)).store(out + v);
  if (rest > 0)
    sum(group::load(x + whole, rest, lowest), group::load(y + whole, rest, lowest),
        group::load(out + whole, rest, T(0)))
        .store(out + whole, rest);
}

/// Adds to out (count) what `slope` times the divergence's gradient in x is, from entry i of what divergence_row wrote.
/// A divergence, normaliser or slope that is not finite makes the whole row NaN; so where x[v] is -inf and the
/// divergence is finite, q underflows or does not count, and exactly nothing is added. out is neither x nor y.
template <class S>
void divergence_row_adjoint(S const* x, S const* y, std::size_t count, kl_direction direction,
                            row_kl<arithmetic_t<S> const> of, arithmetic_t<S> slope, std::size_t i, S* out) noexcept {
  using T = arithmetic_t<S>;
  using integers = typename lanes<T>::integers;
  using values = typename lanes<T>::values;
  T const kl = of.kl[i], normalizer = of.log_normalizers[i], ref_normalizer = of.ref_log_normalizers[i];
  if (!std::isfinite(kl) || !std::isfinite(normalizer) || !std::isfinite(ref_normalizer) || !std::isfinite(slope)) {
    for (std::size_t v = 0; v < count; ++v) out[v] = S(std::numeric_limits<T>::quiet_NaN());
    return;
  }
  if (direction == kl_direction::reverse)
    add_over_logits(x, y, count, out, [=](values a, values b) -> values {
      values const logp = a - normalizer;
      values const p = lanes<T>::exp(logp);
      values const bent = p * ((logp - (b - ref_normalizer)) - kl);
      return (values)((integers)bent & (integers)(p > T(0))) * slope;
    });
  else
    add_over_logits(x, y, count, out, [=](values a, values b) -> values {
      return (lanes<T>::exp(a - normalizer) - lanes<T>::exp(b - ref_normalizer)) * slope;
    });
}

}  // namespace attune
