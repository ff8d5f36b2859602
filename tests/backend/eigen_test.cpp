// SPDX-License-Identifier: MIT
#include <attune/backend/eigen.hpp>  // its laws: every_backend_test.cpp

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>
#include <attune/core/parallel.hpp>
#include <attune/core/random.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"

using namespace attune;

static_assert(Backend<eigen_backend<float>> && Backend<eigen_backend<double>>);

namespace {

template <class T>
bool same(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
double distance(std::vector<T> const& a, std::vector<T> const& b) {
  double worst = a.size() == b.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) {
      double const d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
      worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(worst, d);
    }
  return worst;
}

template <class T>
std::vector<T> normal(std::size_t count, double spread, std::uint64_t seed) {
  random_stream random(seed);
  std::vector<T> x(count);
  for (T& a : x) a = static_cast<T>(spread * random.normal());
  return x;
}

/// A batch for the linear operations, and what a backend makes of it.
template <class T>
struct linear_problem {
  std::size_t rows, vocabulary, width;
  std::vector<T> hidden, head, slopes, mean_slopes;
  std::vector<token_id> targets;

  linear_problem(std::size_t n, std::size_t v, std::size_t d, std::uint64_t seed)
      : rows(n),
        vocabulary(v),
        width(d),
        hidden(normal<T>(n * d, 1.0, seed)),
        head(normal<T>(v * d, 0.5, seed + 1)),
        slopes(normal<T>(n, 1.0, seed + 2)),
        mean_slopes(normal<T>(n, 1.0, seed + 3)),
        targets(n) {
    random_stream random(seed + 4);
    for (std::size_t i = 0; i < n; ++i) targets[i] = i % 3 == 1 ? no_target : static_cast<token_id>(random.below(v));
  }

  /// The rows named, in that order.
  linear_problem pick(std::vector<std::size_t> const& chosen) const {
    linear_problem p = *this;
    p.rows = chosen.size();
    p.hidden.resize(p.rows * width);
    p.slopes.resize(p.rows);
    p.mean_slopes.resize(p.rows);
    p.targets.resize(p.rows);
    for (std::size_t r = 0; r < chosen.size(); ++r) {
      std::copy_n(&hidden[chosen[r] * width], width, &p.hidden[r * width]);
      p.slopes[r] = slopes[chosen[r]];
      p.mean_slopes[r] = mean_slopes[chosen[r]];
      p.targets[r] = targets[chosen[r]];
    }
    return p;
  }
};

template <class T>
struct linear_answer {
  std::vector<T> logps, log_normalizers, mean_logps, entropies, collisions, dhidden, dhead;
};

/// `shift` moves every matrix that many elements away from where the allocator put it.
template <class T, class B>
linear_answer<T> solve(B const& backend, linear_problem<T> const& p, std::size_t shift = 0) {
  std::vector<T> const rows(p.rows);
  linear_answer<T> a{rows, rows, rows, rows, rows, std::vector<T>(p.rows * p.width, T(9)),
                     std::vector<T>(p.vocabulary * p.width, T(0.25))};
  std::size_t const elements = backend.linear_workspace(p.rows, p.vocabulary, p.width);
  std::vector<T> memory(elements + shift, std::numeric_limits<T>::quiet_NaN());
  std::vector<T> hidden(p.hidden.size() + shift), head(p.head.size() + shift), dhead(a.dhead.size() + shift, T(0.25));
  std::copy(p.hidden.begin(), p.hidden.end(), hidden.data() + shift);
  std::copy(p.head.begin(), p.head.end(), head.data() + shift);
  auto const h = as_matrix<T const>(hidden.data() + shift, p.rows, p.width);
  auto const w = as_matrix<T const>(head.data() + shift, p.vocabulary, p.width);
  std::span<T> const workspace(memory.data() + shift, elements);
  backend.linear_token_logps(h, w, p.targets, {a.logps, a.log_normalizers, a.mean_logps, a.entropies, a.collisions},
                             workspace);
  row_slopes<T> const slopes{p.slopes, p.mean_slopes, a.entropies, p.mean_slopes, p.slopes};
  backend.linear_token_logps_adjoint(h, w, p.targets, a.log_normalizers, slopes,
                                     as_matrix(a.dhidden.data(), p.rows, p.width),
                                     as_matrix(dhead.data() + shift, p.vocabulary, p.width), workspace);
  std::copy_n(dhead.data() + shift, a.dhead.size(), a.dhead.data());
  return a;
}

}  // namespace

