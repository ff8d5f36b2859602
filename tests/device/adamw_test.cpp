// SPDX-License-Identifier: MIT
#include <attune/device/adamw.hpp>

#include <cstddef>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>
#include <attune/core/storage.hpp>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;

TEST_CASE_TEMPLATE("adamw: the bits of adamw_update, with a copy and without, aligned and not", S, float, bf16, f16) {
  adamw_update<float> const update{.beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1e-8f, .step_size = 0.01f, .second_scale = 3.0f,
                                   .decay = 0.999f, .gradient_scale = 0.5f};
  for (std::size_t const count : {1u, 7u, 1029u})
    for (std::size_t const shift : {0u, 1u}) {
      std::size_t const size = count + shift + 3;
      random_stream random(count);
      std::vector<float> value(size), first(size), second(size);
      std::vector<S> gradient(size);
      for (std::size_t i = 0; i < size; ++i) {
        value[i] = static_cast<float>(random.normal());
        first[i] = static_cast<float>(random.normal());
        second[i] = static_cast<float>(random.uniform());
        gradient[i] = S(static_cast<float>(random.normal()));
      }
      auto expected_value = value, expected_first = first, expected_second = second;
      for (std::size_t i = shift; i < shift + count; ++i)
        update(expected_value[i], static_cast<float>(gradient[i]), expected_first[i], expected_second[i]);
      for (launch_options const& options : engine::schedules({.blocks = 2, .threads = 64})) {
        auto v = value, m = first, s = second;
        std::vector<S> copy(size, S(9.0f));
        device::adamw<S> const body{update, count, v.data() + shift, gradient.data() + shift, m.data() + shift,
                                    s.data() + shift, copy.data() + shift};
        auto const r = engine::run(options, body);
        CHECK(v == expected_value);
        CHECK(m == expected_first);
        CHECK(s == expected_second);
        for (std::size_t i = 0; i < size; ++i)
          CHECK(static_cast<float>(copy[i]) ==
                static_cast<float>(i < shift || i >= shift + count ? S(9.0f) : S(expected_value[i])));
        CHECK(r.loads.bytes == count * (12 + sizeof(S)));
        CHECK(r.stores.bytes == count * (12 + sizeof(S)));
        CHECK((r.loads.accesses[16] > 0) == (shift == 0 && count >= 16 / sizeof(S)));
      }
      auto v = value, m = first, s = second;
      engine::run({.threads = 32}, device::adamw<S>{update, count, v.data() + shift, gradient.data() + shift,
                                                    m.data() + shift, s.data() + shift});
      CHECK(v == expected_value);
    }
}
