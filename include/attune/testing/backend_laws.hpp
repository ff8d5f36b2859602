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
#include <attune/core/view.hpp>
#include <attune/testing/backend_entropy_laws.hpp>
#include <attune/testing/backend_kl_laws.hpp>
#include <attune/testing/backend_law_case.hpp>
#include <attune/testing/backend_linear_laws.hpp>
#include <attune/testing/backend_term_laws.hpp>
#include <attune/testing/broken_law.hpp>
#include <attune/testing/worst_case_book.hpp>

namespace attune::testing {

struct backend_law_options {
  double slack = 1.0;         ///< tolerances are multiplied by it; > 0
  bool bitwise_rows = false;  ///< also: a row's results are the same bits wherever it stands, and for any alignment
  std::uint64_t seed = 1;     ///< of the numbers that are put through
};

/// The laws of concepts/backend.hpp, tried on a backend that computes in host memory. Returns the laws it breaks, each
/// with its worst case; empty if it keeps them all. Laws by name:
///
///   log-probabilities     logps, log_normalizers, mean_logps against the definition in long double
///   large logits          the same with 10^4 added to all
///   adjoint               dlogits against the definition; overwrites what was there
///   in place              dlogits may be logits itself
///   row stride            nothing between the rows is read or written
///   no target             logp exactly 0, gradient exactly 0
///   masked vocabulary     a logit of -inf: gradient exactly 0; as a target: logp -inf
///   bad rows stay alone   NaN, +inf, all -inf: NaN in that row, numbers in the others
///   pure                  equal arguments, equal bits
///   local                 a row's results do not depend on the other rows
///   linear, linear adjoint, workspace   see backend_linear_law_check
///   entropies, entropy adjoint   see backend_entropy_law_check
///   collisions, normalizer adjoint   see backend_term_law_check
///   kl, kl adjoint        see backend_kl_law_check
///   segments              segment_sum in double, segment_broadcast, empty segments
///   squared norm          in double
///   adamw                 against adamw_update, element by element
///   empty                 no rows, no segments, no values
template <Backend B>
class backend_law_check {
 public:
  using T = typename B::scalar;
  using S = typename B::storage;

  backend_law_check(B& backend, backend_law_options options) : backend_(backend), options_(options) {}

  std::vector<tried_law> run() && {
    for (std::size_t v : {1u, 2u, 3u, 7u, 64u, 257u, 1000u})
      for (std::size_t n : {1u, 5u}) {
        backend_law_case<S> const c(n, v, stream());
        token_rows("log-probabilities", "adjoint", c);
        in_place(c);
        local(c);
      }
    backend_linear_law_check<B>(backend_, book_, options_.slack, options_.seed).run();
    token_rows("large logits", "large logits", backend_law_case<S>(5, 64, stream(), 3.0, 1e4));
    masked_vocabulary();
    bad_rows();
    backend_entropy_law_check<B>(backend_, book_, options_.slack, options_.seed).run();
    backend_term_law_check<B>(backend_, book_, options_.slack, options_.seed).run();
    backend_kl_law_check<B>(backend_, book_, options_.slack, options_.seed, options_.bitwise_rows).run();
    segments();
    squared_norm();
    adamw();
    empty();
    return book_.laws();
  }

 private:
  static constexpr double epsilon = std::numeric_limits<T>::epsilon();

  struct rows_out {
    std::vector<T> logps, log_normalizers, mean_logps, entropies;
    explicit rows_out(std::size_t n)
        : logps(n, T(9)), log_normalizers(n, T(9)), mean_logps(n, T(9)), entropies(n, T(9)) {}
    row_logps<T> spans() { return {logps, log_normalizers, mean_logps, entropies}; }
  };

  random_stream stream() { return random_stream(options_.seed, next_stream_++); }

  double tolerance(double vocabulary, double scale) const {
    return options_.slack * 8.0 * epsilon * (1.0 + std::log(vocabulary)) * scale;
  }

  static double rounding(long double x) { return backend_law_case<S>::rounding(x); }

  static std::string place(std::size_t n, std::size_t v, std::size_t i) {
    return "N=" + std::to_string(n) + " V=" + std::to_string(v) + " row " + std::to_string(i);
  }

  static bool same(std::vector<T> const& a, std::vector<T> const& b) {
    return same_bits(std::span<T const>(a), std::span<T const>(b));
  }

  static bool is_zero(S x) { return static_cast<T>(x) == T(0); }

  std::vector<T> rounded(std::vector<long double> const& x) const {
    std::vector<T> y(x.size());
    std::transform(x.begin(), x.end(), y.begin(), [](long double a) { return static_cast<T>(a); });
    return y;
  }

