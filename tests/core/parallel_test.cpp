// SPDX-License-Identifier: MIT
#include <attune/core/parallel.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <latch>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/allocations.hpp"

using namespace attune;

TEST_CASE("thread_pool: runs every task once, each by a worker of the pool") {
  for (std::size_t const threads : {1u, 2u, 5u}) {
    thread_pool pool(threads);
    CHECK(pool.threads() == threads);
    for (std::size_t const count : {0u, 1u, 2u, 1000u}) {
      std::vector<std::atomic<int>> runs(count);
      std::atomic<bool> known_worker = true;
      pool.for_each(count, [&](std::size_t index, std::size_t worker) {
        ++runs[index];
        if (worker >= threads) known_worker = false;
      });
      CHECK(known_worker);
      for (auto const& n : runs) CHECK(n == 1);
    }
  }
}

TEST_CASE("thread_pool: 0 threads means the machine's, one at least") { CHECK(thread_pool(0).threads() >= 1); }

TEST_CASE("thread_pool: tasks run side by side") {
  thread_pool pool(3);
  std::latch together(3);  // would never open if one thread ran the tasks in turn
  pool.for_each(3, [&](std::size_t, std::size_t) { together.arrive_and_wait(); });
  CHECK(together.try_wait());
}

TEST_CASE("thread_pool: a worker's index is its own, so scratch memory under it is private") {
  thread_pool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> shared = false;
  pool.for_each(2000, [&](std::size_t, std::size_t worker) {
    if (inside[worker].fetch_add(1) != 0) shared = true;
    inside[worker].fetch_sub(1);
  });
  CHECK_FALSE(shared);
}

TEST_CASE("thread_pool: results whose tasks depend on their number alone are the same bits for any number of threads") {
  auto const run = [](std::size_t threads) {
    thread_pool pool(threads);
    std::vector<double> results(500), scratch(threads);
    pool.for_each(results.size(), [&](std::size_t i, std::size_t worker) {
      scratch[worker] = 0;
      for (std::size_t k = 1; k <= 100; ++k)
        scratch[worker] += std::sin(static_cast<double>(i * k)) / static_cast<double>(k);
      results[i] = scratch[worker];
    });
    return results;
  };
  auto const alone = run(1);
  CHECK(run(2) == alone);
  CHECK(run(7) == alone);
}

TEST_CASE("thread_pool: an exception reaches the caller, the tasks not begun are skipped, and the pool works on") {
  for (std::size_t const threads : {1u, 2u, 4u}) {
    thread_pool pool(threads);
    for (int round = 0; round < 50; ++round) {
      std::atomic<std::size_t> ran = 0;
      auto const fail_at_three = [&](std::size_t i, std::size_t) {
        ++ran;
        if (i == 3) throw std::runtime_error("task 3");
        // Slow enough that the rest outlasts any pause of the thread that throws.
        if (i > 3) std::this_thread::sleep_for(std::chrono::microseconds(50));
      };
      CHECK_THROWS_WITH_AS(pool.for_each(100000, fail_at_three), "task 3", std::runtime_error);
      CHECK(ran < 100000);
      std::atomic<std::size_t> after = 0;
      pool.for_each(10, [&](std::size_t, std::size_t) { ++after; });
      CHECK(after == 10);
    }
  }
}

TEST_CASE("thread_pool: when every task throws, one exception arrives") {
  thread_pool pool(4);
  auto const fail = [](std::size_t i, std::size_t) { throw std::runtime_error(std::to_string(i)); };
  CHECK_THROWS_AS(pool.for_each(64, fail), std::runtime_error);
}

TEST_CASE("thread_pool: many short rounds lose no task") {
  thread_pool pool(3);
  std::atomic<std::uint64_t> sum = 0;
  for (std::uint64_t round = 0; round < 3000; ++round)
    pool.for_each(2 + round % 5, [&](std::size_t i, std::size_t) { sum += i + 1; });
  CHECK(sum == 600 * (3 + 6 + 10 + 15 + 21));
}

TEST_CASE("thread_pool: for_each allocates nothing") {
  thread_pool pool(2);
  std::atomic<int> ran = 0;
  pool.for_each(10, [&](std::size_t, std::size_t) { ++ran; });
  std::size_t const before = allocations();
  for (int i = 0; i < 100; ++i) pool.for_each(10, [&](std::size_t, std::size_t) { ++ran; });
  CHECK(allocations() == before);
}
