// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
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
#include <attune/testing/broken_law.hpp>
#include <attune/testing/worst_case_book.hpp>

namespace attune::testing {

/// The part of check_backend_laws that is about collisions and about the slopes of normalisers; what it finds goes
/// into the book under
///
///   collisions           log sum p^2 against the definition in long double, 0 without a target, also at large logits,
///                        beside masked entries and in nearly certain rows; NaN where the row has no distribution; the
///                        other outputs do not change for them
///   normalizer adjoint   the gradient with slopes of log_normalizers, alone and beside all others, in place or not, of
///                        logits or through the linear head, against the definition; exactly 0 where the logit is -inf;
///                        slopes of 0 leave it where it is without them
template <Backend B>
class backend_term_law_check {
 public:
  using T = typename B::scalar;
  using S = typename B::storage;

  /// Every tolerance is multiplied by `slack`.
  backend_term_law_check(B& backend, worst_case_book& book, double slack, std::uint64_t seed)
      : backend_(backend), book_(book), slack_(slack), random_(seed, ~std::uint64_t{1}) {}

  void run() && {
    for (std::size_t const v : {1u, 2u, 7u, 64u, 257u, 1000u, 3000u}) {
      rows(law_case<S>(5, v, 3.0, 0.0));
      rows(law_case<S>(5, v, 30.0, 0.0));  // nearly certain
      linear(9, v, v % 2 == 0 ? 16 : 5);
    }
    rows(law_case<S>(5, 64, 3.0, 1e4));
    constexpr T infinity = std::numeric_limits<T>::infinity();
    T const lowest = std::same_as<S, f16>    ? T(-65504)
                     : std::same_as<S, bf16> ? T(-3.38e38)
                                             : std::numeric_limits<T>::lowest();
    law<S> c = law_case<S>(5, 64, 3.0, 0.0);
    for (std::size_t i = 0; i < 5; ++i)
      for (std::size_t v = i; v < 64; v += 3)
        c.row(i)[v] = S(v % 2 == 0 ? -infinity : lowest);
    c.targets = {1, 2, 3, 4, 7};  // the last one's is masked
    c.solve();
    c.scale = 10.0;  // of the logits that count
    rows(c);
    no_distribution();
  }

 private:
  static constexpr double epsilon = std::numeric_limits<T>::epsilon();

  /// With what backend_law_case does not know: slopes of the normalisers, and collisions in long double.
  template <class X>
  struct law : backend_law_case<X> {
    std::vector<T> normalizer_slopes;

    using backend_law_case<X>::backend_law_case;
    X* row(std::size_t i) { return this->logits.data() + i * this->stride; }
    X const* row(std::size_t i) const { return this->logits.data() + i * this->stride; }

    long double collision(std::size_t i) const {
      if (this->targets[i] == no_target) return 0.0L;
      long double sum = 0.0L;
      for (std::size_t v = 0; v < this->vocabulary; ++v)
        sum += std::exp(2.0L * (static_cast<long double>(row(i)[v]) - this->log_normalizers[i]));
      return std::log(sum);
    }

    long double raised(std::size_t i, std::size_t v) const {  // the gradient that the normaliser's slope adds
      if (this->targets[i] == no_target) return 0.0L;
      return normalizer_slopes[i] * std::exp(static_cast<long double>(row(i)[v]) - this->log_normalizers[i]);
    }

    double steepness(std::size_t i) const {
      auto const size = [](T x) { return std::abs(static_cast<double>(x)); };
      return size(this->slopes[i]) + size(this->mean_slopes[i]) + size(normalizer_slopes[i]) +
             size(this->entropy_slopes[i]) * (1.0 + std::log(static_cast<double>(this->vocabulary)));
    }
  };

  template <class X>
  law<X> law_case(std::size_t n, std::size_t v, double spread, double shift) {
    law<X> c(n, v, random_stream(random_()), spread, shift);
    for (std::size_t i = 0; i < n; ++i) c.normalizer_slopes.push_back(static_cast<T>(random_.normal()));
    return c;
  }

  double tolerance(std::size_t vocabulary, double scale) const {
    return slack_ * 8.0 * epsilon * (1.0 + std::log(static_cast<double>(vocabulary))) * scale;
  }