TEST_CASE_TEMPLATE("eigen: log-probabilities and adjoint agree with the reference at every shape", T, float, double) {
  eigen_backend<T> const fast;
  reference_backend<T> const exact;
  for (std::size_t v : {1u, 2u, 3u, 7u, 64u, 257u, 1000u, 32000u})
    for (std::size_t n : {0u, 1u, 5u, 64u}) {
      if (v == 32000 && n == 64) continue;
      std::size_t const stride = v + 5;
      std::vector<T> logits = normal<T>(n * stride + 1, 3.0, v + n);
      std::vector<T> const slopes = normal<T>(n, 1.0, 7), mean_slopes = normal<T>(n, 1.0, 8);
      std::vector<token_id> targets(n);
      for (std::size_t i = 0; i < n; ++i) targets[i] = i % 4 == 1 ? no_target : static_cast<token_id>((i * 37) % v);
      matrix_view<T> const view{logits.data() + 1, n, v, stride};  // misaligned
      std::vector<T> a(n), b(n), c(n), x(n), y(n), z(n);
      fast.token_logps(view, targets, {a, b, c});
      exact.token_logps(view, targets, {x, y, z});
      double const bound = sizeof(T) == 8 ? 1e-13
                                          : 8.0 * static_cast<double>(std::numeric_limits<T>::epsilon()) *
                                                (1.0 + std::log(static_cast<double>(v)));
      CAPTURE(v);
      CAPTURE(n);
      CHECK(distance(a, x) <= bound);
      CHECK(distance(b, y) <= bound);
      CHECK(distance(c, z) <= bound);
      std::vector<T> expected(n * stride + 1, T(4));
      std::vector<T> apart = expected;
      exact.token_logps_adjoint(view, targets, y, {slopes, mean_slopes}, {expected.data() + 1, n, v, stride});
      fast.token_logps_adjoint(view, targets, y, {slopes, mean_slopes}, {apart.data() + 1, n, v, stride});
      CHECK(distance(apart, expected) <= 2.0 * bound);
      fast.token_logps_adjoint(view, targets, y, {slopes, mean_slopes}, view);
      for (std::size_t i = 0; i < n; ++i)
        CHECK(std::memcmp(view.row(i), apart.data() + 1 + i * stride, v * sizeof(T)) == 0);
    }
}

TEST_CASE_TEMPLATE("eigen: entropies and their gradient are PyTorch's, as are the reference's", B, eigen_backend<double>,
                   reference_backend<double>) {
  B const backend;
  for (golden_case const& c : read_golden("entropies.txt")) {
    std::size_t const v = static_cast<std::size_t>(c.number("vocabulary")), n = c["slopes"].size();
    std::vector<token_id> const targets = c.integers<token_id>("targets");
    std::vector<double> logps(n), normalizers(n), entropies(n), gradient(n * v);
    auto const logits = as_matrix(c["logits"].data(), n, v);
    backend.token_logps(logits, targets, {logps, normalizers, {}, entropies});
    backend.token_logps_adjoint(logits, targets, normalizers, {c["slopes"], {}, entropies, c["entropy_slopes"]},
                                as_matrix(gradient.data(), n, v));
    CHECK(distance(logps, c["logps"]) <= 1e-13);
    CHECK(distance(entropies, c["entropies"]) <= 1e-13);
    CHECK(distance(gradient, c["gradient"]) <= 1e-13);
  }
}

