// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/parameter.hpp>
#include <attune/core/random.hpp>
#include <attune/testing/broken_law.hpp>

/// The laws that every model with parameters and a vector-Jacobian product shares, whatever its outputs are called.
namespace attune::testing {

/// All gradients of a model, copied end to end.
template <class Model>
[[nodiscard]] std::vector<typename Model::scalar> copied_gradients(Model& model) {
  std::vector<typename Model::scalar> all;
  for (auto&& p : model.parameters()) all.insert(all.end(), p.gradient.begin(), p.gradient.end());
  return all;
}

template <class Model>
[[nodiscard]] std::vector<typename Model::scalar> copied_values(Model& model) {
  std::vector<typename Model::scalar> all;
  for (auto&& p : model.parameters()) all.insert(all.end(), p.value.begin(), p.value.end());
  return all;
}

template <class Model>
void clear_gradients(Model& model) {
  for (auto&& p : model.parameters())
    for (auto& g : p.gradient) g = 0;
}

/// Laws "linear", "exact", "accumulates", "stable" and "ask throws".
///
///   outputs()                -> std::vector<scalar>: what the model computes (log-probabilities, scores)
///   accumulate(slopes)       adds sum_i slopes[i] * d outputs[i] / d theta to the gradients
///   accumulate_throwing()    the same with an ask that throws
///
/// "exact" moves the parameters along random directions, one within each parameter tensor, and holds the change of
/// sum_i slopes[i] * outputs[i] against the gradient; parameters are put back. Expects slopes 0 where an output is no
/// function of the parameters.
template <class Model, class Outputs, class Accumulate, class Throwing>
void check_differentiable_laws(law_book& book, Model& model, std::vector<typename Model::scalar> const& slopes,
                               random_stream& random, double tolerance, Outputs&& outputs, Accumulate&& accumulate,
                               Throwing&& accumulate_throwing) {
  using scalar = typename Model::scalar;
  using values = std::vector<scalar>;
  auto const view = [](values const& v) { return std::span<scalar const>(v); };

  std::set<std::string> names;
  std::vector<std::pair<scalar const*, scalar const*>> addresses;
  for (auto&& p : model.parameters()) {
    book.expect(names.insert(std::string(p.name)).second, "stable", "two parameters are named " + std::string(p.name));
    book.expect(p.value.size() == p.gradient.size(), "stable",
                std::string(p.name) + ": value and gradient differ in size");
    book.expect(p.shape[0] * p.shape[1] == p.value.size(), "stable", std::string(p.name) + ": shape and size disagree");
    addresses.emplace_back(p.value.data(), p.gradient.data());
  }

  clear_gradients(model);
  values const before = copied_values(model);
  accumulate(slopes);
  values const once = copied_gradients(model);
  book.expect(same_bits(view(before), view(copied_values(model))), "accumulates", "a parameter's value was modified");
  accumulate(slopes);
  values twice = once;
  for (scalar& g : twice) g += g;
  double const doubled = largest_difference(view(copied_gradients(model)), view(twice));
  book.expect(doubled <= tolerance, "accumulates",
              "two equal calls are off from twice one by " + std::to_string(doubled));

  values const kept = copied_gradients(model);
  accumulate(values(slopes.size(), scalar(0)));
  book.expect(same_bits(view(kept), view(copied_gradients(model))), "linear", "slopes of 0 changed a gradient");
  try {
    accumulate_throwing();
    book.expect(false, "ask throws", "the exception was swallowed");
  } catch (law_violation const&) {
  }
  book.expect(same_bits(view(kept), view(copied_gradients(model))), "ask throws", "the gradients were changed");

  values other(slopes.size()), mixed(slopes.size());
  for (std::size_t i = 0; i < slopes.size(); ++i) {
    if (slopes[i] != scalar(0)) other[i] = static_cast<scalar>(random.normal());
    mixed[i] = scalar(2) * slopes[i] - scalar(3) * other[i];
  }
  clear_gradients(model);
  accumulate(other);
  values combined = copied_gradients(model);
  for (std::size_t i = 0; i < combined.size(); ++i) combined[i] = scalar(2) * once[i] - scalar(3) * combined[i];
  clear_gradients(model);
  accumulate(mixed);
  double const bent = largest_difference(view(copied_gradients(model)), view(combined));
  book.expect(bent <= tolerance, "linear", "2 s - 3 t gives a gradient off by " + std::to_string(bent));

  // float differences see little; its tolerance says so.
  double const step = sizeof(scalar) >= 8 ? 1e-5 : 1e-2;
  double const slack = sizeof(scalar) >= 8 ? 1e-6 : 5e-2;
  auto const objective = [&] {
    values const out = outputs();
    double sum = 0.0;
    for (std::size_t i = 0; i < out.size(); ++i)
      if (slopes[i] != scalar(0)) sum += static_cast<double>(slopes[i]) * static_cast<double>(out[i]);
    return sum;
  };
  std::size_t offset = 0;
  for (auto&& p : model.parameters()) {
    values const keep(p.value.begin(), p.value.end());
    std::vector<double> direction(keep.size());
    double expected = 0.0, scale = 0.0;
    for (std::size_t i = 0; i < keep.size(); ++i) {
      direction[i] = random.normal() / std::sqrt(static_cast<double>(keep.size()));
      double const term = direction[i] * static_cast<double>(once[offset + i]);
      expected += term;
      scale += term * term;
    }
    auto const along = [&](double h) {
      for (std::size_t i = 0; i < keep.size(); ++i)
        p.value[i] = static_cast<scalar>(static_cast<double>(keep[i]) + h * direction[i]);
      return objective();
    };
    double const measured = (along(step) - along(-step)) / (2.0 * step);
    for (std::size_t i = 0; i < keep.size(); ++i) p.value[i] = keep[i];
    offset += keep.size();
    double const error = std::abs(measured - expected);
    book.expect(error <= slack * (1.0 + std::abs(expected) + std::sqrt(scale)), "exact",
                std::string(p.name) + ": along a random direction the gradient says " + std::to_string(expected) +
                    ", a central difference " + std::to_string(measured));
  }
  clear_gradients(model);

  std::size_t i = 0;
  for (auto&& p : model.parameters()) {
    book.expect(i < addresses.size() &&
                    addresses[i] == std::pair<scalar const*, scalar const*>(p.value.data(), p.gradient.data()),
                "stable", std::string(p.name) + ": its address changed");
    ++i;
  }
}

}  // namespace attune::testing
