// SPDX-License-Identifier: MIT
#include <attune/core/function_ref.hpp>

#include <doctest/doctest.h>

#include <memory>
#include <type_traits>
#include <utility>

#include "support/allocations.hpp"

using namespace attune;

namespace {
int twice(int x) { return 2 * x; }
int call(function_ref<int(int)> f, int x) { return f(x); }

struct counter {
  int calls = 0;
  int operator()(int x) { return ++calls, x; }
};
}  // namespace

TEST_CASE("function_ref: calls lambdas, function objects, functions and pointers to them") {
  int const offset = 10;
  CHECK(call([&](int x) { return x + offset; }, 1) == 11);
  CHECK(call(twice, 4) == 8);
  CHECK(call(&twice, 5) == 10);
  auto const constant = [](int x) { return x - 1; };
  CHECK(call(constant, 3) == 2);
}

TEST_CASE("function_ref: refers to the callable and does not copy it") {
  counter c;
  function_ref<int(int)> const f = c;
  f(1);
  function_ref<int(int)> const copy = f;  // refers to c, not to f
  copy(2);
  CHECK(c.calls == 2);
}

TEST_CASE("function_ref: passes references and what can only be moved, and drops a result nobody asked for") {
  auto taken = [](std::unique_ptr<int> p, int& out) { out = *p; };
  function_ref<void(std::unique_ptr<int>, int&)> const f = taken;
  int out = 0;
  f(std::make_unique<int>(7), out);
  CHECK(out == 7);
  counter c;
  function_ref<void(int)> const ignored = c;
  ignored(1);
  CHECK(c.calls == 1);
}

TEST_CASE("function_ref: is two pointers, allocates nothing, and takes only what can be called so") {
  double big[64] = {1.5};
  std::size_t const before = allocations();
  auto const f = [big](int i) { return static_cast<int>(2 * big[i]); };
  CHECK(call(f, 0) == 3);
  CHECK(allocations() == before);
  static_assert(sizeof(function_ref<int(int)>) == 2 * sizeof(void*));
  static_assert(std::is_trivially_copyable_v<function_ref<int(int)>>);
  static_assert(!std::is_constructible_v<function_ref<int(int)>, int (*)(char const*)>);
  static_assert(!std::is_constructible_v<function_ref<int(int)>, int>);
}
