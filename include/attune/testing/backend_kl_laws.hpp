// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/backend.hpp>
#include <attune/core/random.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>
#include <attune/testing/backend_law_case.hpp>
#include <attune/testing/worst_case_book.hpp>

namespace attune::testing {

/// The part of check_backend_laws that is about divergences of whole rows; what it finds goes into the book under
///
///   kl           both directions and both normalisers against the definition in long double: also at large logits,
///                beside masked entries and between nearly certain rows; exactly 0 between equal rows and without a
///                target; +inf where a probability meets a 0; NaN where a row has no distribution, and in that row
///                only; the same bits (bitwise) or numbers for a row alone
///   kl adjoint   the gradient against the definition, added to what was there, exactly nothing where the logit is -inf
///                or the row has no target; NaN where the divergence is not finite
template <Backend B>
class backend_kl_law_check {
 public:
  using T = typename B::scalar;
  using S = typename B::storage;

  /// Every tolerance is multiplied by `slack`.
  backend_kl_law_check(B& backend, worst_case_book& book, double slack, std::uint64_t seed, bool bitwise)
      : backend_(backend), book_(book), slack_(slack), bitwise_(bitwise), random_(seed, ~std::uint64_t{2}) {}

  void run() && {
    for (std::size_t const v : {1u, 2u, 7u, 64u, 257u, 1000u, 3000u}) {
      rows(pair(5, v, 3.0, 3.0));
      rows(pair(5, v, 3.0, 0.01));  // nearly the reference
      rows(pair(5, v, 20.0, 20.0));  // nearly certain, of different tokens
    }
    rows(pair(5, 64, 3.0, 3.0, 1e4));
    two_rows masked = pair(5, 64, 3.0, 1.0);
    for (std::size_t i = 0; i < 5; ++i)
      for (std::size_t v = i; v < 64; v += 3) {
        masked.logits[i * masked.stride + v] = S(-infinity);
        masked.ref_logits[i * masked.stride + v] = S(v % 2 == 0 ? -infinity : nowhere);
      }
    rows(masked);
    beyond();
  }

 private:
  static constexpr double epsilon = std::numeric_limits<T>::epsilon();
  static constexpr T infinity = std::numeric_limits<T>::infinity();
  static constexpr T nowhere = T(-2000);  // a finite logit whose probability underflows, in double too

  struct two_rows {
    std::size_t count, vocabulary, stride;
    std::vector<S> logits, ref_logits;  // (count, stride)
    std::vector<T> slopes;
    std::vector<token_id> targets;

    matrix_view<S const> view() const { return {logits.data(), count, vocabulary, stride}; }
    matrix_view<S const> ref_view() const { return {ref_logits.data(), count, vocabulary, stride}; }
  };

  struct exact {
    long double kl = 0.0L, normalizer = 0.0L, ref_normalizer = 0.0L;
    std::vector<long double> gradient;
  };

  /// ref_logits are logits with `away` times noise added.
  two_rows pair(std::size_t n, std::size_t v, double spread, double away, double shift = 0.0) {
    two_rows c{n, v, v + 3, {}, {}, {}, {}};
    for (std::size_t k = 0; k < n * c.stride; ++k) {
      double const x = shift + spread * random_.normal();
      c.logits.push_back(S(static_cast<T>(x)));
      c.ref_logits.push_back(S(static_cast<T>(x + away * random_.normal())));
    }
    for (std::size_t i = 0; i < n; ++i) {
      c.slopes.push_back(static_cast<T>(random_.normal()));
      c.targets.push_back(i % 4 == 2 ? no_target : static_cast<token_id>(random_.below(v)));
    }
    return c;
  }

  static long double log_normalizer(S const* x, std::size_t count) {
    long double maximum = static_cast<long double>(x[0]), sum = 0.0L;
    for (std::size_t v = 1; v < count; ++v) maximum = (std::max)(maximum, static_cast<long double>(x[v]));
    for (std::size_t v = 0; v < count; ++v) sum += std::exp(static_cast<long double>(x[v]) - maximum);
    return maximum + std::log(sum);
  }

