// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <attune/concepts/optimizer.hpp>
#include <attune/core/adamw_update.hpp>
#include <attune/core/checksum.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/parameter.hpp>

namespace attune {

/// Where epsilon meets the bias correction.
enum class adam_flavour {
  pytorch,      ///< after it: m' / (sqrt(v') + epsilon), both corrected, as in the paper
  tensorflow1,  ///< before it: epsilon is not corrected, so early steps are smaller. The 2019 PPO for language models
                ///< needs it to be reproduced (Huang et al. 2024, detail on Adam)
};

struct adamw_options {
  double beta1 = 0.9;         ///< memory of the mean gradient; [0, 1)
  double beta2 = 0.999;       ///< memory of the mean squared gradient; [0, 1)
  double epsilon = 1e-8;      ///< added to the root of the squared gradient; > 0
  double weight_decay = 0.0;  ///< decoupled, scaled by the learning rate, where parameter.decay is set; >= 0
  adam_flavour flavour = adam_flavour::pytorch;
};

inline void validate(adamw_options const& o) {
  expects(o.beta1 >= 0.0 && o.beta1 < 1.0, "adamw_options.beta1 in [0, 1)", o.beta1);
  expects(o.beta2 >= 0.0 && o.beta2 < 1.0, "adamw_options.beta2 in [0, 1)", o.beta2);
  expects(o.epsilon > 0.0 && std::isfinite(o.epsilon), "adamw_options.epsilon > 0 and finite", o.epsilon);
  expects(o.weight_decay >= 0.0 && std::isfinite(o.weight_decay), "adamw_options.weight_decay >= 0 and finite",
          o.weight_decay);
}

/// Sum of squares in double, over eight interleaved partial sums: a fixed order that a compiler can vectorise.
template <class T>
[[nodiscard]] double sum_of_squares(std::span<T const> values) noexcept {
  std::array<double, 8> lanes{};
  std::size_t const whole = values.size() / 8 * 8;
  for (std::size_t i = 0; i < whole; i += 8)
    for (std::size_t lane = 0; lane < 8; ++lane) {
      double const v = static_cast<double>(values[i + lane]);
      lanes[lane] += v * v;
    }
  for (std::size_t i = whole; i < values.size(); ++i) {
    double const v = static_cast<double>(values[i]);
    lanes[i - whole] += v * v;
  }
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

/// AdamW over parameters in host memory (core/adamw_update.hpp has the formula and the paper).
///
/// One optimiser serves one model: its moments are made, zero, at the first step, and belong to that model's list of
/// parameters. Moments are double for double parameters, float otherwise. After the first step nothing allocates.
/// Same state and gradients give the same bits. Satisfies Optimizer for every model whose parameters() are host views.
template <class T>
class adamw {
 public:
  using moment = std::conditional_t<std::is_same_v<T, double>, double, float>;

  explicit adamw(adamw_options options = {}) : options_(options) { validate(options_); }

  /// Clips by the global norm, updates every parameter, sets the gradients to zero. If a gradient is not finite,
  /// nothing but the gradients is touched.
  template <class Model>
  optimizer_report step(Model& model, optimizer_step s) {
    expects(s.learning_rate >= 0.0 && std::isfinite(s.learning_rate),
            "adamw: optimizer_step.learning_rate >= 0 and finite", s.learning_rate);
    expects(s.max_grad_norm > 0.0, "adamw: optimizer_step.max_grad_norm > 0", s.max_grad_norm);
    prepare(model);
    double squares = 0.0;
    for (auto&& p : model.parameters()) squares += sum_of_squares(std::span<T const>(p.gradient));
    optimizer_report const report{std::sqrt(squares), std::isfinite(squares)};
    if (!report.finite) {
      zero_gradient(model);
      return report;
    }
    ++steps_;
    double const scale = report.grad_norm > s.max_grad_norm ? s.max_grad_norm / report.grad_norm : 1.0;
    std::size_t i = 0;
    for (auto&& p : model.parameters()) {
      update(p, moments_[i], folded(s.learning_rate, scale, p.decay), s.learning_rate == 0.0);
      ++i;
    }
    return report;
  }

  template <class Model>
  void zero_gradient(Model& model) {
    for (auto&& p : model.parameters()) std::fill(p.gradient.begin(), p.gradient.end(), T(0));
  }

  /// The step count and both moments of every parameter, in the order of parameters().
  template <class Model, class Visitor>
  void visit_state(Model& model, Visitor&& visit) {
    prepare(model);
    visit(std::string_view("adamw/steps"), std::as_writable_bytes(std::span(&steps_, std::size_t{1})));
    std::size_t i = 0;
    std::string name;
    for (auto&& p : model.parameters()) {
      name.assign("adamw/first/").append(p.name);
      visit(std::string_view(name), std::as_writable_bytes(std::span(moments_[i].first)));
      name.assign("adamw/second/").append(p.name);
      visit(std::string_view(name), std::as_writable_bytes(std::span(moments_[i].second)));
      ++i;
    }
  }

  /// Folds the options into a checksum, so that a checkpoint made with others is told apart.
  void describe(checksum64& sum) const noexcept {
    sum.update("adamw").update_number(options_.beta1).update_number(options_.beta2);
    sum.update_number(options_.epsilon).update_number(options_.weight_decay);
    sum.update_number(static_cast<std::uint64_t>(options_.flavour));
  }

  adamw_options const& options() const noexcept { return options_; }
  std::uint64_t steps() const noexcept { return steps_; }

 private:
  struct moments {
    std::vector<moment> first, second;
  };

  template <class Model>
  void prepare(Model& model) {
    std::size_t count = 0;
    for (auto&& p : model.parameters()) {
      expects(p.gradient.size() == p.value.size(), "adamw: parameter.gradient.size() == parameter.value.size()",
              p.gradient.size());
      if (count == moments_.size() && steps_ == 0)
        moments_.push_back({std::vector<moment>(p.value.size()), std::vector<moment>(p.value.size())});
      expects(count < moments_.size() && moments_[count].first.size() == p.value.size(),
              "adamw: the model whose state it holds");
      ++count;
    }
    expects(count == moments_.size(), "adamw: the model whose state it holds");
  }

  adamw_update<moment> folded(double learning_rate, double gradient_scale, bool decay) const {
    double const t = static_cast<double>(steps_);
    double const second = std::sqrt(1.0 - std::pow(options_.beta2, t));
    bool const corrected = options_.flavour == adam_flavour::pytorch;  // epsilon, with the root
    return {.beta1 = static_cast<moment>(options_.beta1),
            .beta2 = static_cast<moment>(options_.beta2),
            .epsilon = static_cast<moment>(options_.epsilon),
            .step_size =
                static_cast<moment>(learning_rate / (1.0 - std::pow(options_.beta1, t)) * (corrected ? 1.0 : second)),
            .second_scale = static_cast<moment>(corrected ? 1.0 / second : 1.0),
            .decay = static_cast<moment>(decay ? 1.0 - learning_rate * options_.weight_decay : 1.0),
            .gradient_scale = static_cast<moment>(gradient_scale)};
  }

  template <class Parameter>
  static void update(Parameter const& p, moments& m, adamw_update<moment> const& rule, bool keep_values) {
    T* const value = p.value.data();
    T* const gradient = p.gradient.data();
    moment* const first = m.first.data();
    moment* const second = m.second.data();
    std::size_t const n = p.value.size();
    for (std::size_t i = 0; i < n; ++i) {
      moment v = static_cast<moment>(value[i]);
      rule(v, static_cast<moment>(gradient[i]), first[i], second[i]);
      if (!keep_values) value[i] = static_cast<T>(v);  // x - 0 would still turn -0 into 0
      gradient[i] = T(0);
    }
  }

  adamw_options options_;
  std::uint64_t steps_ = 0;
  std::vector<moments> moments_;
};

}  // namespace attune
