// SPDX-License-Identifier: MIT
#include <attune/device/row_packs.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/storage.hpp>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;

namespace {

constexpr std::size_t longest = 70;

/// A row that begins `shift` elements behind an address that is a multiple of sixteen, among elements that are no row's.
template <class S>
struct shifted_row {
  static constexpr float around = 99.0f;
  alignas(16) S memory[longest + 4 * pack<S>::size];
  S* row;
  std::size_t count;

  /// row[v] = v + 1
  shifted_row(std::size_t shift, std::size_t n) : row(memory + pack<S>::size + shift), count(n) {
    std::fill(std::begin(memory), std::end(memory), S(around));
    for (std::size_t v = 0; v < n; ++v) row[v] = S(static_cast<float>(v + 1));
  }
  shifted_row(shifted_row const&) = delete;

  /// Whether row[v] is what f says and all else as it was.
  template <class F>
  bool holds(F const& f) const {
    bool all = true;
    for (S const& x : memory) {
      std::ptrdiff_t const v = &x - row;
      bool const inside = v >= 0 && v < static_cast<std::ptrdiff_t>(count);
      all = all && static_cast<float>(x) == (inside ? f(static_cast<std::size_t>(v)) : around);
    }
    return all;
  }
};

/// What lies before the first pack, in packs, and behind them.
struct division {
  std::size_t before, packs, behind;
};

template <class S>
division divided(S const* row, std::size_t count) {
  std::size_t before = 0;
  while (before < count && reinterpret_cast<std::uintptr_t>(row + before) % 16 != 0) ++before;
  std::size_t const packs = (count - before) / pack<S>::size;
  return {before, packs, count - before - packs * pack<S>::size};
}

/// Every misalignment, every length up to `longest`.
template <class S, class F>
void for_all_rows(F const& f) {
  for (std::size_t shift = 0; shift < pack<S>::size; ++shift)
    for (std::size_t count = 0; count <= longest; ++count) {
      INFO("shift ", shift, ", count ", count);
      f(shift, count);
    }
}

/// Loads or stores of a row that is moved once: a pack in one access of sixteen bytes, all else one by one.
template <class S>
void check_traffic(engine::traffic const& of, division const& d) {
  CHECK(of.accesses[16] == d.packs);
  CHECK(of.accesses[sizeof(S)] == d.before + d.behind);
}

}  // namespace

TEST_CASE_TEMPLATE("row_packs: a row is read once, each element by one thread, aligned packs in one access", S, float, bf16, f16) {
  for_all_rows<S>([](std::size_t shift, std::size_t count) {
    shifted_row<S> const x(shift, count);
    division const d = divided(x.row, count);
    CHECK(device::elements_before_packs(x.row, count) == d.before);

    std::vector<int> visits(count, 0), seen(longest + 1, 0);
    std::vector<std::size_t> singles(32), whole(32), wrong(32);  // of each thread
    engine::report const indexed = engine::run({.threads = 32}, [&](auto const& block) {
      device::read_indexed_row(block, x.row, count, [&](std::size_t v, float value) {
        if (v < count && value == static_cast<float>(v + 1))
          ++visits[v];
        else
          ++wrong[block.thread()];
      });
    });
    CHECK(visits == std::vector<int>(count, 1));
    check_traffic<S>(indexed.loads, d);

    engine::report const plain = engine::run({.threads = 32}, [&](auto const& block) {
      device::read_row(block, x.row, count, [&]<std::size_t n>(float(&values)[n]) {
        ++(n == 1 ? singles : whole)[block.thread()];
        for (std::size_t k = 0; k < n; ++k) {
          ++seen[static_cast<std::size_t>(values[k])];
          if (values[k] != values[0] + static_cast<float>(k)) ++wrong[block.thread()];  // not side by side
        }
      });
    });
    auto const in_all = [](std::vector<std::size_t> const& of) { return std::accumulate(of.begin(), of.end(), std::size_t{0}); };
    CHECK(in_all(wrong) == 0);
    CHECK(in_all(singles) == d.before + d.behind);
    CHECK(in_all(whole) == d.packs);
    CHECK(seen[0] == 0);
    CHECK(std::all_of(seen.begin() + 1, seen.begin() + 1 + static_cast<std::ptrdiff_t>(count), [](int n) { return n == 1; }));
    CHECK(std::all_of(seen.begin() + 1 + static_cast<std::ptrdiff_t>(count), seen.end(), [](int n) { return n == 0; }));
    check_traffic<S>(plain.loads, d);
  });
}

TEST_CASE_TEMPLATE("row_packs: map_row in place and from any alignment to any other", S, float, bf16, f16) {
  auto const twice_and_index = [](std::size_t v, float x) { return x + static_cast<float>(v); };
  auto const mapped = [](std::size_t v) { return static_cast<float>(2 * v + 1); };
  for_all_rows<S>([&](std::size_t shift, std::size_t count) {
    shifted_row<S> both(shift, count);
    division const d = divided(both.row, count);
    engine::report const in_place = engine::run(
        {.threads = 32, .order = engine::schedule::reverse},
        [&](auto const& block) { device::map_row(block, both.row, both.row, count, twice_and_index); });
    CHECK(both.holds(mapped));
    check_traffic<S>(in_place.loads, d);
    check_traffic<S>(in_place.stores, d);

    for (std::size_t const other : {shift, (shift + 1) % pack<S>::size, (shift + pack<S>::size / 2) % pack<S>::size}) {
      shifted_row<S> const in(shift, count);
      shifted_row<S> out(other, count);
      engine::report const apart = engine::run(
          {.threads = 32}, [&](auto const& block) { device::map_row(block, in.row, out.row, count, twice_and_index); });
      CHECK(in.holds([](std::size_t v) { return static_cast<float>(v + 1); }));
      CHECK(out.holds(mapped));
      check_traffic<S>(apart.loads, d);
      check_traffic<S>(apart.stores, other == shift ? d : division{count, 0, 0});
    }
  });
}

