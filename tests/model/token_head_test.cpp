// SPDX-License-Identifier: MIT
#include <attune/model/token_head.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "../support/random_sequences.hpp"

using namespace attune;

namespace {
decoder_options options(bool tied) {
  return {.vocabulary = 11, .dim = 8, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 12, .window = 40, .tied = tied};
}
}  // namespace

TEST_CASE("token head: a tied one brings no tensor and reads the embedding, an untied one is the trunk's first head") {
  CHECK(token_head<float>::tensors(options(true)).empty());
  decoder_trunk<float> tied(options(true), 1, nullptr, token_head<float>::tensors(options(true)));
  CHECK(token_head<float>::output(tied).offset == tied.weights().embedding.offset);
  decoder_trunk<float> untied(options(false), 1, nullptr, token_head<float>::tensors(options(false)));
  CHECK(token_head<float>::output(untied).offset == untied.head(0).offset);
  CHECK(untied.store().parameters().back().name == "output.weight");
}

TEST_CASE("token head: what it hands out is aligned with tokens, 0 outside the mask, and slopes start at 0") {
  decoder_trunk<double> trunk(options(true), 1, nullptr);
  token_head<double> head;
  sequences const owned = test::random_sequences({6, 1, 9}, 11, 3);
  sequences_view const s = owned;
  for (unsigned bits = 0; bits < 16; ++bits) {
    token_terms const terms{(bits & 1u) != 0, (bits & 2u) != 0, (bits & 4u) != 0, (bits & 8u) != 0};
    head.read(trunk, s, activations::keep, terms);
    term_values<double const> const of = head.terms();
    term_slopes<double> const slopes = head.slopes();
    CHECK(of.terms() == terms);
    CHECK(of.logps.size() == s.total_tokens());
    CHECK(slopes.mean_logps.size() == of.mean_logps.size());
    CHECK(slopes.entropies.size() == of.entropies.size());
    CHECK(slopes.log_normalizers.size() == of.log_normalizers.size());
    for (std::size_t t = 0; t < s.total_tokens(); ++t) {
      bool const in = s.mask[t] != 0;
      CHECK((of.logps[t] < 0.0) == in);
      if (terms.mean_logps) CHECK((of.mean_logps[t] < 0.0) == in);
      if (terms.entropies) CHECK((of.entropies[t] > 0.0) == in);
      if (terms.log_normalizers) CHECK((of.log_normalizers[t] != 0.0) == in);
      if (terms.collisions) CHECK((of.collisions[t] < 0.0) == in);
      for (std::span<double> const kind : {slopes.logps, slopes.mean_logps, slopes.entropies, slopes.log_normalizers}) {
        if (kind.empty()) continue;
        CHECK(kind[t] == 0.0);
        kind[t] = 3.0;  // the next reading starts over
      }
    }
  }
  head.read(trunk, s, activations::discard);
  CHECK(!head.terms().terms().any());
}

TEST_CASE("token head: hidden states that nothing masked in follows get no gradient, whatever the slopes there") {
  decoder_trunk<double> trunk(options(true), 1, nullptr);
  token_head<double> head;
  sequences const owned = test::random_sequences({6, 1, 9}, 11, 3);
  sequences_view const s = owned;
  head.read(trunk, s, activations::keep);
  for (double& slope : head.slopes().logps) slope = 1.0;
  matrix_view<double> const d_hidden = head.adjoint(trunk);
  for (std::size_t t = 0; t < s.total_tokens(); ++t) {
    bool const followed = t + 1 < s.total_tokens() && s.mask[t + 1] != 0;
    double size = 0.0;
    for (std::size_t i = 0; i < d_hidden.cols; ++i) size += std::abs(d_hidden(t, i));
    CHECK((size > 0.0) == followed);
  }
}

TEST_CASE("token head: operations are counted for scored tokens only, three times as many backward") {
  decoder_trunk<double> trunk(options(true), 1, nullptr);
  token_head<double> head;
  sequences const s = test::random_sequences({6, 1, 9}, 11, 3);
  (void)trunk.forward(s, activations::keep);
  double const body = trunk.flops();
  head.read(trunk, s, activations::keep);
  double const scored = 2.0 * 11 * 8 * static_cast<double>(completion_tokens(s.view().mask));
  CHECK(trunk.flops() == 2.0 * body + scored);
  head.adjoint(trunk);
  CHECK(trunk.flops() == 2.0 * body + 4.0 * scored);
}

TEST_CASE("token head: a copy keeps the temperature and nothing else") {
  token_head<double> head;
  head.set_temperature(0.5);
  decoder_trunk<double> trunk(options(true), 1, nullptr);
  head.read(trunk, test::random_sequences({6}, 11, 3), activations::keep);
  token_head<double> const copy = head;
  CHECK(copy.temperature() == 0.5);
  CHECK_THROWS_AS(head.set_temperature(0.0), contract_violation);
  CHECK(head.temperature() == 0.5);
}