  void token_rows(char const* forward_law, char const* adjoint_law, backend_law_case<S> const& c) {
    double const bound = tolerance(static_cast<double>(c.vocabulary), c.scale);
    rows_out out(c.rows), again(c.rows), without(c.rows);
    backend_.token_logps(c.view(), c.targets, out.spans());
    backend_.token_logps(c.view(), c.targets, again.spans());
    backend_.token_logps(c.view(), c.targets, {without.logps, without.log_normalizers, {}});
    book_.require("pure", place(c.rows, c.vocabulary, 0),
                  same(out.logps, again.logps) && same(out.log_normalizers, again.log_normalizers) &&
                      same(out.mean_logps, again.mean_logps));
    std::vector<T> const normalizers = rounded(c.log_normalizers);
    std::vector<S> gradient(c.rows * c.stride, backend_law_case<S>::gap), plain = gradient;
    backend_.token_logps_adjoint(c.view(), c.targets, normalizers, {c.slopes, c.mean_slopes},
                                 {gradient.data(), c.rows, c.vocabulary, c.stride});
    backend_.token_logps_adjoint(c.view(), c.targets, normalizers, {c.slopes, {}},
                                 {plain.data(), c.rows, c.vocabulary, c.stride});
    for (std::size_t i = 0; i < c.rows; ++i) {
      std::string const where = place(c.rows, c.vocabulary, i);
      bool const asked = c.targets[i] != no_target;
      if (!asked) book_.require("no target", where, out.logps[i] == T(0));
      if (asked) {
        book_.compare(forward_law, where, out.logps[i], c.logps[i], bound);
        book_.compare(forward_law, where, without.logps[i], c.logps[i], bound);
        book_.compare(forward_law, where, out.log_normalizers[i], c.log_normalizers[i], bound);
        book_.compare(forward_law, where, out.mean_logps[i], c.mean_logps[i], bound);
      }
      double const steepness =
          std::abs(static_cast<double>(c.slopes[i])) + std::abs(static_cast<double>(c.mean_slopes[i]));
      for (std::size_t v = 0; v < c.vocabulary; ++v) {
        S const d = gradient[i * c.stride + v];
        if (!asked) book_.require("no target", where, is_zero(d) && is_zero(plain[i * c.stride + v]));
        if (!asked) continue;
        long double const share = c.mean_slopes[i] / static_cast<long double>(c.vocabulary);
        long double const p = std::exp(static_cast<long double>(c.logits[i * c.stride + v]) - c.log_normalizers[i]);
        long double const expected = c.gradient[i * c.vocabulary + v];
        book_.compare(adjoint_law, where, d, expected, bound * steepness + rounding(expected));
        bool const absent = std::isinf(c.logits[i * c.stride + v]);
        long double const without_mean = absent ? expected : expected - share + c.mean_slopes[i] * p;
        book_.compare(adjoint_law, where, plain[i * c.stride + v], without_mean,
                      bound * steepness + rounding(without_mean));
      }
      for (std::size_t k = c.vocabulary; k < c.stride; ++k)
        book_.require("row stride", where,
                      static_cast<T>(gradient[i * c.stride + k]) == static_cast<T>(backend_law_case<S>::gap));
    }
  }

  void in_place(backend_law_case<S> const& c) {
    std::vector<T> const normalizers = rounded(c.log_normalizers);
    std::vector<S> both = c.logits;
    matrix_view<S> const view{both.data(), c.rows, c.vocabulary, c.stride};
    backend_.token_logps_adjoint(view, c.targets, normalizers, {c.slopes, c.mean_slopes}, view);
    for (std::size_t i = 0; i < c.rows; ++i)
      for (std::size_t v = 0; v < c.stride; ++v) {
        long double const expected = v < c.vocabulary ? c.gradient[i * c.vocabulary + v] : backend_law_case<S>::gap;
        book_.compare("in place", place(c.rows, c.vocabulary, i), both[i * c.stride + v], expected,
                      4.0 * tolerance(static_cast<double>(c.vocabulary), c.scale) + rounding(expected));
      }
  }