  static std::vector<T> rounded(std::vector<long double> const& x) {
    std::vector<T> y;
    for (long double const a : x) y.push_back(static_cast<T>(a));
    return y;
  }

  void rows(law<S> const& c) {
    double const bound = tolerance(c.vocabulary, c.scale);
    std::size_t const n = c.rows;
    struct outputs {
      std::vector<T> logps, normalizers, means, entropies;
      explicit outputs(std::size_t count) : logps(count), normalizers(count), means(count), entropies(count) {}
      bool same(outputs const& other) const {
        auto const equal = [](std::vector<T> const& a, std::vector<T> const& b) {
          return same_bits(std::span<T const>(a), std::span<T const>(b));
        };
        return equal(logps, other.logps) && equal(normalizers, other.normalizers) && equal(means, other.means) &&
               equal(entropies, other.entropies);
      }
    } with(n), without(n);
    std::vector<T> collisions(n, T(9));
    backend_.token_logps(c.view(), c.targets, {with.logps, with.normalizers, with.means, with.entropies, collisions});
    backend_.token_logps(c.view(), c.targets, {without.logps, without.normalizers, without.means, without.entropies});
    book_.require("collisions", "V=" + std::to_string(c.vocabulary) + ": the other outputs changed",
                  with.same(without));

    std::vector<T> const given = rounded(c.log_normalizers), exact = rounded(c.entropies), none(n, T(0));
    std::vector<S> apart(n * c.stride), alone = apart, flat = apart, plain = apart, both = c.logits;
    auto const view = [&](std::vector<S>& m) { return matrix_view<S>{m.data(), n, c.vocabulary, c.stride}; };
    row_slopes<T> const all{c.slopes, c.mean_slopes, exact, c.entropy_slopes, c.normalizer_slopes};
    backend_.token_logps_adjoint(c.view(), c.targets, given, all, view(apart));
    backend_.token_logps_adjoint(view(both), c.targets, given, all, view(both));
    backend_.token_logps_adjoint(c.view(), c.targets, given, {none, {}, {}, {}, c.normalizer_slopes}, view(alone));
    backend_.token_logps_adjoint(c.view(), c.targets, given, {c.slopes, c.mean_slopes, {}, {}, none}, view(flat));
    backend_.token_logps_adjoint(c.view(), c.targets, given, {c.slopes, c.mean_slopes}, view(plain));
    for (std::size_t i = 0; i < n; ++i) {
      std::string const where = "V=" + std::to_string(c.vocabulary) + " row " + std::to_string(i);
      bool const asked = c.targets[i] != no_target;
      book_.compare("collisions", where, collisions[i], c.collision(i), asked ? 2.0 * bound : 0.0);
      for (std::size_t v = 0; v < c.vocabulary; ++v) {
        std::size_t const at = i * c.stride + v, cell = i * c.vocabulary + v;
        long double const expected = c.gradient[cell] + c.entropy_gradient[cell] + c.raised(i, v);
        double const allowed = !asked || std::isinf(c.logits[at]) ? 0.0 : bound * c.steepness(i);
        double const stored = allowed == 0.0 ? 0.0 : allowed + c.rounding(expected);
        book_.compare("normalizer adjoint", where, apart[at], expected, stored);
        book_.compare("normalizer adjoint", where + " in place", both[at], expected, stored);
        book_.compare("normalizer adjoint", where + " alone", alone[at], c.raised(i, v),
                      allowed == 0.0 ? 0.0 : allowed + c.rounding(c.raised(i, v)));
        book_.compare("normalizer adjoint", where + " with slopes of 0", flat[at], plain[at], 0.0);
      }
    }
  }