TEST_CASE_TEMPLATE("eigen: logits further apart than their type can tell have entropy 0 and a gradient without it", B,
                   eigen_backend<float>, eigen_backend<double>, reference_backend<float>, reference_backend<double>) {
  using T = typename B::scalar;
  B const backend;
  T const huge = std::numeric_limits<T>::max() * T(0.9);
  std::vector<T> const logits{huge, -huge, T(0)}, slopes{T(0.5)}, entropy_slopes{T(2)};
  for (token_id const target : {1, 2}) {
    std::vector<T> logp(1), normalizer(1), entropy(1), gradient(3), expected{T(-0.5), T(0), T(0)};
    expected[static_cast<std::size_t>(target)] = T(0.5);
    auto const row = as_matrix(logits.data(), 1, 3);
    backend.token_logps(row, {&target, 1}, {logp, normalizer, {}, entropy});
    backend.token_logps_adjoint(row, {&target, 1}, normalizer, {slopes, {}, entropy, entropy_slopes},
                                as_matrix(gradient.data(), 1, 3));
    CHECK(entropy[0] == T(0));
    CHECK(gradient == expected);
  }
}

TEST_CASE_TEMPLATE("eigen: the linear head agrees with the reference", T, float, double) {
  for (std::size_t const v : {1u, 3u, 50u, 400u, 1000u})
    for (std::size_t const d : {1u, 8u, 33u}) {
      linear_problem<T> const p(70, v, d, v + d);
      linear_answer<T> const exact = solve(reference_backend<T>(), p);
      double const bound = 64.0 * static_cast<double>(std::numeric_limits<T>::epsilon()) *
                           std::sqrt(static_cast<double>(d)) * (1.0 + std::log(static_cast<double>(v)));
      CAPTURE(v);
      CAPTURE(d);
      for (std::size_t const chunk : {1u, 64u, 256u}) {
        linear_answer<T> const fast = solve(eigen_backend<T>(nullptr, chunk), p);
        CHECK(distance(fast.logps, exact.logps) <= bound);
        CHECK(distance(fast.log_normalizers, exact.log_normalizers) <= bound);
        CHECK(distance(fast.mean_logps, exact.mean_logps) <= bound);
        CHECK(distance(fast.entropies, exact.entropies) <= bound);
        CHECK(distance(fast.dhidden, exact.dhidden) <= bound);
        CHECK(distance(fast.dhead, exact.dhead) <= 8.0 * bound);
      }
    }
}

TEST_CASE_TEMPLATE("eigen: a row of the linear head keeps its bits when rows are added, removed or permuted", T, float,
                   double) {
  eigen_backend<T> const backend(nullptr, 32);
  for (std::size_t const v : {1u, 2u, 5u, 23u, 385u, 1537u})
    for (std::size_t const d : {1u, 3u, 24u, 400u}) {
      if (v > 400 && d > 100) continue;
      linear_problem<T> const p(75, v, d, 3 * v + d);
      linear_answer<T> const all = solve(backend, p);
      std::vector<std::size_t> permuted(75);
      std::iota(permuted.begin(), permuted.end(), std::size_t{0});
      shuffle(permuted, random_stream(v, d));
      std::vector<std::size_t> const some(permuted.begin(), permuted.begin() + 29);
      for (std::vector<std::size_t> const& chosen : {permuted, some, {74}, {0, 3}, {3, 2, 0}}) {
        linear_answer<T> const part = solve(backend, p.pick(chosen));
        bool equal = true;
        for (std::size_t r = 0; r < chosen.size(); ++r) {
          std::size_t const i = chosen[r];
          equal = equal && part.logps[r] == all.logps[i] && part.log_normalizers[r] == all.log_normalizers[i] &&
                  part.mean_logps[r] == all.mean_logps[i] && part.entropies[r] == all.entropies[i] &&
                  part.collisions[r] == all.collisions[i] &&
                  std::memcmp(&part.dhidden[r * d], &all.dhidden[i * d], d * sizeof(T)) == 0;
        }
        CAPTURE(v);
        CAPTURE(d);
        CAPTURE(chosen.size());
        CHECK(equal);
      }
    }
}

TEST_CASE_TEMPLATE("eigen: the linear head gives the same bits at any alignment", T, float, double) {
  eigen_backend<T> const backend(nullptr, 32);
  linear_problem<T> const p(40, 500, 30, 11);
  linear_answer<T> const expected = solve(backend, p);
  for (std::size_t shift = 1; shift < 17; shift += 3) {
    linear_answer<T> const a = solve(backend, p, shift);
    CHECK(same(a.logps, expected.logps));
    CHECK(same(a.dhidden, expected.dhidden));
    CHECK(same(a.dhead, expected.dhead));
  }
}

