// SPDX-License-Identifier: MIT
//
// The engine that runs kernel bodies: that it computes what a device would, and that it reports what it is there to report.
#include <attune/device/thread_block.hpp>

#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/storage.hpp>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;
using engine::schedule;

static_assert(sizeof(pack<float>) == 16 && pack<float>::size == 4 && pack<bf16>::size == 8 && alignof(pack<f16>) == 16);

namespace {

struct no_barrier {
  static constexpr unsigned warp_size = 32;
  unsigned thread() const;
};
static_assert(!ThreadBlock<no_barrier>);

/// Sums of n numbers a block, through shared memory: wrong in the ways that a test asks for.
struct block_sum {
  float const* values;
  float* out;
  unsigned rows = 1;
  unsigned skipped_lanes = 0;  // a wrong mask: this step of the tree is left out

  template <ThreadBlock B>
  void operator()(B const& block) const {
    struct scratch {
      float warp[32];
    };
    scratch& shared = block.template shared<scratch>();
    for (unsigned row = 0; row < rows; ++row) {
      float sum = block.load(values + row * block.threads() + block.thread());
      for (unsigned lanes = 16; lanes > 0; lanes /= 2)
        if (lanes != skipped_lanes) sum += block.shuffle_xor(sum, lanes);
      if (block.thread() % 32 == 0) shared.warp[block.thread() / 32] = sum;
      block.sync();
      float all = 0.0f;
      for (unsigned w = 0; w < block.threads() / 32; ++w) all += shared.warp[w];
      if (block.thread() == 0) block.store(out + row, all);
      block.sync();
    }
  }
};

template <class Body>
std::string violation_of(launch_options const& options, Body const& body) {
  engine::report const r = engine::launch(options, body);
  return r.violations.empty() ? "none" : r.violations.front();
}

bool contains(std::string const& text, char const* part) { return text.find(part) != std::string::npos; }

alignas(16) float numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};

}  // namespace

TEST_CASE("engine: shuffles, barriers and shared memory give the sum, in any order of threads") {
  for (unsigned const threads : {32u, 96u, 1024u}) {
    std::vector<float> values(3 * threads);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 19);
    for (launch_options const& options : engine::schedules({.threads = threads}, 3)) {
      float out[3] = {};
      engine::run(options, block_sum{values.data(), out, 3});
      for (unsigned row = 0; row < 3; ++row) {
        float expected = 0.0f;
        for (unsigned t = 0; t < threads; ++t) expected += values[row * threads + t];
        CHECK(out[row] == expected);
      }
      block_sum wrong{values.data(), out, 3, 8};
      engine::launch(options, wrong);
      CHECK(out[2] != 0.0f);
      float expected = 0.0f;
      for (unsigned t = 0; t < threads; ++t) expected += values[2 * threads + t];
      CHECK(out[2] != expected);
    }
  }
}

TEST_CASE("engine: both barriers of a sum that is taken twice are needed") {
  std::vector<float> values(4 * 64, 1.0f);
  float out[4];
  engine::check_barriers_needed({.threads = 64}, block_sum{values.data(), out, 4}, 2);
}

TEST_CASE("engine: blocks are not ordered, nor are threads by a shuffle") {
  if (!engine::finds_races()) return;
  float shared_by_all = 0.0f, seen = 0.0f;
  engine::site const nowhere = std::source_location::current();  // silent
  auto const races = [&](unsigned blocks, auto const& body) {
    return engine::launch({.blocks = blocks, .threads = 32, .without = nowhere}, body).races;
  };
  CHECK(races(2, [&](auto const& block) {
          if (block.thread() == 0) block.store(&shared_by_all, 1.0f);
        }) > 0);
  CHECK(races(1, [&](auto const& block) {
          if (block.thread() == 0) block.store(&shared_by_all, 1.0f);
        }) == 0);
  CHECK(races(1, [&](auto const& block) {
          if (block.thread() == 0) block.store(&shared_by_all, 1.0f);
          (void)block.shuffle_xor(1.0f, 1);
          if (block.thread() == 1) block.store(&seen, block.load(&shared_by_all));
        }) > 0);
  CHECK(races(1, [&](auto const& block) {
          if (block.thread() == 0) block.store(&shared_by_all, 1.0f);
          block.sync();
          if (block.thread() == 1) block.store(&seen, block.load(&shared_by_all));
        }) == 0);
}

