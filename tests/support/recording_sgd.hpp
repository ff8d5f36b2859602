// SPDX-License-Identifier: MIT
#pragma once

#include <attune/concepts/optimizer.hpp>

#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

namespace attune::test {

/// Plain gradient descent without clipping that keeps the gradients it was given, one list per step.
struct recording_sgd {
  std::vector<std::vector<double>> gradients = {};
  std::vector<double> learning_rates = {};

  template <class Model>
  optimizer_report step(Model& model, optimizer_step s) {
    std::vector<double> all;
    double squares = 0.0;
    for (auto&& p : model.parameters())
      for (auto const g : p.gradient) {
        all.push_back(static_cast<double>(g));
        squares += all.back() * all.back();
      }
    if (!std::isfinite(squares)) {
      zero_gradient(model);
      return {std::sqrt(squares), false};
    }
    for (auto&& p : model.parameters())
      for (std::size_t i = 0; i < p.value.size(); ++i)
        p.value[i] -= static_cast<std::remove_cvref_t<decltype(p.value[i])>>(s.learning_rate) * p.gradient[i];
    zero_gradient(model);
    gradients.push_back(all);
    learning_rates.push_back(s.learning_rate);
    return {std::sqrt(squares), true};
  }

  template <class Model>
  void zero_gradient(Model& model) {
    for (auto&& p : model.parameters()) for (auto& g : p.gradient) g = 0;
  }

  template <class Model, class Visitor>
  void visit_state(Model&, Visitor&&) {}
};

}  // namespace attune::test
