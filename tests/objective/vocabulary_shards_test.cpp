// SPDX-License-Identifier: MIT
#include <attune/objective/vocabulary_shards.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <attune/backend/eigen.hpp>
#include <attune/backend/reference.hpp>
#include <attune/core/random.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/sft.hpp>

using namespace attune;

namespace {

constexpr std::size_t rows = 9, vocabulary = 53;

// Bounds of shards over 53 entries; the second set of four is ragged, with shards of a single entry.
std::vector<std::vector<std::size_t>> const cuts{{0, 53}, {0, 26, 53}, {0, 1, 2, 40, 53}, {0, 8, 16, 24, 32, 40, 48, 53}};

template <class T>
struct numbers {
  std::vector<T> logps = std::vector<T>(rows), log_normalizers = logps, mean_logps = logps, entropies = logps, collisions = logps;
  row_logps<T> spans() { return {logps, log_normalizers, mean_logps, entropies, collisions}; }
  std::vector<std::vector<T> const*> all() const { return {&logps, &log_normalizers, &mean_logps, &entropies, &collisions}; }
};

template <class S>
struct text {
  using T = arithmetic_t<S>;
  std::vector<S> logits;
  std::vector<token_id> targets;
  std::vector<T> slopes, means, entropy_slopes, normalizer_slopes;

  text() {
    random_stream random(3);
    for (std::size_t i = 0; i < rows * vocabulary; ++i) logits.push_back(S(static_cast<T>(4.0 * random.normal())));
    for (std::size_t i = 0; i < rows; ++i) {
      targets.push_back(i == 4 ? no_target : static_cast<token_id>((i * 13 + 1) % vocabulary));
      for (std::vector<T>* const x : {&slopes, &means, &entropy_slopes, &normalizer_slopes}) x->push_back(static_cast<T>(random.normal()));
    }
    S const none = S(-std::numeric_limits<T>::infinity());
    for (std::size_t v = 0; v < 30; ++v) row(1)[v] = none;  // whole shards of the row, and its target's among them not
    targets[1] = 40;
    for (std::size_t v = 40; v < vocabulary; ++v) row(2)[v] = none;
    targets[2] = 45;  // itself masked
    row(5)[52] = S(std::numeric_limits<T>::quiet_NaN());
    std::fill_n(row(6), vocabulary, none);
    row(7)[3] = S(std::numeric_limits<T>::infinity());
  }
  S* row(std::size_t i) { return logits.data() + i * vocabulary; }
  matrix_view<S> view(std::vector<S>& of) { return as_matrix(of.data(), rows, vocabulary); }
  row_slopes<T> all(numbers<T> const& n) const { return {slopes, means, n.entropies, entropy_slopes, normalizer_slopes}; }
};

template <class S>
matrix_view<S> columns(matrix_view<S> m, std::size_t first, std::size_t end) {
  return {m.data + first, m.rows, end - first, m.row_stride};
}

// What the header promises: of the scalar's epsilon, for the number x of a row.
double allowed(std::size_t shards, double log_normalizer, double x) {
  return 3.0 * (static_cast<double>(shards) + std::abs(log_normalizer) + std::abs(x));
}

// NaN and infinity agree with themselves alone.
double apart(double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0.0;
  return std::isfinite(a) && std::isfinite(b) ? std::abs(a - b) : std::numeric_limits<double>::infinity();
}

template <class B>
numbers<typename B::scalar> sharded(B& backend, text<typename B::storage>& c, std::vector<std::size_t> const& cut) {
  using T = typename B::scalar;
  std::vector<numbers<T>> each(cut.size() - 1);
  std::vector<row_logps<T>> partials;
  std::vector<std::size_t> sizes;
  shard_workspace<T> workspace;
  for (std::size_t s = 0; s + 1 < cut.size(); ++s) {
    partials.push_back(each[s].spans());
    sizes.push_back(cut[s + 1] - cut[s]);
    shard_token_logps<B>(backend, columns(c.view(c.logits), cut[s], cut[s + 1]), cut[s], c.targets, partials[s], workspace);
  }
  numbers<T> out;
  combine_shards<T>(partials, sizes, c.targets, out.spans());
  return out;
}

template <class B>
std::vector<typename B::storage> sharded_gradient(B& backend, text<typename B::storage>& c, numbers<typename B::scalar> const& n,
                                                  std::vector<std::size_t> const& cut) {
  std::vector<typename B::storage> both = c.logits;  // in place
  shard_workspace<typename B::scalar> workspace;
  for (std::size_t s = 0; s + 1 < cut.size(); ++s) {
    auto const shard = columns(c.view(both), cut[s], cut[s + 1]);
    shard_token_logps_adjoint<B>(backend, shard, cut[s], vocabulary, c.targets, n.log_normalizers, c.all(n), shard, workspace);
  }
  return both;
}

struct three_sequences {
  sequences batch;
  three_sequences() {
    for (token_id const shift : {0, 17, 30, 44})
      batch.push_back(std::vector<token_id>{shift, 3}, std::vector<token_id>{static_cast<token_id>(shift + 5), 8, 52});
  }
};

}  // namespace

