// SPDX-License-Identifier: MIT
#include <attune/backend/backend_contract.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

using namespace attune;

TEST_CASE("backend_contract: a matrix has room for its rows, and memory if it has elements") {
  float x[6] = {};
  CHECK_NOTHROW(expects_matrix(matrix_view<float>{x, 2, 3, 3}));
  CHECK_NOTHROW(expects_matrix(matrix_view<float>{nullptr, 0, 3, 3}));
  CHECK_NOTHROW(expects_matrix(matrix_view<float>{nullptr, 2, 0, 0}));
  CHECK_THROWS_AS(expects_matrix(matrix_view<float>{x, 2, 3, 2}), contract_violation);
  CHECK_THROWS_AS(expects_matrix(matrix_view<float>{nullptr, 2, 3, 3}), contract_violation);
}

TEST_CASE("backend_contract: a target is below the vocabulary or no_target, and the row is named otherwise") {
  std::vector<token_id> targets{0, no_target, 9};
  CHECK_NOTHROW(expects_targets(targets, 3, 10));
  CHECK_NOTHROW(expects_targets({}, 0, 0));
  CHECK_THROWS_AS(expects_targets(targets, 2, 10), contract_violation);
  CHECK_THROWS_AS(expects_targets(targets, 3, 0), contract_violation);
  CHECK_THROWS_WITH(expects_targets(targets, 3, 9), "backend: row 2: expected a target below 9 or no_target, got 9");
  targets[0] = -2;
  CHECK_THROWS_WITH(expects_targets(targets, 3, 10), "backend: row 0: expected a target below 10 or no_target, got -2");
}

TEST_CASE("backend_contract: entropies are one per row or none, and come with their slopes") {
  std::vector<float> two(2), three(3);
  CHECK_NOTHROW(expects_outputs(row_logps<float>{two, two, {}, two}, 2));
  CHECK_NOTHROW(expects_outputs(row_logps<float>{two, two}, 2));
  CHECK_THROWS_AS(expects_outputs(row_logps<float>{two, two, {}, three}, 2), contract_violation);
  std::span<float const> const normalizers(two);
  CHECK_NOTHROW(expects_slopes(normalizers, row_slopes<float>{two, {}, two, two}, 2));
  CHECK_THROWS_AS(expects_slopes(normalizers, row_slopes<float>{two, {}, two, {}}, 2), contract_violation);
  CHECK_THROWS_AS(expects_slopes(normalizers, row_slopes<float>{two, {}, {}, two}, 2), contract_violation);
  CHECK_THROWS_AS(expects_slopes(normalizers, row_slopes<float>{two, {}, three, three}, 2), contract_violation);
}

TEST_CASE("backend_contract: collisions and slopes of normalisers are one per row or none") {
  std::vector<float> two(2), three(3);
  CHECK_NOTHROW(expects_outputs(row_logps<float>{two, two, {}, {}, two}, 2));
  CHECK_THROWS_WITH(expects_outputs(row_logps<float>{two, two, {}, {}, three}, 2),
                    "expected row_logps.collisions: empty, or one per row, got 3");
  std::span<float const> const normalizers(two);
  CHECK_NOTHROW(expects_slopes(normalizers, row_slopes<float>{two, {}, {}, {}, two}, 2));
  CHECK_THROWS_WITH(expects_slopes(normalizers, row_slopes<float>{two, {}, {}, {}, three}, 2),
                    "expected row_slopes.log_normalizers: empty, or one per row, got 3");
}