  static exact solve(S const* x, S const* y, std::size_t count, kl_direction direction, T slope) {
    exact e;
    e.normalizer = log_normalizer(x, count);
    e.ref_normalizer = log_normalizer(y, count);
    auto const logp = [&](std::size_t v) { return static_cast<long double>(x[v]) - e.normalizer; };
    auto const logq = [&](std::size_t v) { return static_cast<long double>(y[v]) - e.ref_normalizer; };
    bool const reverse = direction == kl_direction::reverse;
    for (std::size_t v = 0; v < count; ++v) {
      long double const weight = std::exp(reverse ? logp(v) : logq(v));
      if (static_cast<double>(weight) > 1e-37) e.kl += weight * (reverse ? logp(v) - logq(v) : logq(v) - logp(v));
    }
    for (std::size_t v = 0; v < count; ++v) {
      long double const p = std::exp(logp(v));
      bool const none = static_cast<T>(x[v]) == -infinity || (reverse && static_cast<double>(p) <= 1e-37);
      e.gradient.push_back(none ? 0.0L : slope * (reverse ? p * (logp(v) - logq(v) - e.kl) : p - std::exp(logq(v))));
    }
    return e;
  }

  double tolerance(two_rows const& c) const {
    double scale = 1.0;
    for (std::vector<S> const* values : {&c.logits, &c.ref_logits})
      for (S const x : *values)
        if (std::isfinite(x) && static_cast<T>(x) != nowhere)
          scale = (std::max)(scale, std::abs(static_cast<double>(x)));
    return slack_ * 16.0 * epsilon * (1.0 + std::log(static_cast<double>(c.vocabulary))) * scale;
  }

  void rows(two_rows const& c) {
    double const bound = tolerance(c);
    std::size_t const n = c.count, vocabulary = c.vocabulary;
    for (kl_direction const direction : {kl_direction::reverse, kl_direction::forward}) {
      std::vector<T> kl(n, T(9)), normalizers(n, T(9)), ref_normalizers(n, T(9));
      std::vector<S> gradient(n * c.stride, S(3.0f));
      backend_.token_kl(c.view(), c.ref_view(), c.targets, direction, {kl, normalizers, ref_normalizers});
      backend_.token_kl_adjoint(c.view(), c.ref_view(), c.targets, direction, {kl, normalizers, ref_normalizers},
                                c.slopes, {gradient.data(), n, vocabulary, c.stride});
      for (std::size_t i = 0; i < n; ++i) {
        S const* const x = c.logits.data() + i * c.stride;
        S const* const y = c.ref_logits.data() + i * c.stride;
        std::string const where = std::string(direction == kl_direction::reverse ? "reverse" : "forward") +
                                  ", V=" + std::to_string(vocabulary) + " row " + std::to_string(i);
        bool const asked = c.targets[i] != no_target;
        exact const e = solve(x, y, vocabulary, direction, c.slopes[i]);
        book_.compare("kl", where, kl[i], asked ? e.kl : 0.0L, asked ? bound * (1.0 + static_cast<double>(e.kl)) : 0.0);
        book_.require("kl", where + ": negative", !(kl[i] < T(0)));
        if (asked) book_.compare("kl", where, normalizers[i], e.normalizer, bound);
        if (asked) book_.compare("kl", where, ref_normalizers[i], e.ref_normalizer, bound);
        double const steep = std::abs(static_cast<double>(c.slopes[i])) * (1.0 + static_cast<double>(e.kl)) + 1.0;
        for (std::size_t v = 0; v < c.stride; ++v) {
          bool const counts = asked && v < vocabulary && static_cast<T>(x[v]) != -infinity;
          long double const expected = counts ? 3.0L + e.gradient[v] : 3.0L;
          book_.compare("kl adjoint", where, gradient[i * c.stride + v], expected,
                        counts ? 2.0 * bound * steep + backend_law_case<S>::rounding(expected) : 0.0);
        }
        if (asked) alone(c, i, direction, kl[i], where);
      }
    }
  }