TEST_CASE_TEMPLATE("eigen: a NaN in one hidden state stays in its row, and reaches dhead", T, float, double) {
  eigen_backend<T> const backend;
  linear_problem<T> p(10, 50, 8, 5);
  linear_answer<T> const clean = solve(backend, p);
  p.hidden[3 * 8 + 2] = std::numeric_limits<T>::quiet_NaN();
  linear_answer<T> const a = solve(backend, p);
  for (std::size_t i = 0; i < 10; ++i) {
    CHECK(std::isnan(a.logps[i]) == (i == 3));
    if (i != 3) CHECK(a.logps[i] == clean.logps[i]);
    CHECK(std::isnan(a.dhidden[i * 8]) == (i == 3));
  }
  CHECK(std::isnan(a.dhead[0]));
}

TEST_CASE_TEMPLATE("eigen, reference: a row without a target may hold anything", B, eigen_backend<float>,
                   eigen_backend<double>, reference_backend<float>, reference_backend<double>) {
  using T = typename B::scalar;
  B const backend;
  linear_problem<T> p(10, 50, 8, 5);
  linear_answer<T> const clean = solve(backend, p);
  for (std::size_t d = 0; d < 8; ++d) p.hidden[4 * 8 + d] = std::numeric_limits<T>::quiet_NaN();
  p.slopes[4] = p.mean_slopes[4] = std::numeric_limits<T>::infinity();
  linear_answer<T> const a = solve(backend, p);
  CHECK(p.targets[4] == no_target);
  CHECK(same(a.logps, clean.logps));
  CHECK(same(a.dhidden, clean.dhidden));
  CHECK(same(a.dhead, clean.dhead));
  CHECK(a.dhidden[4 * 8] == T(0));
}

TEST_CASE_TEMPLATE("eigen: rows that pad a product know nothing of the first row's normaliser", T, float, double) {
  linear_problem<T> p(10, 50, 8, 5);  // 7 of 10 rows have a target
  std::fill_n(p.hidden.begin(), 8, T(-200));
  for (T& x : p.head) x = T(1) + T(0.001) * x;  // logits of the first row: about -1600, whose e^-x is infinite
  CHECK(p.targets[0] != no_target);
  linear_answer<T> const a = solve(eigen_backend<T>(), p), b = solve(reference_backend<T>(), p);
  CHECK(a.log_normalizers[0] < T(-1500));
  T worst = T(0);
  for (std::size_t i = 0; i < a.dhead.size(); ++i)
    worst = std::isfinite(a.dhead[i]) ? (std::max)(worst, std::abs(a.dhead[i] - b.dhead[i])) : T(1e9);
  CHECK(worst <= T(5000) * std::numeric_limits<T>::epsilon() * T(200));
}

