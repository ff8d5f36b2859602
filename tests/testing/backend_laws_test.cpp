// SPDX-License-Identifier: MIT
#include <attune/testing/backend_laws.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <attune/backend/reference.hpp>

using namespace attune;

namespace {

/// Does a correct backend's work, by functions of which others override one to spoil it: the laws, which cost a compiler
/// seconds, are tried on this type alone.
struct spoiled {
  using base = spoiled;
  using scalar = float;
  using storage = float;
  using in_matrix = matrix_view<float const>;
  using out_matrix = matrix_view<float>;
  using targets_view = std::span<token_id const>;
  using in_values = std::span<float const>;
  using out_values = std::span<float>;
  using offsets_view = std::span<std::size_t const>;
  static constexpr reference_backend<float> sound{};

  virtual ~spoiled() = default;
  virtual void token_logps(in_matrix logits, targets_view targets, row_logps<float> out) const {
    sound.token_logps(logits, targets, out);
  }
  virtual void token_logps_adjoint(in_matrix logits, targets_view targets, in_values normalizers, row_slopes<float> slopes,
                                   out_matrix dlogits) const {
    sound.token_logps_adjoint(logits, targets, normalizers, slopes, dlogits);
  }
  virtual void linear_token_logps(in_matrix hidden, in_matrix head, targets_view targets, row_logps<float> out,
                                  out_values memory) const {
    sound.linear_token_logps(hidden, head, targets, out, memory);
  }
  virtual void linear_token_logps_adjoint(in_matrix hidden, in_matrix head, targets_view targets, in_values normalizers,
                                          row_slopes<float> slopes, out_matrix dhidden, out_matrix dhead,
                                          out_values memory) const {
    sound.linear_token_logps_adjoint(hidden, head, targets, normalizers, slopes, dhidden, dhead, memory);
  }
  virtual std::size_t linear_workspace(std::size_t rows, std::size_t vocabulary, std::size_t width) const {
    return sound.linear_workspace(rows, vocabulary, width);
  }
  virtual void token_kl(in_matrix logits, in_matrix ref_logits, targets_view targets, kl_direction direction,
                        row_kl<float> out) const {
    sound.token_kl(logits, ref_logits, targets, direction, out);
  }
  void token_kl_adjoint(in_matrix logits, in_matrix ref_logits, targets_view targets, kl_direction direction,
                        row_kl<float const> of, in_values slopes, out_matrix dlogits) const {
    sound.token_kl_adjoint(logits, ref_logits, targets, direction, of, slopes, dlogits);
  }
  virtual void segment_sum(in_values values, offsets_view offsets, out_values out) const {
    sound.segment_sum(values, offsets, out);
  }
  void segment_broadcast(in_values values, offsets_view offsets, out_values out) const {
    sound.segment_broadcast(values, offsets, out);
  }
  virtual double squared_norm(in_values values) const { return sound.squared_norm(values); }
  virtual void adamw(adamw_update<float> update, out_values value, in_values gradient, out_values first,
                     out_values second) const {
    sound.adamw(update, value, gradient, first, second);
  }
};

struct forgets_the_maximum : spoiled {
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    base::token_logps(logits, targets, out);
    for (std::size_t i = 0; i < logits.rows; ++i) {
      if (targets[i] == no_target) continue;
      float sum = 0;
      for (std::size_t v = 0; v < logits.cols; ++v) sum += std::exp(logits(i, v));
      out.log_normalizers[i] = std::log(sum);
    }
  }
};

struct mean_of_logits : spoiled {
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    base::token_logps(logits, targets, out);
    for (std::size_t i = 0; i < out.mean_logps.size(); ++i)
      if (targets[i] != no_target) out.mean_logps[i] += out.log_normalizers[i];
  }
};

struct adds_to_dlogits : spoiled {
  void token_logps_adjoint(matrix_view<float const> logits, targets_view targets, std::span<float const> normalizers,
                           row_slopes<float> slopes, matrix_view<float> dlogits) const override {
    std::vector<float> fresh(logits.rows * logits.cols);
    base::token_logps_adjoint(logits, targets, normalizers, slopes, as_matrix(fresh.data(), logits.rows, logits.cols));
    for (std::size_t i = 0; i < logits.rows; ++i)
      for (std::size_t v = 0; v < logits.cols; ++v) dlogits(i, v) += fresh[i * logits.cols + v];
  }
};