  /// Each row alone, one element further along in memory, against the row among its neighbours.
  void local(backend_law_case<S> const& c) {
    rows_out out(c.rows);
    backend_.token_logps(c.view(), c.targets, out.spans());
    std::vector<T> const normalizers = rounded(c.log_normalizers), entropies = rounded(c.entropies);
    std::vector<S> gradient(c.rows * c.stride);
    backend_.token_logps_adjoint(c.view(), c.targets, normalizers,
                                 {c.slopes, c.mean_slopes, entropies, c.entropy_slopes},
                                 {gradient.data(), c.rows, c.vocabulary, c.stride});
    for (std::size_t i = 0; i < c.rows; ++i) {
      std::vector<S> moved(c.vocabulary + 1), alone(c.vocabulary + 1);
      std::copy_n(c.view().row(i), c.vocabulary, moved.data() + 1);
      rows_out one(1);
      std::span<token_id const> const target = std::span(c.targets).subspan(i, 1);
      matrix_view<S> const row{moved.data() + 1, 1, c.vocabulary, c.vocabulary};
      backend_.token_logps(row, target, one.spans());
      backend_.token_logps_adjoint(row, target, std::span(normalizers).subspan(i, 1),
                                   {std::span(c.slopes).subspan(i, 1), std::span(c.mean_slopes).subspan(i, 1),
                                    std::span(entropies).subspan(i, 1), std::span(c.entropy_slopes).subspan(i, 1)},
                                   {alone.data() + 1, 1, c.vocabulary, c.vocabulary});
      double const bound = options_.bitwise_rows ? 0.0 : 4.0 * tolerance(static_cast<double>(c.vocabulary), c.scale);
      std::string const where = place(c.rows, c.vocabulary, i);
      book_.compare("local", where, one.logps[0], out.logps[i], bound);
      book_.compare("local", where, one.entropies[0], out.entropies[i], bound);
      if (c.targets[i] != no_target)
        book_.compare("local", where, one.log_normalizers[0], out.log_normalizers[i], bound);
      for (std::size_t v = 0; v < c.vocabulary; ++v)
        book_.compare("local", where, alone[v + 1], gradient[i * c.stride + v],
                      bound == 0.0 ? 0.0 : bound + 2.0 * rounding(gradient[i * c.stride + v]));
    }
  }

  void masked_vocabulary() {
    backend_law_case<S> c(5, 64, stream());
    for (std::size_t i = 0; i < 5; ++i)
      for (std::size_t v = i; v < 64; v += 3) c.logits[i * c.stride + v] = S(-std::numeric_limits<T>::infinity());
    for (std::size_t i = 0; i < 5; ++i) c.targets[i] = static_cast<token_id>(i == 4 ? 7 : i + 1);  // row 4's is masked
    c.solve();
    token_rows("masked vocabulary", "masked vocabulary", c);
    std::vector<T> const normalizers = rounded(c.log_normalizers);
    std::vector<S> gradient(c.rows * c.stride);
    backend_.token_logps_adjoint(c.view(), c.targets, normalizers, {c.slopes, c.mean_slopes},
                                 {gradient.data(), c.rows, c.vocabulary, c.stride});
    for (std::size_t i = 0; i < 5; ++i)
      for (std::size_t v = i; v < 64; v += 3)
        book_.require("masked vocabulary", place(5, 64, i), is_zero(gradient[i * c.stride + v]));
  }

  void bad_rows() {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    backend_law_case<S> c(5, 40, stream());
    c.targets = {1, 2, 3, 4, 5};
    c.logits[1 * c.stride + 30] = S(std::numeric_limits<T>::quiet_NaN());
    c.logits[3 * c.stride + 39] = S(infinity);
    std::fill_n(c.logits.begin() + static_cast<std::ptrdiff_t>(4 * c.stride), 40, S(-infinity));
    c.solve();
    for (std::size_t i : {1u, 3u, 4u}) {  // the comparisons of solve() look over a NaN
      c.logps[i] = c.log_normalizers[i] = c.mean_logps[i] = std::numeric_limits<long double>::quiet_NaN();
      std::fill_n(c.gradient.begin() + static_cast<std::ptrdiff_t>(i * 40), 40,
                  std::numeric_limits<long double>::quiet_NaN());
    }
    rows_out out(5);
    backend_.token_logps(c.view(), c.targets, out.spans());
    std::vector<S> gradient(c.rows * c.stride);
    backend_.token_logps_adjoint(c.view(), c.targets, rounded(c.log_normalizers), {c.slopes, c.mean_slopes},
                                 {gradient.data(), c.rows, c.vocabulary, c.stride});
    for (std::size_t i = 0; i < 5; ++i) {
      double const bound = 4.0 * tolerance(40.0, c.scale);
      book_.compare("bad rows stay alone", place(5, 40, i), out.logps[i], c.logps[i], bound);
      book_.compare("bad rows stay alone", place(5, 40, i), out.log_normalizers[i], c.log_normalizers[i], bound);
      for (std::size_t v = 0; v < 40; ++v)
        book_.compare("bad rows stay alone", place(5, 40, i), gradient[i * c.stride + v], c.gradient[i * 40 + v],
                      bound + rounding(c.gradient[i * 40 + v]));
    }
  }