TEST_CASE_TEMPLATE("vocabulary_shards: rows and gradients of 1, 2, 4 and 7 shards are those of the whole vocabulary", B,
                   reference_backend<double>, eigen_backend<float>, eigen_backend<double>, eigen_backend<bf16>, eigen_backend<f16>) {
  using S = typename B::storage;
  using T = typename B::scalar;
  B backend;
  text<S> c;
  numbers<T> whole;
  backend.token_logps(c.view(c.logits), c.targets, whole.spans());
  std::vector<S> gradient(c.logits.size());
  backend.token_logps_adjoint(c.view(c.logits), c.targets, whole.log_normalizers, c.all(whole), c.view(gradient));
  constexpr double epsilon = static_cast<double>(std::numeric_limits<T>::epsilon());
  double const stored = std::same_as<S, bf16> ? 0x1p-7 : std::same_as<S, f16> ? 0x1p-10 : 0.0;  // a neighbouring number
  double const widest = 1.0 + std::log(static_cast<double>(vocabulary));
  for (std::vector<std::size_t> const& cut : cuts) {
    bool const one = cut.size() == 2;
    numbers<T> const n = sharded(backend, c, cut);
    std::vector<S> const d = sharded_gradient(backend, c, whole, cut);
    CAPTURE(cut.size() - 1);
    for (std::size_t i = 0; i < rows; ++i) {
      CAPTURE(i);
      for (std::size_t k = 0; k < whole.all().size(); ++k) {
        CAPTURE(k);
        double const expected = static_cast<double>((*whole.all()[k])[i]);
        double const bound = epsilon * allowed(cut.size() - 1, static_cast<double>(whole.log_normalizers[i]), expected) * (k == 3 ? widest : 1.0);
        CHECK(apart(static_cast<double>((*n.all()[k])[i]), expected) <= (one || !std::isfinite(expected) ? 0.0 : bound));
      }
      auto const size = [&](std::vector<T> const& of) { return std::abs(static_cast<double>(of[i])); };
      double const slope = size(c.slopes) + size(c.means) + size(c.normalizer_slopes) + size(c.entropy_slopes) * widest;
      for (std::size_t v = 0; v < vocabulary; ++v) {
        double const expected = static_cast<double>(gradient[i * vocabulary + v]);
        CHECK(apart(static_cast<double>(d[i * vocabulary + v]), expected) <=
              (one || std::isnan(expected) ? 0.0 : 4.0 * epsilon * slope + stored * std::abs(expected)));
      }
    }
  }
}

namespace {

// logp, log-normaliser, mean, entropy and collision of a row by the definition; logp is -inf without the target.
std::vector<long double> defined(std::span<double const> x, long target) {
  long double const highest = *std::max_element(x.begin(), x.end()), count = static_cast<long double>(x.size());
  long double sum = 0.0L, mean = 0.0L, entropy = 0.0L, squares = 0.0L;
  for (double const a : x) sum += std::exp(a - highest), mean += a / count;
  long double const z = highest + std::log(sum);
  for (double const a : x) {
    long double const p = std::exp(a - z);
    entropy -= p * (a - z);
    squares += p * p;
  }
  long double const none = -std::numeric_limits<long double>::infinity();
  return {target < 0 ? none : x[static_cast<std::size_t>(target)] - z, z, mean - z, entropy, std::log(squares)};
}

}  // namespace