TEST_CASE_TEMPLATE("eigen: results are the same bits for any number of threads", T, float, double) {
  linear_problem<T> const p(150, 1600, 24, 21);
  std::vector<T> const logits = normal<T>(150 * 1600, 3.0, 22), values = normal<T>(300007, 1.0, 23);
  std::vector<T> const ref_logits = normal<T>(150 * 1600, 3.0, 24);
  adamw_update<T> const update{T(0.9), T(0.999), T(1e-8), T(0.01), T(1.1), T(0.99), T(0.5)};
  struct everything {
    linear_answer<T> linear;
    std::vector<T> logps, normalizers, gradient, value, first, second;
    double norm;
    std::vector<T> kl, kl_gradient;
  };
  auto const run = [&](thread_pool* pool) {
    eigen_backend<T> const backend(pool, 64);
    everything e{solve(backend, p), std::vector<T>(150), std::vector<T>(150), logits, values, values, values, 0.0,
                 std::vector<T>(150),  std::vector<T>(150 * 1600)};
    std::vector<T> z(150), w(150);
    auto const one = as_matrix(logits.data(), 150, 1600), other = as_matrix(ref_logits.data(), 150, 1600);
    backend.token_kl(one, other, p.targets, kl_direction::reverse, {e.kl, z, w});
    backend.token_kl_adjoint(one, other, p.targets, kl_direction::reverse, {e.kl, z, w}, p.slopes,
                             as_matrix(e.kl_gradient.data(), 150, 1600));
    auto const view = as_matrix(e.gradient.data(), 150, 1600);
    backend.token_logps(view, p.targets, {e.logps, e.normalizers});
    backend.token_logps_adjoint(view, p.targets, e.normalizers, {p.slopes, p.mean_slopes}, view);
    for (T& s : e.second) s = s * s;
    backend.adamw(update, e.value, values, e.first, e.second);
    e.norm = backend.squared_norm(values);
    return e;
  };
  everything const alone = run(nullptr);
  for (std::size_t const threads : {1u, 2u, 3u, 8u}) {
    thread_pool pool(threads);
    everything const e = run(&pool);
    CHECK(same(e.linear.logps, alone.linear.logps));
    CHECK(same(e.linear.dhidden, alone.linear.dhidden));
    CHECK(same(e.linear.dhead, alone.linear.dhead));
    CHECK(same(e.logps, alone.logps));
    CHECK(same(e.gradient, alone.gradient));
    CHECK(same(e.kl, alone.kl));
    CHECK(same(e.kl_gradient, alone.kl_gradient));
    CHECK(same(e.value, alone.value));
    CHECK(same(e.second, alone.second));
    CHECK(e.norm == alone.norm);
  }
}

TEST_CASE_TEMPLATE("eigen: adamw agrees with the scalar update within a few ulp, and an element's place is immaterial",
                   T, float, double) {
  eigen_backend<T> const backend;
  reference_backend<T> const exact;
  adamw_update<T> const update{T(0.9), T(0.95), T(1e-8), T(0.003), T(2.5), T(0.9997), T(0.7)};
  std::vector<T> value = normal<T>(1003, 1.0, 31), gradient = normal<T>(1003, 0.1, 32),
                 first = normal<T>(1003, 0.1, 33);
  std::vector<T> second = normal<T>(1003, 0.1, 34);
  for (T& s : second) s *= s;
  second[5] = second[1001] = T(0);
  gradient[5] = T(0);
  std::vector<T> v = value, m = first, s = second;
  exact.adamw(update, v, gradient, m, s);
  std::vector<T> v2 = value, m2 = first, s2 = second;
  backend.adamw(update, v2, gradient, m2, s2);
  double const epsilon = std::numeric_limits<T>::epsilon();
  for (std::size_t i = 0; i < v.size(); ++i) {
    double const step = std::abs(static_cast<double>(v[i]) - static_cast<double>(value[i]));
    CHECK(std::abs(static_cast<double>(v2[i] - v[i])) <= 4.0 * epsilon * (std::abs(static_cast<double>(v[i])) + step));
    CHECK(std::abs(static_cast<double>(s2[i] - s[i])) <= 4.0 * epsilon * static_cast<double>(s[i]));
  }
  for (std::size_t const i : {0u, 17u, 1002u}) {  // alone, an element is its own tail
    T one = value[i], mo = first[i], so = second[i];
    backend.adamw(update, {&one, 1}, {&gradient[i], 1}, {&mo, 1}, {&so, 1});
    CHECK(one == v2[i]);
    CHECK(so == s2[i]);
  }
}

TEST_CASE("eigen: a gradient whose square overflows moves nothing, and NaN is not hidden") {
  eigen_backend<float> const backend;
  adamw_update<float> const update{0.9f, 0.99f, 1e-8f, 0.01f, 1.0f, 1.0f, 1.0f};
  float value[2] = {1.0f, 1.0f}, first[2] = {}, second[2] = {};
  float const gradient[2] = {1e25f, std::numeric_limits<float>::quiet_NaN()};
  backend.adamw(update, value, gradient, first, second);
  CHECK(std::isfinite(value[0]));
  CHECK(std::isnan(value[1]));
}