struct zeroes_before_it_reads : spoiled {
  void token_logps_adjoint(matrix_view<float const> logits, targets_view targets, std::span<float const> normalizers,
                           row_slopes<float> slopes, matrix_view<float> dlogits) const override {
    for (std::size_t i = 0; i < logits.rows; ++i)
      for (std::size_t v = 0; v < logits.cols; ++v) dlogits(i, v) = 0;
    base::token_logps_adjoint(logits, targets, normalizers, slopes, dlogits);
  }
};

struct fills_the_gaps : spoiled {
  void token_logps_adjoint(matrix_view<float const> logits, targets_view targets, std::span<float const> normalizers,
                           row_slopes<float> slopes, matrix_view<float> dlogits) const override {
    base::token_logps_adjoint(logits, targets, normalizers, slopes, dlogits);
    for (std::size_t i = 0; i + 1 < dlogits.rows; ++i)
      if (dlogits.row_stride > dlogits.cols) dlogits.row(i)[dlogits.cols] = 0;
  }
};

struct leaves_skipped_rows : spoiled {
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    std::vector<float> const keep(out.logps.begin(), out.logps.end());
    base::token_logps(logits, targets, out);
    for (std::size_t i = 0; i < logits.rows; ++i)
      if (targets[i] == no_target) out.logps[i] = keep[i];
  }
};

struct masks_by_a_large_number : spoiled {
  void token_logps_adjoint(matrix_view<float const> logits, targets_view targets, std::span<float const> normalizers,
                           row_slopes<float> slopes, matrix_view<float> dlogits) const override {
    std::vector<float> fresh(logits.rows * logits.cols);
    auto const copy = as_matrix(fresh.data(), logits.rows, logits.cols);
    for (std::size_t i = 0; i < logits.rows; ++i)
      for (std::size_t v = 0; v < logits.cols; ++v) copy(i, v) = std::max(logits(i, v), -80.0f);
    base::token_logps_adjoint(copy, targets, normalizers, slopes, dlogits);
  }
};

struct skips_bad_rows : spoiled {
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    base::token_logps(logits, targets, out);
    for (float& x : out.logps)
      if (std::isnan(x)) x = 0;
  }
};

struct remembers : spoiled {
  mutable int calls = 0;
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    base::token_logps(logits, targets, out);
    if (++calls % 2 == 0 && !out.logps.empty()) out.logps[0] = std::nextafter(out.logps[0], 1.0f);
  }
};

struct leaks_below_rounding : spoiled {
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    base::token_logps(logits, targets, out);
    if (logits.rows > 1 && logits.cols > 1) out.logps[0] = std::nextafter(out.logps[0], 1.0f);
  }
};

struct drops_the_slope_of_the_mean : spoiled {
  void linear_token_logps_adjoint(matrix_view<float const> hidden, matrix_view<float const> head, targets_view targets,
                                  std::span<float const> normalizers, row_slopes<float> slopes,
                                  matrix_view<float> dhidden, matrix_view<float> dhead, std::span<float> memory) const override {
    base::linear_token_logps_adjoint(hidden, head, targets, normalizers, {slopes.logps, {}}, dhidden, dhead, memory);
  }
};

struct overwrites_dhead : spoiled {
  void linear_token_logps_adjoint(matrix_view<float const> hidden, matrix_view<float const> head, targets_view targets,
                                  std::span<float const> normalizers, row_slopes<float> slopes,
                                  matrix_view<float> dhidden, matrix_view<float> dhead, std::span<float> memory) const override {
    for (std::size_t v = 0; v < dhead.rows; ++v)
      for (std::size_t d = 0; d < dhead.cols; ++d) dhead(v, d) = 0;
    base::linear_token_logps_adjoint(hidden, head, targets, normalizers, slopes, dhidden, dhead, memory);
  }
};

struct scores_the_next_target : spoiled {
  void linear_token_logps(matrix_view<float const> hidden, matrix_view<float const> head, targets_view targets,
                          row_logps<float> out, std::span<float> memory) const override {
    std::vector<token_id> next(targets.begin(), targets.end());
    for (token_id& t : next)
      if (t != no_target) t = (t + 1) % static_cast<token_id>(head.rows);
    base::linear_token_logps(hidden, head, next, out, memory);
  }
};

