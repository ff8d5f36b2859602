// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <attune/concepts/optimizer.hpp>
#include <attune/core/random.hpp>
#include <attune/testing/broken_law.hpp>
#include <attune/testing/differentiable_laws.hpp>

namespace attune::testing {

/// Laws of Optimizer: "zeroes" (no gradient is left after step and zero_gradient), "moves" (a step with a gradient and
/// a rate changes something), "rate 0" (parameters keep their bits), "repeatable" (equal state and gradients give equal
/// bits), "state" (visit_state holds all of it: a fresh optimiser given the bytes goes on in the same bits), "not
/// finite" (such a gradient changes neither parameters nor state, and is reported), "norm" (grad_norm is the global L2
/// norm), "clips" (gradients that clip to the same thing give the same step within rounding).
///
///   check_optimizer_laws(model, [] { return adamw<float>({.weight_decay = 0.1}); });
///
/// `model` is copied, deep copies expected; its parameters must be in host memory. `make()` gives a fresh optimiser.
template <class Model, class Make>
  requires Optimizer<decltype(std::declval<Make&>()()), Model>
[[nodiscard]] std::vector<broken_law> check_optimizer_laws(Model const& model, Make make, std::uint64_t seed = 1) {
  using scalar = typename Model::scalar;
  using bytes = std::vector<std::vector<std::byte>>;
  law_book book;
  auto const fill = [&](Model& m, std::uint64_t stream, double scale = 1.0) {
    random_stream random(seed, stream);
    double squares = 0.0;
    for (auto&& p : m.parameters())
      for (scalar& g : p.gradient) {
        g = static_cast<scalar>(random.normal() * scale);
        squares += static_cast<double>(g) * static_cast<double>(g);
      }
    return std::sqrt(squares);
  };
  auto const state = [](auto& optimizer, Model& m) {
    bytes all;
    optimizer.visit_state(
        m, [&](std::string_view, std::span<std::byte> piece) { all.emplace_back(piece.begin(), piece.end()); });
    return all;
  };
  auto const restore = [](auto& optimizer, Model& m, bytes const& all) {
    std::size_t i = 0;
    optimizer.visit_state(m, [&](std::string_view, std::span<std::byte> piece) {
      if (i < all.size() && all[i].size() == piece.size() && !piece.empty())
        std::memcpy(piece.data(), all[i].data(), piece.size());
      ++i;
    });
  };
  auto const same = [](std::vector<scalar> const& a, std::vector<scalar> const& b) {
    return same_bits(std::span<scalar const>(a), std::span<scalar const>(b));
  };
  auto const no_gradient = [&](Model& m) {
    for (scalar const g : copied_gradients(m))
      if (g != scalar(0)) return false;
    return true;
  };
  optimizer_step const step{.learning_rate = 0.01};

  Model a = model;
  auto first = make();
  double const norm = fill(a, 0);
  std::vector<scalar> const start = copied_values(a);
  optimizer_report const report = first.step(a, step);
  book.expect(report.finite, "not finite", "a finite gradient was reported as not finite");
  book.expect(std::abs(report.grad_norm - norm) <= 1e-5 * norm, "norm",
              "reported " + std::to_string(report.grad_norm) + ", is " + std::to_string(norm));
  book.expect(!same(copied_values(a), start), "moves", "a step left every parameter as it was");
  book.expect(no_gradient(a), "zeroes", "after step a gradient is not zero");
  fill(a, 1);
  std::vector<scalar> const before_zeroing = copied_values(a);
  first.zero_gradient(a);
  book.expect(no_gradient(a), "zeroes", "after zero_gradient a gradient is not zero");
  book.expect(same(copied_values(a), before_zeroing), "zeroes", "zero_gradient changed a parameter");

  // A second optimiser on a second model, by the same steps or by the first one's state.
  Model b = model;
  auto second = make();
  fill(b, 0);
  second.step(b, step);
  Model c = a;
  auto third = make();
  restore(third, c, state(first, a));
  for (std::uint64_t i = 2; i < 5; ++i) {
    fill(a, i), fill(b, i), fill(c, i);
    first.step(a, step), second.step(b, step), third.step(c, step);
  }
  book.expect(same(copied_values(a), copied_values(b)), "repeatable", "the same steps gave other bits");
  book.expect(same(copied_values(a), copied_values(c)), "state", "a restored optimiser went on in other bits");

  std::vector<scalar> const values = copied_values(a);
  fill(a, 6);
  first.step(a, {.learning_rate = 0.0});
  book.expect(same(copied_values(a), values), "rate 0", "a parameter changed its bits");
  Model zeros = model;  // -0 is the value that a stray "- 0" shows in
  for (auto&& p : zeros.parameters())
    for (scalar& v : p.value) v = -scalar(0);
  std::vector<scalar> const minus_zero = copied_values(zeros);
  auto idle = make();
  fill(zeros, 9);
  idle.step(zeros, {.learning_rate = 0.0});
  book.expect(same(copied_values(zeros), minus_zero), "rate 0", "a parameter of -0 changed its sign");

  for (scalar const poison : {std::numeric_limits<scalar>::quiet_NaN(), std::numeric_limits<scalar>::infinity()}) {
    bytes const kept = state(first, a);
    fill(a, 7);
    for (auto&& p : a.parameters()) {
      p.gradient.back() = poison;
      break;
    }
    optimizer_report const refused = first.step(a, step);
    book.expect(!refused.finite, "not finite", "a gradient of " + std::to_string(poison) + " was not reported");
    book.expect(same(copied_values(a), values), "not finite", "a parameter was changed");
    book.expect(state(first, a) == kept, "not finite", "the optimiser's state was changed");
    book.expect(no_gradient(a), "zeroes", "after a refused step a gradient is not zero");
  }

  Model d = model, e = model;
  auto fourth = make(), fifth = make();
  fill(d, 8, 10.0), fill(e, 8, 20.0);
  fourth.step(d, {.learning_rate = 0.01, .max_grad_norm = 0.5});
  fifth.step(e, {.learning_rate = 0.01, .max_grad_norm = 0.5});
  std::vector<scalar> const x = copied_values(d), y = copied_values(e);
  double const apart = largest_difference(std::span<scalar const>(x), std::span<scalar const>(y));
  book.expect(apart <= model_tolerance<scalar>, "clips",
              "two gradients of one direction, clipped to one norm, end " + std::to_string(apart) + " apart");
  return std::move(book).broken();
}

}  // namespace attune::testing
