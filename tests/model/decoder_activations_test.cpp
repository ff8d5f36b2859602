// SPDX-License-Identifier: MIT
#include <attune/model/decoder_activations.hpp>

#include <doctest/doctest.h>

#include "../support/random_sequences.hpp"

using namespace attune;

namespace {
decoder_options const options{.vocabulary = 11, .dim = 8, .layers = 3, .heads = 2, .kv_heads = 1, .hidden = 12, .window = 200};
}

TEST_CASE("activations: padding rows are zero even after a larger batch left values there") {
  decoder_activations<float> w;
  sequences const large = test::random_sequences({40, 3}, 11, 1), small = test::random_sequences({5}, 11, 2);
  w.prepare(large, options, activations::keep, 1);
  w.prepare_backward(options);
  for (auto* m : {&w.layers[0].x, &w.layers[2].attended, &w.d_qkv}) std::fill(m->span().begin(), m->span().end(), 7.0f);
  w.prepare(small, options, activations::keep, 1);
  w.prepare_backward(options);
  CHECK(w.tokens == 5);
  CHECK(w.rows == 8);
  for (std::size_t i = 5 * 8; i < 8 * 8; ++i) {
    CHECK(w.layers[0].x[i] == 0.0f);
    CHECK(w.layers[2].attended[i] == 0.0f);
  }
  for (std::size_t i = 5 * qkv_width(options); i < 8 * qkv_width(options); ++i) CHECK(w.d_qkv[i] == 0.0f);
}

TEST_CASE("activations: a pass that keeps nothing has one layer's memory") {
  decoder_activations<float> w;
  w.prepare(test::random_sequences({40, 3}, 11, 1), options, activations::discard, 1);
  CHECK(w.layers.size() == 1);
}

TEST_CASE("activations: positions count from each sequence's start") {
  decoder_activations<float> w;
  w.prepare(test::random_sequences({3, 1, 2}, 11, 1), options, activations::keep, 2);
  CHECK(w.position == std::vector<std::uint32_t>{0, 1, 2, 0, 0, 1, 0, 0});
}

TEST_CASE("activations: gain gradients of blocks are added in order and cleared") {
  decoder_activations<double> w;
  sequences const s = test::random_sequences({150}, 11, 1);
  w.prepare(s, options, activations::keep, 1);
  w.prepare_backward(options);
  w.gain_partial(0, 8)[3] = 1.5;
  w.gain_partial(128, 8)[3] = 2.0;
  std::vector<double> gradient(8, 1.0);
  w.reduce_gain(gradient.data(), 8);
  CHECK(gradient[3] == 4.5);
  CHECK(gradient[2] == 1.0);
  w.reduce_gain(gradient.data(), 8);
  CHECK(gradient[3] == 4.5);
}