TEST_CASE("backend_contract: an adjoint's matrices are shaped as what they are the gradient in") {
  std::vector<float> x(12), two(2), three(3);
  std::vector<token_id> const targets{0, no_target};
  auto const m = as_matrix<float const>(x.data(), 2, 3);
  std::span<float const> const normalizers(two);
  row_slopes<float> const slopes{.logps = two};
  CHECK_NOTHROW(expects_adjoint(m, targets, normalizers, slopes, as_matrix(x.data(), 2, 3)));
  CHECK_THROWS_WITH(expects_adjoint(m, targets, normalizers, slopes, as_matrix(x.data(), 2, 2)),
                    "expected token_logps_adjoint: dlogits shaped as logits");
  CHECK_THROWS_AS(expects_adjoint(m, std::span(targets).first(1), normalizers, slopes, as_matrix(x.data(), 2, 3)), contract_violation);
  CHECK_THROWS_AS(expects_adjoint(m, targets, std::span<float const>(three), slopes, as_matrix(x.data(), 2, 3)), contract_violation);
  CHECK_THROWS_AS(expects_adjoint(m, targets, normalizers, slopes, matrix_view<float>{x.data(), 2, 3, 2}), contract_violation);

  auto const head = as_matrix<float const>(x.data(), 4, 3);
  CHECK_NOTHROW(expects_linear(m, head, targets, std::span(three), 3));
  CHECK_THROWS_WITH(expects_linear(m, head, targets, std::span(three), 4),
                    "expected backend: workspace.size() >= linear_workspace(N, V, D), got 3");
  CHECK_THROWS_WITH(expects_linear(m, as_matrix<float const>(x.data(), 4, 2), targets, std::span(three), 3),
                    "expected backend: hidden and head of one width, got 2");
  CHECK_THROWS_AS(expects_linear(m, head, std::span(targets).first(1), std::span(three), 3), contract_violation);
  CHECK_NOTHROW(expects_linear_adjoint(m, head, normalizers, slopes, as_matrix(x.data(), 2, 3), as_matrix(x.data(), 4, 3)));
  CHECK_THROWS_WITH(expects_linear_adjoint(m, head, normalizers, slopes, as_matrix(x.data(), 3, 3), as_matrix(x.data(), 4, 3)),
                    "expected linear_token_logps_adjoint: dhidden shaped as hidden");
  CHECK_THROWS_WITH(expects_linear_adjoint(m, head, normalizers, slopes, as_matrix(x.data(), 2, 3), as_matrix(x.data(), 2, 3)),
                    "expected linear_token_logps_adjoint: dhead shaped as head");
  CHECK_THROWS_AS(expects_linear_adjoint(m, head, std::span<float const>(three), slopes, as_matrix(x.data(), 2, 3), as_matrix(x.data(), 4, 3)),
                  contract_violation);
}

TEST_CASE("backend_contract: a divergence is between matrices of one shape, one number per row") {
  std::vector<float> x(6), two(2), three(3);
  std::vector<token_id> const targets{0, no_target};
  auto const m = as_matrix<float const>(x.data(), 2, 3);
  row_kl<float> const good{two, two, two};
  CHECK_NOTHROW(expects_divergence(m, m, targets, good));
  CHECK_THROWS_WITH(expects_divergence(m, as_matrix<float const>(x.data(), 2, 2), targets, good),
                    "expected token_kl: ref_logits shaped as logits");
  CHECK_THROWS_WITH(expects_divergence(m, as_matrix<float const>(x.data(), 1, 3), targets, good),
                    "expected token_kl: ref_logits shaped as logits");
  CHECK_THROWS_AS(expects_divergence(m, m, std::span(targets).first(1), good), contract_violation);
  CHECK_THROWS_WITH(expects_divergence(m, m, targets, row_kl<float>{three, two, two}), "expected row_kl.kl: one per row, got 3");
  CHECK_THROWS_WITH(expects_divergence(m, m, targets, row_kl<float>{two, three, two}),
                    "expected row_kl.log_normalizers: one per row, got 3");
  CHECK_THROWS_WITH(expects_divergence(m, m, targets, row_kl<float>{two, two, three}),
                    "expected row_kl.ref_log_normalizers: one per row, got 3");
  auto const d = as_matrix(x.data(), 2, 3);
  CHECK_NOTHROW(expects_divergence_slopes(m, std::span<float const>(two), d));
  CHECK_THROWS_WITH(expects_divergence_slopes(m, std::span<float const>(three), d),
                    "expected token_kl_adjoint: one slope per row, got 3");
  CHECK_THROWS_WITH(expects_divergence_slopes(m, std::span<float const>(two), as_matrix(x.data(), 2, 2)),
                    "expected token_kl_adjoint: dlogits shaped as logits");
}

TEST_CASE("backend_contract: segments cover the values in order") {
  std::vector<std::size_t> const good{0, 2, 2, 5}, late{1, 2, 2, 5}, backwards{0, 3, 2, 5};
  CHECK_NOTHROW(expects_segments(good, 3, 5));
  CHECK_NOTHROW(expects_segments({}, 0, 0));
  CHECK_THROWS_AS(expects_segments({}, 0, 1), contract_violation);
  CHECK_THROWS_AS(expects_segments(good, 2, 5), contract_violation);
  CHECK_THROWS_AS(expects_segments(good, 3, 6), contract_violation);
  CHECK_THROWS_AS(expects_segments(late, 3, 5), contract_violation);
  CHECK_THROWS_AS(expects_segments(backwards, 3, 5), contract_violation);
}
