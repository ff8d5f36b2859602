// SPDX-License-Identifier: MIT
#include <attune/model/decoder_trunk.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "../support/plain_decoder.hpp"
#include "../support/random_sequences.hpp"

using namespace attune;

namespace {
decoder_options const options{.vocabulary = 11, .dim = 8, .layers = 3, .heads = 2, .kv_heads = 1, .hidden = 12, .window = 200};
}

TEST_CASE("trunk: hidden states are those of a plain pass, and the same bits whether activations are kept or not") {
  decoder_trunk<double> trunk(options, 1, nullptr);
  test::plain_decoder<double> const plain(options, trunk.store().parameters());
  sequences const s = test::random_sequences({9, 150, 4}, 11, 2);
  matrix_view<double const> const kept = trunk.forward(s, activations::keep);
  std::vector<double> const copy(kept.data, kept.data + kept.rows * kept.cols);
  for (std::size_t b = 0; b < s.size(); ++b) {
    auto const rows = plain.hidden(s.view().sequence(b));
    for (std::size_t i = 0; i < rows.size(); ++i)
      for (std::size_t c = 0; c < options.dim; ++c)
        CHECK(kept(s.view().offsets[b] + i, c) == doctest::Approx(rows[i][c]).epsilon(1e-11));
  }
  matrix_view<double const> const discarded = trunk.forward(s, activations::discard);
  CHECK(std::memcmp(copy.data(), discarded.data, copy.size() * sizeof(double)) == 0);
}

TEST_CASE("trunk: counted operations are those of the products, future keys left out") {
  decoder_trunk<float> trunk(options, 1, nullptr);
  sequences const s = test::random_sequences({5}, 11, 2);
  (void)trunk.forward(s, activations::discard);
  double const weights = 8.0 * 16 + 8 * 8 + 3 * 8 * 12;                      // per layer: qkv, out, gate, up, down
  double const expected = 3.0 * (2.0 * 5 * weights + 4.0 * 8 * (5 * 6 / 2));  // 15 pairs of query and key
  CHECK(trunk.flops() == expected);
}

TEST_CASE("trunk: a batch that shrinks and grows reuses buffers without stale values") {
  decoder_trunk<double> trunk(options, 4, nullptr), fresh(options, 4, nullptr);
  sequences const big = test::random_sequences({150, 20}, 11, 3), small = test::random_sequences({6}, 11, 5);
  std::vector<double> ones(big.total_tokens() * options.dim, 1.0);
  auto const pass = [&](decoder_trunk<double>& t, sequences const& s) {
    (void)t.forward(s, activations::keep);
    t.backward(s, as_matrix<double const>(ones.data(), s.total_tokens(), options.dim));
  };
  pass(trunk, big);
  for (auto const& p : trunk.store().parameters()) std::ranges::fill(p.gradient, 0.0);
  pass(trunk, small);
  pass(fresh, small);
  for (std::size_t i = 0; i < fresh.store().parameters().size(); ++i)
    CHECK(std::ranges::equal(fresh.store().parameters()[i].gradient, trunk.store().parameters()[i].gradient));
}