TEST_CASE_TEMPLATE("row_packs: two rows side by side, each alignment beside each", S, float, bf16, f16) {
  for_all_rows<S>([](std::size_t shift, std::size_t count) {
    for (std::size_t const other : {shift, (shift + 1) % pack<S>::size, (shift + pack<S>::size / 2) % pack<S>::size}) {
      shifted_row<S> const x(shift, count), y(other, count);
      division const d = other == shift ? divided(x.row, count) : division{count, 0, 0};
      std::vector<int> seen(longest + 1, 0);
      std::vector<std::size_t> wrong(32);
      engine::report const r = engine::run({.threads = 32}, [&](auto const& block) {
        device::read_two_rows(block, x.row, y.row, count, [&]<std::size_t n>(float(&a)[n], float(&b)[n]) {
          for (std::size_t k = 0; k < n; ++k) {
            ++seen[static_cast<std::size_t>(a[k])];
            if (a[k] != b[k]) ++wrong[block.thread()];
          }
        });
      });
      CHECK(std::accumulate(wrong.begin(), wrong.end(), std::size_t{0}) == 0);
      for (std::size_t v = 0; v <= longest; ++v) CHECK(seen[v] == (v >= 1 && v <= count ? 1 : 0));
      check_traffic<S>(r.loads, {2 * d.before, 2 * d.packs, 2 * d.behind});

      for (bool const first : {false, true}) {  // which of the two is aligned otherwise than the sum
        shifted_row<S> sum(shift, count);
        engine::report const added = engine::run({.threads = 32}, [&](auto const& block) {
          device::add_of_two_rows(block, first ? y.row : x.row, first ? x.row : y.row, sum.row, count,
                                  [](float a, float b) { return a - 2.0f * b; });
        });
        CHECK(sum.holds([](std::size_t) { return 0.0f; }));
        check_traffic<S>(added.stores, d);
      }
    }
  });
}

TEST_CASE_TEMPLATE("row_packs: convert_row stores what a narrower type has and what it leaves, each alignment beside each", D, bf16, f16) {
  static constexpr float little = 0x1p-12f;  // below the last place of D
  for_all_rows<D>([&](std::size_t shift, std::size_t count) {
    for (std::size_t const in_shift : {shift % pack<float>::size, (shift + 1) % pack<float>::size})
      for (std::size_t const rest_shift : {shift, (shift + 1) % pack<D>::size}) {
        shifted_row<float> const in(in_shift, count);
        shifted_row<D> out(shift, count), rest(rest_shift, count);
        for (bool const with_rest : {true, false}) {
          engine::report const r = engine::run({.threads = 32}, [&](auto const& block) {
            device::convert_row(block, static_cast<float const*>(in.row), out.row, with_rest ? rest.row : nullptr, count,
                                [](std::size_t v, float x) { return x + static_cast<float>(v) + little; });
          });
          division const d = divided(out.row, count);
          bool const alike = reinterpret_cast<std::uintptr_t>(in.row + d.before) % 16 == 0 && (!with_rest || rest_shift == shift);
          CHECK(out.holds([](std::size_t v) { return static_cast<float>(2 * v + 1); }));
          CHECK(rest.holds([](std::size_t) { return little; }));
          check_traffic<D>(r.stores, {(with_rest ? 2 : 1) * (alike ? d.before : count), alike ? (with_rest ? 2 : 1) * d.packs : 0,
                                      (with_rest ? 2 : 1) * (alike ? d.behind : 0)});
        }
      }
  });
}

TEST_CASE_TEMPLATE("row_packs: fill_row writes the row and nothing beside it", S, float, bf16, f16) {
  for_all_rows<S>([](std::size_t shift, std::size_t count) {
    shifted_row<S> x(shift, count);
    engine::report const r = engine::run(
        {.threads = 32}, [&](auto const& block) { device::fill_row(block, x.row, count, S(-3.0f)); });
    CHECK(x.holds([](std::size_t) { return -3.0f; }));
    CHECK(r.loads.bytes == 0);
    check_traffic<S>(r.stores, divided(x.row, count));
  });
}

TEST_CASE("row_packs: a row of more packs than threads, and threads in any order") {
  constexpr std::size_t count = 1003;
  std::vector<float> memory(count + 4);
  std::size_t const past = reinterpret_cast<std::uintptr_t>(memory.data()) % 16 / sizeof(float);
  float* const row = memory.data() + (past == 0 ? 1 : 0);  // not at a pack's beginning
  for (unsigned const threads : {32u, 96u})
    for (launch_options const& options : engine::schedules({.threads = threads})) {
      std::vector<int> visits(count, 0);
      engine::run(options, [&](auto const& block) {
        device::read_indexed_row(block, row, count, [&](std::size_t v, float) { ++visits[v]; });
      });
      CHECK(visits == std::vector<int>(count, 1));
      engine::run(options, [&](auto const& block) { device::fill_row(block, row, count, 2.0f); });
      engine::run(options, [&](auto const& block) {
        device::map_row(block, row, row, count, [](std::size_t v, float x) { return x * static_cast<float>(v); });
      });
      bool mapped = true;
      for (std::size_t v = 0; v < count; ++v) mapped = mapped && row[v] == 2.0f * static_cast<float>(v);
      CHECK(mapped);
    }
}
