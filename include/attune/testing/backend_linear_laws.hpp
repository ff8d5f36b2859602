// SPDX-License-Identifier: MIT
#pragma once

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
#include <attune/testing/backend_law_case.hpp>
#include <attune/testing/worst_case_book.hpp>

namespace attune::testing {

/// The part of check_backend_laws that is about the linear operations; what it finds goes into the book under
///
///   linear           linear_token_logps against token_logps of the product
///   linear adjoint   dhidden overwritten, dhead added to, against the chain rule in long double
///   workspace        linear_workspace(N, V, D) elements suffice, whatever they hold
///   no target        logp exactly 0, gradient in the hidden state exactly 0
template <Backend B>
class backend_linear_law_check {
 public:
  using T = typename B::scalar;
  using S = typename B::storage;

  /// Every tolerance is multiplied by `slack`.
  backend_linear_law_check(B& backend, worst_case_book& book, double slack, std::uint64_t seed)
      : backend_(backend), book_(book), slack_(slack), random_(seed, ~std::uint64_t{3}) {}

  void run() && {
    for (std::size_t const v : {1u, 2u, 3u, 7u, 64u, 257u, 1000u})
      for (std::size_t const n : {1u, 5u}) try_at(n, v, v % 2 == 0 ? 16 : 5);
    try_at(300, 32, 8);
  }

 private:
  static constexpr double epsilon = std::numeric_limits<T>::epsilon();

  static double rounding(long double x) { return backend_law_case<S>::rounding(x); }

  std::vector<S> stored(std::size_t count) {
    std::vector<S> x(count);
    for (S& a : x) a = S(static_cast<T>(random_.normal()));
    return x;
  }

  /// Hidden states and a head whose product is known, against the chain rule through it.
  void try_at(std::size_t n, std::size_t v, std::size_t width) {
    backend_law_case<T> c(n, v, random_stream(random_()));  // the product is never stored
    std::vector<S> const hidden = stored(n * width), head = stored(v * width);
    auto const h = as_matrix<S const>(hidden.data(), n, width);
    auto const w = as_matrix<S const>(head.data(), v, width);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t k = 0; k < v; ++k) {
        long double sum = 0.0L;
        for (std::size_t d = 0; d < width; ++d)
          sum += static_cast<long double>(h(i, d)) * static_cast<long double>(w(k, d));
        c.logits[i * c.stride + k] = static_cast<T>(sum);
      }
    c.solve();
    double const bound = slack_ * 8.0 * epsilon * (1.0 + std::log(static_cast<double>(v))) * c.scale *
                         (1.0 + std::sqrt(static_cast<double>(width)));

    std::size_t const elements = backend_.linear_workspace(n, v, width);
    std::vector<T> memory(elements + 2, std::numeric_limits<T>::quiet_NaN());
    memory.front() = memory.back() = T(5);
    std::span<T> const workspace(memory.data() + 1, elements);
    std::vector<T> logps(n, T(9)), log_normalizers = logps, mean_logps = logps, entropies = logps, given;
    backend_.linear_token_logps(h, w, c.targets, {logps, log_normalizers, mean_logps, entropies}, workspace);
    std::vector<S> dhidden(n * width, S(3.0f));
    std::vector<T> dhead(v * width, T(3));
    for (long double const z : c.log_normalizers) given.push_back(static_cast<T>(z));
    backend_.linear_token_logps_adjoint(h, w, c.targets, given, {c.slopes, c.mean_slopes},
                                        as_matrix(dhidden.data(), n, width), as_matrix(dhead.data(), v, width),
                                        workspace);
    std::string const size = "N=" + std::to_string(n) + " V=" + std::to_string(v) + " D=" + std::to_string(width);
    book_.require("workspace", size, memory.front() == T(5) && memory.back() == T(5));

    for (std::size_t i = 0; i < n; ++i) {
      std::string const where = size + " row " + std::to_string(i);
      bool const asked = c.targets[i] != no_target;
      book_.compare(asked ? "linear" : "no target", where, logps[i], c.logps[i], asked ? bound : 0.0);
      if (asked) book_.compare("linear", where, log_normalizers[i], c.log_normalizers[i], bound);
      if (asked) book_.compare("linear", where, mean_logps[i], c.mean_logps[i], bound);
      for (std::size_t d = 0; d < width; ++d) {
        long double sum = 0.0L;
        for (std::size_t k = 0; k < v; ++k) sum += c.gradient[i * v + k] * static_cast<long double>(w(k, d));
        book_.compare(asked ? "linear adjoint" : "no target", where, dhidden[i * width + d], sum,
                      asked ? 16.0 * bound + rounding(sum) : 0.0);
      }
    }
    for (std::size_t k = 0; k < v; ++k)
      for (std::size_t d = 0; d < width; ++d) {
        long double sum = 3.0L;
        for (std::size_t i = 0; i < n; ++i) sum += c.gradient[i * v + k] * static_cast<long double>(h(i, d));
        book_.compare("linear adjoint", size + " row " + std::to_string(k) + " of dhead", dhead[k * width + d], sum,
                      16.0 * bound * std::sqrt(static_cast<double>(n)));
      }
  }

  B& backend_;
  worst_case_book& book_;
  double slack_;
  random_stream random_;
};

}  // namespace attune::testing