  void linear(std::size_t n, std::size_t v, std::size_t width) {
    law<T> c = law_case<T>(n, v, 3.0, 0.0);  // the product is never stored
    std::vector<S> hidden(n * width), head(v * width);
    for (S& x : hidden) x = S(static_cast<T>(random_.normal()));
    for (S& x : head) x = S(static_cast<T>(random_.normal()));
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t k = 0; k < v; ++k) {
        long double sum = 0.0L;
        for (std::size_t d = 0; d < width; ++d)
          sum += static_cast<long double>(hidden[i * width + d]) * static_cast<long double>(head[k * width + d]);
        c.row(i)[k] = static_cast<T>(sum);
      }
    c.solve();
    double const bound = tolerance(v, c.scale) * (1.0 + std::sqrt(static_cast<double>(width)));
    std::size_t const elements = backend_.linear_workspace(n, v, width);
    std::vector<T> room(elements + 1), logps(n), normalizers(n), collisions(n, T(9));  // one more: for who writes there
    std::span<T> const memory(room.data(), elements);
    auto const h = as_matrix<S const>(hidden.data(), n, width);
    auto const w = as_matrix<S const>(head.data(), v, width);
    backend_.linear_token_logps(h, w, c.targets, {logps, normalizers, {}, {}, collisions}, memory);
    std::vector<T> const given = rounded(c.log_normalizers);
    std::vector<S> dhidden(n * width, S(3.0f));
    std::vector<T> dhead(v * width, T(3));
    backend_.linear_token_logps_adjoint(h, w, c.targets, given, {c.slopes, c.mean_slopes, {}, {}, c.normalizer_slopes},
                                        as_matrix(dhidden.data(), n, width), as_matrix(dhead.data(), v, width), memory);
    auto const dlogit = [&](std::size_t i, std::size_t k) { return c.gradient[i * v + k] + c.raised(i, k); };
    for (std::size_t i = 0; i < n; ++i) {
      std::string const where =
          "linear, V=" + std::to_string(v) + " D=" + std::to_string(width) + " row " + std::to_string(i);
      bool const asked = c.targets[i] != no_target;
      book_.compare("collisions", where, collisions[i], c.collision(i), asked ? 2.0 * bound : 0.0);
      for (std::size_t d = 0; d < width; ++d) {
        long double sum = 0.0L;
        for (std::size_t k = 0; k < v; ++k) sum += dlogit(i, k) * static_cast<long double>(head[k * width + d]);
        book_.compare("normalizer adjoint", where, dhidden[i * width + d], sum,
                      asked ? 16.0 * bound * c.steepness(i) + backend_law_case<S>::rounding(sum) : 0.0);
      }
    }
    for (std::size_t k = 0; k < v; ++k)
      for (std::size_t d = 0; d < width; ++d) {
        long double sum = 3.0L;
        double steep = 1.0;
        for (std::size_t i = 0; i < n; ++i) {
          sum += dlogit(i, k) * static_cast<long double>(hidden[i * width + d]);
          steep += c.steepness(i);
        }
        book_.compare("normalizer adjoint", "dhead, V=" + std::to_string(v) + " row " + std::to_string(k),
                      dhead[k * width + d], sum, 16.0 * bound * steep);
      }
  }

  void no_distribution() {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    law<S> c = law_case<S>(4, 40, 3.0, 0.0);
    c.targets = {1, 2, 3, 4};
    c.row(1)[30] = S(std::numeric_limits<T>::quiet_NaN());
    c.row(2)[39] = S(infinity);
    for (std::size_t v = 0; v < 40; ++v) c.row(3)[v] = S(-infinity);
    std::vector<T> logps(4), normalizers(4), collisions(4);
    std::vector<S> gradient(4 * c.stride);
    backend_.token_logps(c.view(), c.targets, {logps, normalizers, {}, {}, collisions});
    backend_.token_logps_adjoint(c.view(), c.targets, normalizers, {c.slopes, {}, {}, {}, c.normalizer_slopes},
                                 {gradient.data(), 4, 40, c.stride});
    for (std::size_t i = 0; i < 4; ++i) {
      std::string const where = "row " + std::to_string(i) + " of rows without a distribution";
      book_.require("collisions", where, std::isnan(collisions[i]) == (i > 0));
      bool all_nan = true, any_nan = false;
      for (std::size_t v = 0; v < 40; ++v) {
        all_nan = all_nan && std::isnan(gradient[i * c.stride + v]);
        any_nan = any_nan || std::isnan(gradient[i * c.stride + v]);
      }
      book_.require("normalizer adjoint", where, i > 0 ? all_nan : !any_nan);
    }
  }

  B& backend_;
  worst_case_book& book_;
  double slack_;
  random_stream random_;
};

}  // namespace attune::testing