  void segments() {
    std::vector<T> values(20000, T(1e-3));
    values[0] = T(4096);  // in float, a running sum would lose most of what follows
    std::vector<std::size_t> const offsets{0, 0, 15000, 15000, 20000};
    std::vector<T> sums(4, T(9)), back(20000);
    backend_.segment_sum(values, offsets, sums);
    long double const each = values[1];
    double const bound = options_.slack * 4112.0 * (epsilon + 1e4 * std::numeric_limits<double>::epsilon());
    book_.require("segments", "an empty segment sums to 0", sums[0] == T(0) && sums[2] == T(0));
    book_.compare("segments", "15000 values", sums[1], 4096.0L + 14999.0L * each, bound);
    book_.compare("segments", "5000 values", sums[3], 5000.0L * each, bound);
    backend_.segment_broadcast(sums, offsets, back);
    bool copied = true;
    for (std::size_t t = 0; t < back.size(); ++t) copied = copied && back[t] == sums[t < 15000 ? 1 : 3];
    book_.require("segments", "broadcast", copied);
  }

  void squared_norm() {
    random_stream random = stream();
    std::vector<T> values(10007);
    long double sum = 0.0L;
    for (T& x : values) {
      x = static_cast<T>(random.normal());
      sum += static_cast<long double>(x) * x;
    }
    book_.compare("squared norm", "10007 values", backend_.squared_norm(values), sum, options_.slack * 1e-12 * 1e4);
    std::vector<T> const large(100, T(1e30));
    book_.compare("squared norm", "100 of 1e30", backend_.squared_norm(large),
                  100.0L * static_cast<long double>(large[0]) * large[0], options_.slack * 1e50);
  }

  void adamw() {
    random_stream random = stream();
    adamw_update<T> const update{T(0.9), T(0.99), T(1e-8), T(0.01), T(1.5), T(0.999), T(0.5)};
    std::vector<T> value(1003), gradient(1003), first(1003), second(1003);
    for (std::size_t i = 0; i < value.size(); ++i) {
      value[i] = static_cast<T>(random.normal());
      gradient[i] = i % 7 == 0 ? T(0) : static_cast<T>(random.normal());
      first[i] = static_cast<T>(0.1 * random.normal());
      second[i] = i % 11 == 0 ? T(0) : static_cast<T>(random.uniform());
    }
    std::vector<T> v = value, m = first, s = second;
    for (std::size_t i = 0; i < v.size(); ++i) update(v[i], gradient[i], m[i], s[i]);
    backend_.adamw(update, value, gradient, first, second);
    double const bound = options_.slack * 8.0 * epsilon;
    for (std::size_t i = 0; i < v.size(); ++i) {
      std::string const where = "element " + std::to_string(i);
      book_.compare("adamw", where, first[i], m[i], bound);
      book_.compare("adamw", where, second[i], s[i], bound);
      book_.compare("adamw", where, value[i], v[i], bound * (std::max)(1.0, std::abs(static_cast<double>(v[i]))));
    }
  }

  void empty() {
    std::vector<S> weights(8, S(1.0f));
    std::vector<T> gradient(8, T(2)), memory(backend_.linear_workspace(0, 4, 2));
    matrix_view<S> const none{nullptr, 0, 2, 2};
    matrix_view<S> const no_logits{nullptr, 0, 4, 4};
    backend_.token_logps(no_logits, {}, {{}, {}, {}});
    backend_.token_logps_adjoint(no_logits, {}, {}, {{}, {}}, no_logits);
    backend_.linear_token_logps(none, as_matrix<S const>(weights.data(), 4, 2), {}, {{}, {}, {}}, memory);
    backend_.linear_token_logps_adjoint(none, as_matrix<S const>(weights.data(), 4, 2), {}, {}, {{}, {}}, none,
                                        as_matrix(gradient.data(), 4, 2), memory);
    std::vector<std::size_t> const offsets{0};
    backend_.segment_sum({}, offsets, {});
    backend_.segment_broadcast({}, offsets, {});
    backend_.adamw({}, {}, {}, {}, {});
    book_.require("empty", "squared_norm", backend_.squared_norm({}) == 0.0);
    book_.require("empty", "dhead", std::all_of(gradient.begin(), gradient.end(), [](T x) { return x == T(2); }));
  }

  B& backend_;
  backend_law_options options_;
  worst_case_book book_;
  std::uint64_t next_stream_ = 0;
};

/// All laws of backend_law_check, kept or broken, with the worst error of each and its bound.
template <Backend B>
[[nodiscard]] std::vector<tried_law> try_backend_laws(B& backend, backend_law_options options = {}) {
  return backend_law_check<B>(backend, options).run();
}

/// See backend_law_check.
template <Backend B>
[[nodiscard]] std::vector<broken_law> check_backend_laws(B& backend, backend_law_options options = {}) {
  return broken_of(try_backend_laws(backend, options));
}

}  // namespace attune::testing