TEST_CASE("engine: threads that wait at different barriers, or not at all") {
  auto const two = [](auto const& block) {
    if (block.thread() < 40) block.sync();
    else block.sync();
  };
  CHECK(contains(violation_of({.threads = 64}, two), "threads wait at different barriers"));
  std::string const text = violation_of({.threads = 64}, [](auto const& block) {
    if (block.thread() < 63) block.sync();
  });
  CHECK(contains(text, "threads wait at different barriers: thread 0 of block 0 waits at the barrier"));
  CHECK(contains(text, "thread_block_test.cpp:"));
  CHECK(contains(text, "thread 63 of block 0 has ended"));
}

TEST_CASE("engine: lanes that miss a shuffle, or are in another") {
  CHECK(contains(violation_of({.threads = 64}, [](auto const& block) {
                   if (block.thread() % 32 < 16) (void)block.shuffle_xor(1.0f, 1);
                 }), "a lane does not take part in a shuffle: thread 0"));
  CHECK(contains(violation_of({.threads = 64}, [](auto const& block) {
                   if (block.thread() == 33) block.sync();
                   else (void)block.shuffle_xor(1.0f, 1);
                 }), "thread 33 of block 0 waits at the barrier"));
  CHECK(contains(violation_of({.threads = 32}, [](auto const& block) {
                   (void)block.shuffle_xor(1.0f, block.thread() < 8 ? 1 : 2);
                 }), "lanes of a warp are in different shuffles"));
  CHECK(contains(violation_of({.threads = 32}, [](auto const& block) { (void)block.shuffle_xor(1.0f, 32); }),
                 "outside the warp"));
  CHECK(violation_of({.threads = 64}, [](auto const& block) {
          if (block.thread() >= 32) (void)block.shuffle_xor(1.0f, 1);  // a whole warp may
        }) == "none");
}

TEST_CASE("engine: a misaligned pack") {
  std::string const text = violation_of({.blocks = 2, .threads = 32}, [](auto const& block) {
    if (block.block() == 1 && block.thread() == 5) (void)block.load_pack(numbers + 1);
  });
  CHECK(contains(text, "misaligned access of 16 bytes by thread 5 of block 1"));
  CHECK(contains(text, "thread_block_test.cpp:"));
}

TEST_CASE("engine: shared memory is a block's own and holds NaN; blocks of 33 threads are refused") {
  std::vector<float> seen(2);
  engine::run({.blocks = 2, .threads = 32}, [&](auto const& block) {
    struct one {
      float x;
    };
    one& shared = block.template shared<one>();
    if (block.thread() != 0) return;
    block.store(&seen[block.block()], shared.x);
    shared.x = 1.0f;
  });
  CHECK(seen[0] != seen[0]);
  CHECK(seen[1] != seen[1]);
  CHECK(contains(violation_of({.threads = 33}, [](auto const&) {}), "whole warps"));
}

TEST_CASE("engine: traffic is counted by size; exp and log are a device's") {
  bf16 half[8] = {};
  auto const r = engine::run({.threads = 32}, [&](auto const& block) {
    if (block.thread() != 7) return;
    block.store_pack(numbers, block.load_pack(numbers + 4));
    block.store(half, block.load(half + 1));
  });
  CHECK(r.loads.bytes == 18);
  CHECK(r.loads.accesses[16] == 1);
  CHECK(r.stores.accesses[2] == 1);
  unsigned different = 0;
  engine::run({.threads = 32, .seed = 3}, [&](auto const& block) {
    if (block.thread() != 0) return;
    for (int i = -40; i < 40; ++i) {
      float const x = static_cast<float>(i) * 0.37f;
      different += block.exp(x) != std::exp(x);
      CHECK(std::abs(block.exp(x) / std::exp(x) - 1.0f) <= 3e-7f);
    }
    CHECK(block.exp(0.0f) == 1.0f);
    CHECK(block.exp(-std::numeric_limits<float>::infinity()) == 0.0f);
  });
  CHECK(different > 20);
}