struct writes_past_its_workspace : spoiled {
  std::size_t linear_workspace(std::size_t rows, std::size_t vocabulary, std::size_t) const override {
    return rows + vocabulary - (rows > 0 ? 1 : 0);
  }
  void linear_token_logps_adjoint(matrix_view<float const> hidden, matrix_view<float const> head, targets_view targets,
                                  std::span<float const> normalizers, row_slopes<float> slopes,
                                  matrix_view<float> dhidden, matrix_view<float> dhead, std::span<float> memory) const override {
    std::vector<float> enough(memory.size() + 1);
    base::linear_token_logps_adjoint(hidden, head, targets, normalizers, slopes, dhidden, dhead, enough);
    if (hidden.rows > 0) memory.data()[memory.size()] = 0;
  }
  void linear_token_logps(matrix_view<float const> hidden, matrix_view<float const> head, targets_view targets,
                          row_logps<float> out, std::span<float> memory) const override {
    std::vector<float> enough(memory.size() + 1);
    base::linear_token_logps(hidden, head, targets, out, enough);
  }
};

struct sums_in_float : spoiled {
  void segment_sum(std::span<float const> values, std::span<std::size_t const> offsets, std::span<float> out) const override {
    for (std::size_t b = 0; b < out.size(); ++b) {
      out[b] = 0;
      for (std::size_t t = offsets[b]; t < offsets[b + 1]; ++t) out[b] += values[t];
    }
  }
};

struct squares_in_float : spoiled {
  double squared_norm(std::span<float const> values) const override {
    float sum = 0;
    for (float const x : values) sum += x * x;
    return static_cast<double>(sum);
  }
};

struct adds_epsilon_inside_the_root : spoiled {
  void adamw(adamw_update<float> u, std::span<float> value, std::span<float const> gradient, std::span<float> first,
             std::span<float> second) const override {
    for (std::size_t i = 0; i < value.size(); ++i) {
      float const old = value[i];
      u(value[i], gradient[i], first[i], second[i]);
      value[i] = old * u.decay - u.step_size * first[i] / (std::sqrt(second[i] + u.epsilon) * u.second_scale);
    }
  }
};

struct counts_one_for_nothing : spoiled {
  double squared_norm(std::span<float const> values) const override { return values.empty() ? 1.0 : base::squared_norm(values); }
};

struct entropy_in_bits : spoiled {
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    base::token_logps(logits, targets, out);
    for (float& x : out.entropies) x *= 1.44269504f;
  }
};

struct entropies_of_skipped_rows : spoiled {
  void linear_token_logps(matrix_view<float const> hidden, matrix_view<float const> head, targets_view targets,
                          row_logps<float> out, std::span<float> memory) const override {
    base::linear_token_logps(hidden, head, targets, out, memory);
    for (std::size_t i = 0; i < out.entropies.size(); ++i)
      if (targets[i] == no_target) out.entropies[i] = 1.0f;
  }
};

struct entropy_costs_the_mean : spoiled {
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    base::token_logps(logits, targets, out);
    if (!out.entropies.empty())
      for (std::size_t i = 0; i < out.mean_logps.size(); ++i)
        if (targets[i] != no_target) out.mean_logps[i] = 0.0f;
  }
};

struct forgets_the_entropy_itself : spoiled {  // the gradient of -sum p log p as if p did not have to sum to 1
  void token_logps_adjoint(matrix_view<float const> logits, targets_view targets, std::span<float const> normalizers,
                           row_slopes<float> slopes, matrix_view<float> dlogits) const override {
    std::vector<float> const ones(slopes.entropies.size(), 1.0f);
    if (!ones.empty()) slopes.entropies = ones;
    base::token_logps_adjoint(logits, targets, normalizers, slopes, dlogits);
  }
};

struct forgets_the_target_s_entropy : spoiled {
  void token_logps_adjoint(matrix_view<float const> logits, targets_view targets, std::span<float const> normalizers,
                           row_slopes<float> slopes, matrix_view<float> dlogits) const override {
    std::vector<float> kept;
    for (std::size_t i = 0; i < logits.rows; ++i) kept.push_back(targets[i] != no_target ? logits(i, static_cast<std::size_t>(targets[i])) : 0.0f);
    base::token_logps_adjoint(logits, targets, normalizers, slopes, dlogits);
    for (std::size_t i = 0; i < logits.rows; ++i)
      if (targets[i] != no_target && !slopes.entropies.empty() && kept[i] > -1e30f) {
        float const p = std::exp(kept[i] - normalizers[i]);
        if (p > 0.0f && p < 1.0f)
          dlogits(i, static_cast<std::size_t>(targets[i])) += slopes.entropy_slopes[i] * p * (kept[i] - normalizers[i] + slopes.entropies[i]);
      }
  }
};

struct multiplies_zero_by_infinity : spoiled {
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    base::token_logps(logits, targets, out);
    for (std::size_t i = 0; i < out.entropies.size(); ++i)
      if (targets[i] != no_target)
        for (std::size_t v = 0; v < logits.cols; ++v)
          if (std::isinf(logits(i, v))) out.entropies[i] = NAN;
  }
};