TEST_CASE_TEMPLATE("vocabulary_shards: from partials that are rounded alone, rows are as near as is promised", T, float, double) {
  random_stream random(12);
  double nearest_miss = 0.0;
  for (int seed = 0; seed < 60; ++seed)
    for (std::size_t const size : {std::size_t{7}, std::size_t{8}, std::size_t{53}, std::size_t{300}})
      for (double const spread : {0.3, 4.0, 30.0})
        for (double const shift : {0.0, -40.0, 1000.0}) {
          std::vector<double> x(size);
          for (double& a : x) a = static_cast<double>(static_cast<T>(spread * random.normal() + shift));
          std::vector<token_id> const targets{static_cast<token_id>(random.below(size))};
          std::vector<long double> const expected = defined(x, targets[0]);
          for (std::size_t const shards : {std::size_t{1}, std::size_t{2}, std::size_t{4}, std::size_t{7}}) {
            std::vector<std::size_t> cut{0, size}, sizes;
            while (cut.size() < shards + 1)
              if (std::size_t const at = 1 + random.below(size - 1); std::ranges::count(cut, at) == 0) cut.push_back(at);
            std::ranges::sort(cut);
            std::vector<T> each(5 * shards), got(5);
            auto const row = [](T* of) { return row_logps<T>{{of, 1}, {of + 1, 1}, {of + 2, 1}, {of + 3, 1}, {of + 4, 1}}; };
            std::vector<row_logps<T>> partials;
            for (std::size_t s = 0; s < shards; ++s) {
              sizes.push_back(cut[s + 1] - cut[s]);
              bool const has = shard_has(cut[s], sizes[s], targets[0]);
              std::vector<long double> const own = defined(std::span(x).subspan(cut[s], sizes[s]), has ? targets[0] - static_cast<long>(cut[s]) : -1);
              std::ranges::transform(own, each.data() + 5 * s, [](long double a) { return static_cast<T>(a); });
              partials.push_back(row(each.data() + 5 * s));
            }
            combine_shards<T>(partials, sizes, targets, row(got.data()));
            for (std::size_t k = 0; k < 5; ++k) {
              double const bound = allowed(shards, static_cast<double>(expected[1]), static_cast<double>(expected[k])) *
                                   static_cast<double>(std::numeric_limits<T>::epsilon()) *
                                   (k == 3 ? 1.0 + std::log(static_cast<double>(size)) : 1.0);
              double const share = static_cast<double>(std::abs(static_cast<long double>(got[k]) - expected[k])) / bound;
              nearest_miss = std::max(nearest_miss, share);
            }
          }
        }
  CHECK(nearest_miss <= 1.0);
  CHECK(nearest_miss >= 0.2);  // or it is a bound of something else
}

TEST_CASE("vocabulary_shards: losses and gradients through objectives are those of unsharded logits") {
  three_sequences t;
  random_stream random(8);
  std::size_t const tokens = t.batch.total_tokens();
  std::vector<double> logits(tokens * vocabulary);
  for (double& x : logits) x = 3.0 * random.normal();
  reference_backend<double> backend;
  loss_workspace<double> workspace;
  std::vector<double> const ref(4, -9.0);
  auto const agrees = [&](auto&& objective) {
    std::vector<double> expected(logits.size()), got = logits;
    double const loss = loss_on_logits(backend, objective, as_matrix<double const>(logits.data(), tokens, vocabulary), t.batch,
                                       as_matrix(expected.data(), tokens, vocabulary), workspace);
    for (std::vector<std::size_t> const& cut : cuts) {
      got = logits;
      std::vector<matrix_view<double const>> in;
      std::vector<matrix_view<double>> out;
      for (std::size_t s = 0; s + 1 < cut.size(); ++s) {
        out.push_back(columns(as_matrix(got.data(), tokens, vocabulary), cut[s], cut[s + 1]));
        in.push_back(out.back());
      }
      CHECK(std::abs(loss_on_logit_shards<reference_backend<double>>(backend, objective, in, t.batch, out, workspace) - loss) <= 1e-13);
      for (std::size_t k = 0; k < got.size(); ++k) CHECK(std::abs(got[k] - expected[k]) <= 1e-14);
    }
  };
  agrees(sft_on_tokens{.options = {.label_smoothing = 0.1, .z_loss_coef = 0.01}});
  agrees(with_entropy_bonus(dpo_on_tokens(ref, {.beta = 0.3}), 0.4));
}

