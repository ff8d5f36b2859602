// SPDX-License-Identifier: MIT
#include <attune/model/decoder_options.hpp>

#include <doctest/doctest.h>

using namespace attune;

TEST_CASE("decoder options: metadata round-trips every field") {
  decoder_options const o{.vocabulary = 260, .dim = 96, .layers = 3, .heads = 6, .kv_heads = 2, .hidden = 256, .window = 700,
                          .rope_theta = 12345.6789, .norm_epsilon = 1.5e-6, .tied = false};
  CHECK(decoder_options_from(to_metadata(o)) == o);
}

TEST_CASE("decoder options: a missing or malformed field of the metadata is named") {
  auto metadata = to_metadata(decoder_options{.vocabulary = 260});
  metadata["dim"] = "12x";
  CHECK_THROWS_WITH_AS((void)decoder_options_from(metadata), "model metadata: field \"dim\" is not a number: \"12x\"", data_error);
  metadata.erase("dim");
  CHECK_THROWS_WITH_AS((void)decoder_options_from(metadata), "model metadata: field \"dim\" is missing", data_error);
  metadata["architecture"] = "gpt2";
  CHECK_THROWS_WITH_AS((void)decoder_options_from(metadata), "model metadata: architecture \"gpt2\" is not \"attune.decoder\"", data_error);
}

TEST_CASE("decoder options: every field out of range is named with its value") {
  auto const refuses = [](auto change, char const* message) {
    decoder_options o{.vocabulary = 10};
    change(o);
    CHECK_THROWS_WITH_AS(validate(o), message, contract_violation);
  };
  CHECK_NOTHROW(validate(decoder_options{.vocabulary = 10}));
  refuses([](auto& o) { o.vocabulary = 0; }, "expected decoder_options.vocabulary >= 1, got 0");
  refuses([](auto& o) { o.layers = 0; }, "expected decoder_options.layers >= 1, got 0");
  refuses([](auto& o) { o.dim = 12; }, "expected decoder_options.dim a multiple of 2 * heads, got 12");
  refuses([](auto& o) { o.dim = 0; }, "expected decoder_options.dim a multiple of 2 * heads, got 0");
  refuses([](auto& o) { o.kv_heads = 3; }, "expected decoder_options.kv_heads divides heads, got 3");
  refuses([](auto& o) { o.hidden = 0; }, "expected decoder_options.hidden >= 1, got 0");
  refuses([](auto& o) { o.window = 1; }, "expected decoder_options.window >= 2, got 1");
  refuses([](auto& o) { o.rope_theta = 0.0; }, "expected decoder_options.rope_theta > 0, got 0");
  refuses([](auto& o) { o.norm_epsilon = -1.0; }, "expected decoder_options.norm_epsilon > 0, got -1");
}