struct squares_without_a_log : spoiled {
  void token_logps(matrix_view<float const> logits, targets_view targets, row_logps<float> out) const override {
    base::token_logps(logits, targets, out);
    for (float& x : out.collisions) x = std::exp(x);
  }
};

struct divides_the_wrong_way_round : spoiled {
  void token_kl(matrix_view<float const> logits, matrix_view<float const> ref_logits, targets_view targets, kl_direction,
                row_kl<float> out) const override {
    base::token_kl(logits, ref_logits, targets, kl_direction::reverse, out);
  }
};

/// Names of the laws broken, in the order in which they were found.
template <class B>
std::string broken_laws(testing::backend_law_options options = {}) {
  B spoils;
  spoiled& backend = spoils;
  std::string names;
  for (testing::broken_law const& law : testing::check_backend_laws(backend, options)) {
    CHECK_FALSE(law.evidence.empty());
    names += (names.empty() ? "" : ", ") + law.name;
  }
  return names;
}

}  // namespace

TEST_CASE("backend laws: the reference backend keeps them all") {  // as do the others: backend/every_backend_test.cpp
  reference_backend<float> single;
  CHECK_NOTHROW(testing::expect_laws(testing::check_backend_laws(single, {.bitwise_rows = true})));
  std::vector<testing::tried_law> const laws = testing::try_backend_laws(single, {.bitwise_rows = true});
  CHECK(laws.size() == 23);
  for (testing::tried_law const& law : laws) {
    CAPTURE(law.name);
    CHECK(law.holds());
    CHECK(law.comparisons > 0);
  }
}

TEST_CASE("backend laws: each broken backend is caught under the name of its law and of no law it keeps") {
  CHECK(broken_laws<forgets_the_maximum>() == "large logits, bad rows stay alone, normalizer adjoint");
  CHECK(broken_laws<mean_of_logits>() == "log-probabilities, large logits");
  CHECK(broken_laws<adds_to_dlogits>() == "adjoint, in place, no target, large logits, masked vocabulary, entropy adjoint, "
                                          "normalizer adjoint");
  CHECK(broken_laws<zeroes_before_it_reads>() == "in place, entropy adjoint, normalizer adjoint");
  CHECK(broken_laws<fills_the_gaps>() == "row stride, in place");
  CHECK(broken_laws<leaves_skipped_rows>() == "no target");
  CHECK(broken_laws<masks_by_a_large_number>() == "masked vocabulary, entropy adjoint, normalizer adjoint");
  CHECK(broken_laws<skips_bad_rows>() == "bad rows stay alone");
  CHECK(broken_laws<remembers>() == "pure, entropies, collisions");
  CHECK(broken_laws<drops_the_slope_of_the_mean>() == "linear adjoint, entropy adjoint, normalizer adjoint");
  CHECK(broken_laws<overwrites_dhead>() == "linear adjoint, entropy adjoint, normalizer adjoint, empty");
  CHECK(broken_laws<scores_the_next_target>() == "linear");
  CHECK(broken_laws<writes_past_its_workspace>() == "workspace");
  CHECK(broken_laws<sums_in_float>() == "segments");
  CHECK(broken_laws<squares_in_float>() == "squared norm");
  CHECK(broken_laws<adds_epsilon_inside_the_root>() == "adamw");
  CHECK(broken_laws<counts_one_for_nothing>() == "empty");
}

TEST_CASE("backend laws: each way to spoil entropies is caught") {
  CHECK(broken_laws<entropy_in_bits>() == "entropies");
  CHECK(broken_laws<entropies_of_skipped_rows>() == "entropies");
  CHECK(broken_laws<entropy_costs_the_mean>() == "log-probabilities, large logits, masked vocabulary, entropies");
  CHECK(broken_laws<forgets_the_entropy_itself>() == "entropy adjoint, normalizer adjoint");
  CHECK(broken_laws<forgets_the_target_s_entropy>() == "entropy adjoint, normalizer adjoint");
  CHECK(broken_laws<multiplies_zero_by_infinity>() == "entropies");
}

TEST_CASE("backend laws: terms and divergences are among the laws") {
  CHECK(broken_laws<squares_without_a_log>() == "collisions");
  CHECK(broken_laws<divides_the_wrong_way_round>() == "kl, kl adjoint");
}

TEST_CASE("backend laws: a leak between rows below rounding is caught where bits are asked for") {
  CHECK(broken_laws<leaks_below_rounding>({.bitwise_rows = true}) == "local");
  CHECK(broken_laws<leaks_below_rounding>() == "");
}