TEST_CASE("eigen: nothing is allocated with operator new, with threads or without") {
  thread_pool pool(2);
  for (thread_pool* const p : {static_cast<thread_pool*>(nullptr), &pool}) {
    eigen_backend<float> const backend(p, 16);
    linear_problem<float> const batch(40, 300, 16, 3);
    std::vector<float> logits(40 * 300), a(40), b(40), dhidden(40 * 16), dhead(300 * 16);
    std::vector<float> workspace(backend.linear_workspace(40, 300, 16));
    auto const view = as_matrix(logits.data(), 40, 300);
    auto const hidden = as_matrix<float const>(batch.hidden.data(), 40, 16);
    auto const head = as_matrix<float const>(batch.head.data(), 300, 16);
    std::size_t const before = allocations();
    backend.token_logps(view, batch.targets, {a, b});
    backend.token_logps_adjoint(view, batch.targets, b, {batch.slopes}, view);
    backend.linear_token_logps(hidden, head, batch.targets, {a, b}, workspace);
    backend.linear_token_logps_adjoint(hidden, head, batch.targets, b, {batch.slopes},
                                       as_matrix(dhidden.data(), 40, 16), as_matrix(dhead.data(), 300, 16), workspace);
    double const norm = backend.squared_norm(dhead);
    backend.adamw({}, a, b, a, b);
    CHECK(allocations() == before);
    CHECK(norm > 0.0);
  }
}

TEST_CASE("eigen: the workspace is bounded by the chunk, whatever the number of rows") {
  eigen_backend<float> const backend;
  CHECK(backend.linear_workspace(256, 1000, 64) == 256 * (1000 + 2 * 64));
  CHECK(backend.linear_workspace(1000000, 1000, 64) == backend.linear_workspace(256, 1000, 64));
  CHECK(backend.linear_workspace(1, 1000, 64) == 8 * (1000 + 2 * 64));
  CHECK(eigen_backend<float>(nullptr, 32).linear_workspace(1000, 1000, 64) == 32 * (1000 + 2 * 64));
  thread_pool pool(3);  // each of which widens blocks of the head
  CHECK(eigen_backend<bf16>(&pool).linear_workspace(1, 1000, 64) ==
        8 * (1000 + 2 * 64) + 3 * eigen_head<bf16>::elements_per_thread(1000, 64));
}

TEST_CASE("eigen: sizes that disagree, targets outside the vocabulary and chunks out of range are refused") {
  CHECK_THROWS_AS(eigen_backend<float>(nullptr, 0), contract_violation);
  CHECK_THROWS_AS(eigen_backend<float>(nullptr, 1 << 20), contract_violation);
  eigen_backend<float> const backend;
  std::vector<float> m(12, 0.0f), one(1), two(2);
  std::vector<token_id> const good{0, 1}, bad{0, 6};
  auto const view = as_matrix(m.data(), 2, 6);
  matrix_view<float const> const in = view;
  CHECK_THROWS_AS(backend.token_logps(in, bad, {two, two}), contract_violation);
  CHECK_THROWS_AS(backend.token_logps(in, good, {one, two}), contract_violation);
  CHECK_THROWS_AS(backend.token_logps_adjoint(in, good, two, {one}, view), contract_violation);
  CHECK_THROWS_AS(backend.token_logps_adjoint(in, good, one, {two}, view), contract_violation);
  CHECK_THROWS_AS(backend.token_logps_adjoint(in, good, two, {two}, as_matrix(m.data(), 2, 5)), contract_violation);
  CHECK_THROWS_AS(backend.linear_token_logps(in, in, good, {two, two}, m), contract_violation);  // workspace
  std::vector<float> workspace(backend.linear_workspace(2, 2, 6));
  CHECK_NOTHROW(backend.linear_token_logps(in, in, good, {two, two}, workspace));
  CHECK_THROWS_AS(backend.linear_token_logps(in, in, bad, {two, two}, workspace), contract_violation);
  CHECK_THROWS_AS(
      backend.linear_token_logps_adjoint(in, in, good, two, {two}, view, as_matrix(m.data(), 1, 6), workspace),
      contract_violation);
  CHECK_THROWS_AS(backend.adamw({}, two, one, two, two), contract_violation);
}
