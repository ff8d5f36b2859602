// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
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

/// The part of check_backend_laws that is about entropies; what it finds goes into the book under
///
///   entropies          against the definition in long double, 0 without a target, also at large logits, beside masked
///                      entries and in nearly certain rows; NaN where the row has no distribution; the other outputs do
///                      not change for them
///   entropy adjoint    the same of the gradient, in place or not, of logits or through the linear head; with slopes of
///                      0 it is that without entropies
template <Backend B>
class backend_entropy_law_check {
 public:
  using T = typename B::scalar;
  using S = typename B::storage;

  /// Every tolerance is multiplied by `slack`.
  backend_entropy_law_check(B& backend, worst_case_book& book, double slack, std::uint64_t seed)
      : backend_(backend), book_(book), slack_(slack), random_(seed, ~std::uint64_t{0}) {}

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
    backend_law_case<S> c = law_case<S>(5, 64, 3.0, 0.0);
    for (std::size_t i = 0; i < 5; ++i)
      for (std::size_t v = i; v < 64; v += 3) c.logits[i * c.stride + v] = S(v % 2 == 0 ? -infinity : lowest);
    c.targets = {1, 2, 3, 4, 7};  // the last one's is masked
    c.solve();
    c.scale = 10.0;  // of the logits that count
    rows(c);
    no_distribution();
  }

 private:
  static constexpr double epsilon = std::numeric_limits<T>::epsilon();

  template <class X>
  backend_law_case<X> law_case(std::size_t n, std::size_t v, double spread, double shift) {
    return backend_law_case<X>(n, v, random_stream(random_()), spread, shift);
  }

  double tolerance(std::size_t vocabulary, double scale) const {
    return slack_ * 8.0 * epsilon * (1.0 + std::log(static_cast<double>(vocabulary))) * scale;
  }

  static std::vector<T> rounded(std::vector<long double> const& x) {
    std::vector<T> y;
    for (long double const a : x) y.push_back(static_cast<T>(a));
    return y;
  }

  template <class X>
  static double steepness(backend_law_case<X> const& c, std::size_t i) {
    auto const size = [](T x) { return std::abs(static_cast<double>(x)); };
    return size(c.slopes[i]) + size(c.mean_slopes[i]) +
           size(c.entropy_slopes[i]) * (1.0 + std::log(static_cast<double>(c.vocabulary)));
  }

  void rows(backend_law_case<S> const& c) {
    double const bound = tolerance(c.vocabulary, c.scale);
    std::size_t const n = c.rows;
    std::vector<T> logps(n), normalizers(n), means(n), entropies(n, T(9)), plain_logps(n), plain_normalizers(n),
        plain_means(n);
    backend_.token_logps(c.view(), c.targets, {logps, normalizers, means, entropies});
    backend_.token_logps(c.view(), c.targets, {plain_logps, plain_normalizers, plain_means});
    std::vector<T> const given = rounded(c.log_normalizers), exact = rounded(c.entropies), none(n, T(0));
    std::vector<S> apart(n * c.stride), flat = apart, without = apart, both = c.logits;
    auto const view = [&](std::vector<S>& m) { return matrix_view<S>{m.data(), n, c.vocabulary, c.stride}; };
    row_slopes<T> const all{c.slopes, c.mean_slopes, exact, c.entropy_slopes};
    backend_.token_logps_adjoint(c.view(), c.targets, given, all, view(apart));
    backend_.token_logps_adjoint(view(both), c.targets, given, all, view(both));
    backend_.token_logps_adjoint(c.view(), c.targets, given, {c.slopes, c.mean_slopes, exact, none}, view(flat));
    backend_.token_logps_adjoint(c.view(), c.targets, given, {c.slopes, c.mean_slopes}, view(without));
    for (std::size_t i = 0; i < n; ++i) {
      std::string const where = "V=" + std::to_string(c.vocabulary) + " row " + std::to_string(i);
      bool const asked = c.targets[i] != no_target;
      book_.compare("entropies", where, entropies[i], c.entropies[i], asked ? bound : 0.0);
      book_.require("entropies", where + ": the other outputs changed",
                    logps[i] == plain_logps[i] && normalizers[i] == plain_normalizers[i] && means[i] == plain_means[i]);
      for (std::size_t v = 0; v < c.vocabulary; ++v) {
        std::size_t const at = i * c.stride + v;
        long double const expected = c.gradient[i * c.vocabulary + v] + c.entropy_gradient[i * c.vocabulary + v];
        bool const zero = !asked || std::isinf(c.logits[at]);
        double const allowed = zero ? 0.0 : bound * steepness(c, i) + c.rounding(expected);
        book_.compare("entropy adjoint", where, apart[at], expected, allowed);
        book_.compare("entropy adjoint", where + " in place", both[at], expected, allowed);
        book_.compare("entropy adjoint", where + " with slopes of 0", flat[at], without[at],
                      zero ? 0.0 : bound * steepness(c, i) + 2.0 * c.rounding(without[at]));
      }
    }
  }

  void linear(std::size_t n, std::size_t v, std::size_t width) {
    backend_law_case<T> c = law_case<T>(n, v, 3.0, 0.0);  // the product is never stored
    std::vector<S> hidden(n * width), head(v * width);
    for (S& x : hidden) x = S(static_cast<T>(random_.normal()));
    for (S& x : head) x = S(static_cast<T>(random_.normal()));
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t k = 0; k < v; ++k) {
        long double sum = 0.0L;
        for (std::size_t d = 0; d < width; ++d)
          sum += static_cast<long double>(hidden[i * width + d]) * static_cast<long double>(head[k * width + d]);
        c.logits[i * c.stride + k] = static_cast<T>(sum);
      }
    c.solve();
    double const bound = tolerance(v, c.scale) * (1.0 + std::sqrt(static_cast<double>(width)));
    std::size_t const elements = backend_.linear_workspace(n, v, width);
    std::vector<T> room(elements + 1);  // one more, as some write past the end
    std::vector<T> logps(n), normalizers(n), entropies(n, T(9));
    std::span<T> const memory(room.data(), elements);
    auto const h = as_matrix<S const>(hidden.data(), n, width);
    auto const w = as_matrix<S const>(head.data(), v, width);
    backend_.linear_token_logps(h, w, c.targets, {logps, normalizers, {}, entropies}, memory);
    std::vector<T> const given = rounded(c.log_normalizers), exact = rounded(c.entropies);
    std::vector<S> dhidden(n * width, S(3.0f));
    std::vector<T> dhead(v * width, T(3));
    backend_.linear_token_logps_adjoint(h, w, c.targets, given, {c.slopes, c.mean_slopes, exact, c.entropy_slopes},
                                        as_matrix(dhidden.data(), n, width), as_matrix(dhead.data(), v, width), memory);
    auto const dlogit = [&](std::size_t i, std::size_t k) {
      return c.gradient[i * v + k] + c.entropy_gradient[i * v + k];
    };
    for (std::size_t i = 0; i < n; ++i) {
      std::string const where =
          "linear, V=" + std::to_string(v) + " D=" + std::to_string(width) + " row " + std::to_string(i);
      bool const asked = c.targets[i] != no_target;
      book_.compare("entropies", where, entropies[i], c.entropies[i], asked ? bound : 0.0);
      for (std::size_t d = 0; d < width; ++d) {
        long double sum = 0.0L;
        for (std::size_t k = 0; k < v; ++k) sum += dlogit(i, k) * static_cast<long double>(head[k * width + d]);
        book_.compare("entropy adjoint", where, dhidden[i * width + d], sum,
                      asked ? 16.0 * bound * steepness(c, i) + backend_law_case<S>::rounding(sum) : 0.0);
      }
    }
    for (std::size_t k = 0; k < v; ++k)
      for (std::size_t d = 0; d < width; ++d) {
        long double sum = 3.0L;
        double steep = 1.0;
        for (std::size_t i = 0; i < n; ++i) {
          sum += dlogit(i, k) * static_cast<long double>(hidden[i * width + d]);
          steep += steepness(c, i);
        }
        book_.compare("entropy adjoint", "dhead, V=" + std::to_string(v) + " row " + std::to_string(k),
                      dhead[k * width + d], sum, 16.0 * bound * steep);
      }
  }

  void no_distribution() {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    backend_law_case<S> c = law_case<S>(4, 40, 3.0, 0.0);
    c.targets = {1, 2, 3, 4};
    c.logits[1 * c.stride + 30] = S(std::numeric_limits<T>::quiet_NaN());
    c.logits[2 * c.stride + 39] = S(infinity);
    for (std::size_t v = 0; v < 40; ++v) c.logits[3 * c.stride + v] = S(-infinity);
    std::vector<T> logps(4), normalizers(4), entropies(4);
    std::vector<S> gradient(4 * c.stride);
    backend_.token_logps(c.view(), c.targets, {logps, normalizers, {}, entropies});
    backend_.token_logps_adjoint(c.view(), c.targets, normalizers, {c.slopes, {}, entropies, c.entropy_slopes},
                                 {gradient.data(), 4, 40, c.stride});
    for (std::size_t i = 0; i < 4; ++i) {
      std::string const where = "row " + std::to_string(i) + " of rows without a distribution";
      book_.require("entropies", where, std::isnan(entropies[i]) == (i > 0));
      bool all_nan = true, any_nan = false;
      for (std::size_t v = 0; v < 40; ++v) {
        all_nan = all_nan && std::isnan(gradient[i * c.stride + v]);
        any_nan = any_nan || std::isnan(gradient[i * c.stride + v]);
      }
      book_.require("entropy adjoint", where, i > 0 ? all_nan : !any_nan);
    }
  }

  B& backend_;
  worst_case_book& book_;
  double slack_;
  random_stream random_;
};

}  // namespace attune::testing
