// SPDX-License-Identifier: MIT
#include <attune/model/decoder_weights.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <set>
#include <string>

using namespace attune;

namespace {
// Neither dim nor hidden is a multiple of a cache line.
decoder_options const options{.vocabulary = 7, .dim = 12, .layers = 2, .heads = 3, .kv_heads = 1, .hidden = 5, .window = 8};

tensor_store<float> make_store() {
  tensor_store<float> store;
  (void)add_decoder_weights(store, options);
  store.allocate();
  return store;
}
}  // namespace

TEST_CASE("decoder weights: names are unique, and shapes are those of Meta's Llama files") {
  tensor_store<float> store = make_store();
  std::set<std::string> names;
  std::size_t elements = 0;
  for (auto const& p : store.parameters()) {
    CHECK(names.insert(std::string(p.name)).second);
    CHECK(p.value.size() == p.shape[0] * p.shape[1]);
    CHECK(p.gradient.size() == p.value.size());
    elements += p.value.size();
  }
  CHECK(names.size() == 2 + 2 * 9);
  CHECK(elements == store.parameter_count());
  auto const shape_of = [&](std::string_view name) {
    for (auto const& p : store.parameters())
      if (p.name == name) return p.shape;
    return std::array<std::size_t, 2>{};
  };
  CHECK(shape_of("layers.1.attention.wk.weight") == std::array<std::size_t, 2>{4, 12});
  CHECK(shape_of("layers.0.feed_forward.w2.weight") == std::array<std::size_t, 2>{12, 5});
}

TEST_CASE("decoder weights: q, k and v are rows of one matrix, gate and up of another, and nothing overlaps") {
  tensor_store<float> store;
  decoder_weights<float> const w = add_decoder_weights(store, options);
  store.allocate();
  float value = 0.0f;
  for (auto const& p : store.parameters())
    for (float& v : p.value) v = value += 1.0f;
  float expected = 0.0f;
  for (auto const& p : store.parameters())
    for (float const v : p.value) CHECK(v == (expected += 1.0f));
  auto const wqkv = store.value(w.layers[0].wqkv);
  CHECK(wqkv.rows == 20);
  CHECK(wqkv(12, 0) == store.parameters()[3].value[0]);  // wk follows wq
  CHECK(wqkv(16, 0) == store.parameters()[4].value[0]);
  CHECK(store.value(w.layers[1].w13)(5, 0) == store.parameters()[2 + 9 + 6].value[0]);
}

TEST_CASE("decoder weights: addresses are stable over calls and moves, and a copy owns its own") {
  tensor_store<float> store = make_store();
  float* const before = store.parameters()[5].value.data();
  tensor_store<float> moved = std::move(store);
  CHECK(moved.parameters()[5].value.data() == before);
  CHECK(moved.parameters()[5].name == "layers.0.attention.wo.weight");
  moved.parameters()[5].gradient[0] = 3.0f;
  tensor_store<float> copy = moved;
  CHECK(copy.parameters()[5].value.data() != before);
  CHECK(copy.parameters()[5].gradient[0] == 0.0f);
}

TEST_CASE("decoder weights: initial values have the stated deviations, gains are 1, and the seed decides") {
  decoder_options o = options;
  o.dim = 96;
  o.vocabulary = 200;
  tensor_store<double> a, b;
  (void)add_decoder_weights(a, o);
  (void)add_decoder_weights(b, o);
  a.allocate();
  b.allocate();
  initialize(a, o, 1);
  initialize(b, o, 1);
  for (std::size_t i = 0; i < a.parameters().size(); ++i)
    CHECK(std::ranges::equal(a.parameters()[i].value, b.parameters()[i].value));
  auto const deviation = [](std::span<double const> values) {
    double sum = 0.0;
    for (double const v : values) sum += v * v;
    return std::sqrt(sum / static_cast<double>(values.size()));
  };
  double const expected = std::sqrt(2.0 / (5.0 * 96.0));
  CHECK(deviation(a.parameters()[0].value) == doctest::Approx(expected).epsilon(0.03));
  CHECK(deviation(a.parameters()[5].value) == doctest::Approx(expected / 2.0).epsilon(0.03));  // wo, two layers
  CHECK(deviation(a.parameters()[1].value) == 1.0);
  initialize(b, o, 2);
  CHECK_FALSE(std::ranges::equal(a.parameters()[0].value, b.parameters()[0].value));
}