  /// The row one element further along in memory; and against itself.
  void alone(two_rows const& c, std::size_t i, kl_direction direction, T among, std::string const& where) {
    std::vector<S> x(c.vocabulary + 1), y(c.vocabulary + 1);
    std::vector<T> one(1), z(1), w(1);
    std::copy_n(c.view().row(i), c.vocabulary, x.data() + 1);
    std::copy_n(c.ref_view().row(i), c.vocabulary, y.data() + 1);
    matrix_view<S const> const row{x.data() + 1, 1, c.vocabulary, c.vocabulary};
    matrix_view<S const> const ref_row{y.data() + 1, 1, c.vocabulary, c.vocabulary};
    std::span<token_id const> const target = std::span(c.targets).subspan(i, 1);
    backend_.token_kl(row, ref_row, target, direction, {one, z, w});
    book_.compare("kl", where + " alone", one[0], among, bitwise_ ? 0.0 : tolerance(c));
    backend_.token_kl(row, row, target, direction, {one, z, w});
    book_.require("kl", where + " against itself", one[0] == T(0));
  }

  /// Where a divergence is no number, and what becomes of the rows beside it.
  void beyond() {
    enum : std::size_t { sound, nan, infinite, nothing, ref_nan, ref_nothing, off_support, off_ref_support, all };
    two_rows c = pair(all, 40, 3.0, 1.0);
    std::fill(c.targets.begin(), c.targets.end(), token_id{1});
    auto const at = [&](std::vector<S>& values, std::size_t i) { return values.data() + i * c.stride; };
    at(c.logits, nan)[30] = at(c.ref_logits, ref_nan)[5] = S(std::numeric_limits<T>::quiet_NaN());
    at(c.logits, infinite)[39] = S(infinity);
    std::fill_n(at(c.logits, nothing), 40, S(-infinity));
    std::fill_n(at(c.ref_logits, ref_nothing), 40, S(-infinity));
    at(c.ref_logits, off_support)[7] = S(-infinity);   // reverse: +inf
    at(c.logits, off_ref_support)[7] = S(-infinity);  // forward: +inf
    for (kl_direction const direction : {kl_direction::reverse, kl_direction::forward}) {
      bool const reverse = direction == kl_direction::reverse;
      std::vector<T> kl(all), z(all), w(all);
      std::vector<S> gradient(all * c.stride);
      backend_.token_kl(c.view(), c.ref_view(), c.targets, direction, {kl, z, w});
      backend_.token_kl_adjoint(c.view(), c.ref_view(), c.targets, direction, {kl, z, w}, c.slopes,
                                {gradient.data(), all, 40, c.stride});
      for (std::size_t i = 0; i < all; ++i) {
        std::string const where =
            std::string(reverse ? "reverse" : "forward") + ", row " + std::to_string(i) + " without a KL";
        bool const unbounded = i == (reverse ? off_support : off_ref_support);
        bool const number = i == sound || i == (reverse ? off_ref_support : off_support);
        book_.require("kl", where, number ? std::isfinite(kl[i]) : unbounded ? kl[i] == infinity : std::isnan(kl[i]));
        bool all_nan = true, any_nan = false;
        for (std::size_t v = 0; v < 40; ++v) {
          bool const is_nan = std::isnan(gradient[i * c.stride + v]);
          all_nan = all_nan && is_nan;
          any_nan = any_nan || is_nan;
        }
        book_.require("kl adjoint", where, number ? !any_nan : all_nan);
      }
    }
  }

  B& backend_;
  worst_case_book& book_;
  double slack_;
  bool bitwise_;
  random_stream random_;
};

}  // namespace attune::testing