TEST_CASE("vocabulary_shards: a partial says -inf where the target is another shard's, its own where not, 0 without a target") {
  std::vector<double> const logits{1.0, 2.0, 1.0, 2.0, 1.0, 2.0};
  std::vector<token_id> const targets{6, 2, no_target};
  std::vector<double> logps(3, 9.0), normalizers(3, 9.0);
  reference_backend<double> backend;
  shard_workspace<double> workspace;
  shard_token_logps<reference_backend<double>>(backend, as_matrix<double const>(logits.data(), 3, 2), 5, targets, {logps, normalizers}, workspace);
  CHECK(logps[0] == doctest::Approx(2.0 - std::log(std::exp(1.0) + std::exp(2.0))).epsilon(1e-14));
  CHECK(logps[1] == -std::numeric_limits<double>::infinity());
  CHECK(normalizers[1] == normalizers[0]);
  CHECK(logps[2] == 0.0);
  CHECK(normalizers[2] == 0.0);
}

TEST_CASE("vocabulary_shards: a target that no shard has is refused with row, value and vocabulary") {
  std::vector<double> logits(6, 1.0), room(2);
  reference_backend<double> backend;
  shard_workspace<double> workspace;
  row_logps<double> const out{room, room};
  std::vector<row_logps<double>> const partials{out, out};
  std::vector<std::size_t> const sizes{3, 2};
  auto const combines = [&](token_id target) {
    std::vector<token_id> const targets{no_target, target};
    combine_shards<double>(partials, sizes, targets, out);
  };
  auto const differentiates = [&](token_id target) {
    std::vector<token_id> const targets{no_target, target};
    shard_token_logps_adjoint<reference_backend<double>>(backend, as_matrix<double const>(logits.data(), 2, 3), 0, 5, targets, room, {room},
                                                         as_matrix(logits.data(), 2, 3), workspace);
  };
  for (token_id const target : {4, 0, int{no_target}}) {
    CHECK_NOTHROW(combines(target));
    CHECK_NOTHROW(differentiates(target));
  }
  for (auto const& [target, digits] : {std::pair{5, "5"}, std::pair{-2, "-2"}}) {
    std::string const rest = std::string(": row 1: expected a target below 5 or no_target, got ") + digits;
    CHECK_THROWS_WITH_AS(combines(target), ("combine_shards" + rest).c_str(), contract_violation);
    CHECK_THROWS_WITH_AS(differentiates(target), ("shard_token_logps_adjoint" + rest).c_str(), contract_violation);
  }
}

TEST_CASE("vocabulary_shards: shapes that do not fit are refused by name") {
  std::vector<double> logits(6), room(2);
  std::vector<token_id> const targets{0, 1};
  reference_backend<double> backend;
  shard_workspace<double> workspace;
  row_logps<double> const out{room, room};
  CHECK_THROWS_WITH_AS(shard_token_logps<reference_backend<double>>(backend, as_matrix<double const>(logits.data(), 3, 2), 0, targets, out, workspace),
                       "expected shard_token_logps: one target per row, got 2", contract_violation);
  std::vector<row_logps<double>> const partials{out};
  std::vector<std::size_t> const none, one{2};
  CHECK_THROWS_AS(combine_shards<double>(partials, none, targets, out), contract_violation);
  CHECK_THROWS_AS(combine_shards<double>(partials, one, targets, {room, room, room}), contract_violation);
  CHECK_THROWS_WITH_AS(
      (shard_token_logps_adjoint<reference_backend<double>>(backend, as_matrix<double const>(logits.data(), 2, 3), 4, 6, targets, room, {room},
                                                            as_matrix(logits.data(), 2, 3), workspace)),
      "expected shard_token_logps_adjoint: first + cols <= vocabulary, got 7", contract_violation);
}
