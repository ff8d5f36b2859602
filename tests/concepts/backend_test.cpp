// SPDX-License-Identifier: MIT
#include <attune/concepts/backend.hpp>

#include <cstddef>
#include <span>

#include <doctest/doctest.h>

using namespace attune;

namespace {

using in_matrix = matrix_view<float const>;
using out_matrix = matrix_view<float>;
using ids = std::span<token_id const>;
using in_values = std::span<float const>;
using out_values = std::span<float>;
using bounds = std::span<std::size_t const>;

/// The least that is a backend.
struct archetype {
  using scalar = float;
  using storage = float;
  void token_logps(in_matrix, ids, row_logps<float>) {}
  void token_logps_adjoint(in_matrix, ids, in_values, row_slopes<float>, out_matrix) {}
  void linear_token_logps(in_matrix, in_matrix, ids, row_logps<float>, out_values) {}
  void linear_token_logps_adjoint(in_matrix, in_matrix, ids, in_values, row_slopes<float>, out_matrix, out_matrix,
                                  out_values) {}
  std::size_t linear_workspace(std::size_t, std::size_t, std::size_t) { return 0; }
  void segment_sum(in_values, bounds, out_values) {}
  void segment_broadcast(in_values, bounds, out_values) {}
  double squared_norm(in_values) { return 0.0; }
  void adamw(adamw_update<float>, out_values, in_values, out_values, out_values) {}
  void token_kl(in_matrix, in_matrix, ids, kl_direction, row_kl<float>) {}
  void token_kl_adjoint(in_matrix, in_matrix, ids, kl_direction, row_kl<float const>, in_values, out_matrix) {}
};
static_assert(Backend<archetype>);

struct kl_in_one_direction : archetype {
  void token_kl(in_matrix, in_matrix, ids, row_kl<float>) {}
};
static_assert(!Backend<kl_in_one_direction>);

struct kl_that_wants_to_write_the_reference : archetype {
  void token_kl(in_matrix, out_matrix, ids, kl_direction, row_kl<float>) {}
};
static_assert(!Backend<kl_that_wants_to_write_the_reference>);

struct kl_adjoint_without_slopes : archetype {
  void token_kl_adjoint(in_matrix, in_matrix, ids, kl_direction, row_kl<float const>, out_matrix) {}
};
static_assert(!Backend<kl_adjoint_without_slopes>);

struct without_a_scalar : archetype {
  using scalar = void;
};
static_assert(!Backend<without_a_scalar>);

struct without_a_storage : archetype {
  using storage = void;
};
static_assert(!Backend<without_a_storage>);

struct stores_another_type_than_its_operations_take : archetype {
  using storage = bf16;
};
static_assert(!Backend<stores_another_type_than_its_operations_take>);

struct computes_in_another_type_than_its_storage_is_for : archetype {
  using scalar = double;
};
static_assert(!Backend<computes_in_another_type_than_its_storage_is_for>);

struct counts_in_integers : archetype {
  using scalar = int;
};
static_assert(!Backend<counts_in_integers>);

struct another_scalar_than_its_operations : archetype {
  using scalar = double;
};
static_assert(!Backend<another_scalar_than_its_operations>);

struct wants_to_write_logits : archetype {
  void token_logps(out_matrix, ids, row_logps<float>) {}
};
static_assert(!Backend<wants_to_write_logits>);

struct adjoint_without_normalizers : archetype {
  void token_logps_adjoint(in_matrix, ids, row_slopes<float>, out_matrix) {}
};
static_assert(!Backend<adjoint_without_normalizers>);

struct linear_without_workspace : archetype {
  void linear_token_logps(in_matrix, in_matrix, ids, row_logps<float>) {}
};
static_assert(!Backend<linear_without_workspace>);

struct linear_adjoint_without_dhead : archetype {
  void linear_token_logps_adjoint(in_matrix, in_matrix, ids, in_values, row_slopes<float>, out_matrix, out_values) {}
};
static_assert(!Backend<linear_adjoint_without_dhead>);

struct workspace_in_int : archetype {
  int linear_workspace(std::size_t, std::size_t, std::size_t) { return 0; }
};
static_assert(!Backend<workspace_in_int>);

struct norm_in_float : archetype {
  float squared_norm(in_values) { return 0.0f; }
};
static_assert(!Backend<norm_in_float>);

struct segments_by_int : archetype {
  void segment_sum(in_values, std::span<int const>, out_values) {}
};
static_assert(!Backend<segments_by_int>);

struct without_broadcast : archetype {
  void segment_broadcast() {}
};
static_assert(!Backend<without_broadcast>);

struct adamw_without_second_moment : archetype {
  void adamw(adamw_update<float>, out_values, in_values, out_values) {}
};
static_assert(!Backend<adamw_without_second_moment>);

}  // namespace

TEST_CASE("backend: the archetype can be called with what the concept names") {
  archetype b;
  float x[4] = {1, 2, 3, 4};
  token_id const target = 1;
  std::size_t const offsets[2] = {0, 4};
  matrix_view<float> const m = as_matrix(x, 1, 4);
  b.token_logps(m, {&target, 1}, {{x, 1}, {x, 1}});
  b.token_logps_adjoint(m, {&target, 1}, {x, 1}, {{x, 1}}, m);
  b.token_kl(m, m, {&target, 1}, kl_direction::reverse, {{x, 1}, {x, 1}, {x, 1}});
  b.segment_sum(x, offsets, {x, 1});
  CHECK(b.squared_norm(x) == 0.0);
  CHECK(no_target < 0);
}
