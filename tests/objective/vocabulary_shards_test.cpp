// SPDX-License-Identifier: MIT
#include <attune/objective/vocabulary_shards.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
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
  for (std::vector<std::size_t> const& cut : cuts) {
    bool const one = cut.size() == 2;
    numbers<T> const n = sharded(backend, c, cut);
    std::vector<S> const d = sharded_gradient(backend, c, whole, cut);
    CAPTURE(cut.size() - 1);
    for (std::size_t i = 0; i < rows; ++i) {
      CAPTURE(i);
      double const size = 1.0 + (std::isfinite(whole.log_normalizers[i]) ? std::abs(static_cast<double>(whole.log_normalizers[i])) : 0.0);
      for (std::size_t k = 0; k < whole.all().size(); ++k) {
        CAPTURE(k);
        CHECK(apart(static_cast<double>((*n.all()[k])[i]), static_cast<double>((*whole.all()[k])[i])) <= (one ? 0.0 : 8.0 * epsilon * size));
      }
      for (std::size_t v = 0; v < vocabulary; ++v) {
        double const expected = static_cast<double>(gradient[i * vocabulary + v]);
        CHECK(apart(static_cast<double>(d[i * vocabulary + v]), expected) <=
              (one || std::isnan(expected) ? 0.0 : 8.0 * epsilon + stored * std::abs(expected)));
      }
    }
  }
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
