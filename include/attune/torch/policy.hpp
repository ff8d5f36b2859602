// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <attune/backend/eigen.hpp>
#include <attune/backend/torch.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/parameter.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/loss_on_logits.hpp>

/// A LibTorch model as a Policy, so that every trainer takes it; attune's optimizer, clipping and checkpoints work on
/// the model's own memory.
///
///   torch_policy<float> policy(torch_model_of(model));   // a torch::nn module, or a scripted one
///   frozen reference(policy);
///   adamw<float> optimizer;
///   dpo_trainer trainer{policy, reference, optimizer};
namespace attune {

/// What a torch_policy needs of a model. Fill it in for a model of any other kind.
struct torch_model {
  struct named_tensor {
    std::string name;
    at::Tensor value;
    bool decay = true;  ///< whether weight decay applies
  };

  std::vector<named_tensor> parameters;  ///< what is to be trained: leaves that require grad, each once

  /// Logits (sequences, length, vocabulary) from ids (sequences, length) of int64 and an attention mask of the same
  /// shape and type, 0 on padding, which lies on the right: row i predicts token i + 1 from tokens 0 ... i alone,
  /// whatever the padding holds.
  std::function<at::Tensor(at::Tensor const& ids, at::Tensor const& attention_mask)> logits;

  std::function<torch_model()> copy = {};  ///< a deep copy, for frozen(policy); empty: the policy cannot be copied
};

/// The parameters that require grad, those that several modules share once, by their first name. Decay: matrices, not
/// vectors.
template <class NamedParameters>
[[nodiscard]] std::vector<torch_model::named_tensor> trainable_parameters(NamedParameters const& all, auto&& name_of,
                                                                          auto&& value_of) {
  std::vector<torch_model::named_tensor> out;
  for (auto const& item : all) {
    at::Tensor const value = value_of(item);
    bool const seen = std::ranges::any_of(out, [&](auto const& known) { return known.value.is_same(value); });
    if (value.defined() && value.requires_grad() && !seen) out.push_back({name_of(item), value, value.dim() >= 2});
  }
  return out;
}

/// A torch::nn module with forward(ids) or forward(ids, attention_mask) -> logits. Shares the module, and puts it into
/// evaluation mode: a policy is a function of its tokens, which dropout would not be. Copying needs
/// torch::nn::Cloneable.
template <class Module>
requires std::derived_from<Module, torch::nn::Module>
[[nodiscard]] torch_model torch_model_of(std::shared_ptr<Module> module) {
  expects(module != nullptr, "torch_model_of: a module");
  module->eval();
  torch_model model;
  model.parameters = trainable_parameters(
      module->named_parameters(), [](auto const& item) { return item.key(); },
      [](auto const& item) { return item.value(); });
  model.logits = [module](at::Tensor const& ids, at::Tensor const& attention_mask) -> at::Tensor {
    if constexpr (requires { module->forward(ids, attention_mask); })
      return module->forward(ids, attention_mask);
    else
      return static_cast<void>(attention_mask), module->forward(ids);
  };
  model.copy = [module] { return torch_model_of(std::dynamic_pointer_cast<Module>(module->clone())); };
  return model;
}

/// The same for what TORCH_MODULE makes.
template <class Module>
[[nodiscard]] torch_model torch_model_of(torch::nn::ModuleHolder<Module> const& module) {
  return torch_model_of(module.ptr());
}

/// A scripted model (torch::jit::load) with the same forward. Shares it, and puts it into evaluation mode.
[[nodiscard]] inline torch_model torch_model_of(torch::jit::Module module) {
  module.eval();
  torch_model model;
  model.parameters = trainable_parameters(
      module.named_parameters(), [](auto const& item) { return item.name; },
      [](auto const& item) { return item.value; });
  std::size_t const arguments = module.get_method("forward").num_inputs() - 1;  // the module itself is the first
  expects(arguments == 1 || arguments == 2,
          "torch_model_of: a scripted forward(ids) or forward(ids, attention_mask); arguments", arguments);
  model.logits = [module, arguments](at::Tensor const& ids, at::Tensor const& attention_mask) mutable {
    std::vector<c10::IValue> inputs{ids};
    if (arguments == 2) inputs.emplace_back(attention_mask);
    return module.forward(std::move(inputs)).toTensor();
  };
  model.copy = [module] {
    torch::jit::Module copy = [&] {
      at::NoGradGuard const no_graph;  // else the copies would be results, and no leaves
      return module.deepcopy();
    }();
    auto const originals = module.named_parameters();
    auto original = originals.begin();
    for (auto const& item : copy.named_parameters()) {
      item.value.requires_grad_((*original).value.requires_grad());
      ++original;
    }
    return torch_model_of(copy);
  };
  return model;
}

struct torch_policy_options {
  /// A forward pass over all of a batch, its sequences padded to the longest; false: one per sequence and no padding,
  /// for a model whose result for a sequence hangs on what is padded to it.
  bool padded = true;
};

/// A model's token log-probabilities and their vector-Jacobian products, by LibTorch's forward and backward and
/// attune's fused softmax between them. T is the type of parameters and logits. On the CPU.
///
/// parameters() are views on the tensors' own memory. Gradients are the tensors' .grad, made here, 0 at first, so that
/// an optimizer of LibTorch's can take part as well; set to none by its zero_grad() they count as 0 and are put back at
/// the next call. A parameter that has moved since (module->to(...)) or been given another .grad is a
/// contract_violation.
///
/// Satisfies TermedPolicy and TemperedPolicy. Copies are deep (torch_model::copy), their gradients 0. Log-probabilities
/// are the same bits for the same batch and threads; whether they are whatever a sequence is packed with is up to the
/// model's own kernels, within rounding. Allocates as LibTorch does: logits, their gradient where one is asked for, a
/// graph between.
template <std::floating_point T>
class torch_policy {
 public:
  using scalar = T;

  /// Throws contract_violation naming the first parameter that cannot be trained in place.
  explicit torch_policy(torch_model model, torch_policy_options options = {})
      : model_(std::move(model)), options_(options) {
    expects(static_cast<bool>(model_.logits), "torch_policy: torch_model.logits");
    at::NoGradGuard const no_graph;
    for (torch_model::named_tensor const& p : model_.parameters) {
      expects_tensor(p.value, p.name.c_str(), torch_dtype<T>, true);
      if (!p.value.is_leaf() || !p.value.requires_grad())
        refuse_tensor(p.name.c_str(), "a leaf that requires grad",
                      p.value.is_leaf() ? "one that does not" : "a result");
      if (!p.value.is_contiguous())
        refuse_tensor(p.name.c_str(), "a contiguous parameter", "strides " + text_of(p.value.strides()));
      held_.push_back({p.value.data_ptr(), at::zeros_like(p.value)});
      p.value.mutable_grad() = held_.back().gradient;
    }
  }

  torch_policy(torch_policy const& other) : torch_policy(copied(other.model_), other.options_) {
    temperature_ = other.temperature_;
  }
  torch_policy(torch_policy&&) noexcept = default;
  torch_policy& operator=(torch_policy const& other) { return *this = torch_policy(other); }
  torch_policy& operator=(torch_policy&&) noexcept = default;

  torch_model const& model() const noexcept { return model_; }

  double temperature() const noexcept { return temperature_; }
  void set_temperature(double temperature) {
    validate_temperature(temperature);
    temperature_ = temperature;
  }

  std::vector<parameter<T>> parameters() {
    keep_gradients();
    std::vector<parameter<T>> out;
    for (std::size_t i = 0; i < held_.size(); ++i) {
      torch_model::named_tensor const& p = model_.parameters[i];
      std::size_t const size = static_cast<std::size_t>(p.value.numel());
      std::size_t const rows = p.value.dim() >= 2 ? static_cast<std::size_t>(p.value.size(0)) : 1;
      out.push_back({.name = p.name,
                     .value = {static_cast<T*>(held_[i].value), size},
                     .gradient = {static_cast<T*>(held_[i].gradient.data_ptr()), size},
                     .shape = {rows, rows == 0 ? 0 : size / rows},
                     .decay = p.decay});
    }
    return out;
  }

  void log_probs(sequences_view s, std::span<T> logps) const { log_probs_with(s, {logps}); }

  void log_probs_with(sequences_view s, term_values<T> out) const {
    expects_terms(out, s);
    at::NoGradGuard const no_graph;
    work w;
    score(w, s, out.terms());
    auto const copy = [](std::span<T const> from, std::span<T> to) {
      if (!to.empty()) std::ranges::copy(from, to.begin());
    };
    term_values<T const> const v = w.loss.values();
    copy(v.logps, out.logps);
    copy(v.mean_logps, out.mean_logps);
    copy(v.entropies, out.entropies);
    copy(v.log_normalizers, out.log_normalizers);
    copy(v.collisions, out.collisions);
  }

  void accumulate_gradient(sequences_view s, slopes_of<T> ask) {
    accumulate(s, {}, [&](loss_workspace<T>& w) { ask(w.values().logps, w.value_slopes().logps); });
  }

  void accumulate_gradient_with(sequences_view s, token_terms terms, term_slopes_of<T> ask) {
    accumulate(s, terms, [&](loss_workspace<T>& w) { ask(w.values(), w.value_slopes()); });
  }

 private:
  struct held {
    void* value;          // where the parameter lay when the policy was made
    at::Tensor gradient;  // its .grad, kept alive here
  };

  struct work {
    at::Tensor logits;  // (tokens, vocabulary), with the graph behind it where grad mode is on
    loss_workspace<T> loss;
  };

  static torch_model copied(torch_model const& model) {
    expects(static_cast<bool>(model.copy), "torch_policy: torch_model.copy, which copying a policy needs");
    return model.copy();
  }

  /// .grad is ours, or was set to none, which says 0.
  void keep_gradients() {
    at::NoGradGuard const no_graph;
    for (std::size_t i = 0; i < held_.size(); ++i) {
      at::Tensor const& value = model_.parameters[i].value;
      char const* const name = model_.parameters[i].name.c_str();
      if (value.data_ptr() != held_[i].value)
        refuse_tensor(name, "the memory it had when the policy was made", "other memory");
      if (!value.grad().defined()) {
        held_[i].gradient.zero_();
        value.mutable_grad() = held_[i].gradient;
      } else if (value.grad().data_ptr() != held_[i].gradient.data_ptr()) {
        refuse_tensor(name, "the .grad that the policy gave it", "another tensor");
      }
    }
  }

  at::Tensor forward(std::vector<std::int64_t>& ids, std::vector<std::int64_t>& attention, std::size_t count,
                     std::size_t length) const {
    std::array<std::int64_t, 2> const shape{static_cast<std::int64_t>(count), static_cast<std::int64_t>(length)};
    // Clones: a model may keep its input in the graph, which outlives these vectors.
    at::Tensor const logits = model_.logits(at::from_blob(ids.data(), shape, at::kLong).clone(),
                                            at::from_blob(attention.data(), shape, at::kLong).clone());
    if (!logits.defined()) refuse_tensor("a model's logits", "a tensor", "an undefined one");
    if (logits.dim() != 3 || logits.size(0) != shape[0] || logits.size(1) != shape[1])
      refuse_tensor("a model's logits",
                    "the shape (" + std::to_string(count) + ", " + std::to_string(length) + ", vocabulary)",
                    text_of(logits.sizes()));
    return logits;
  }

  /// Logits of sequences [first, last), their tokens packed: (tokens, vocabulary).
  at::Tensor packed_logits(sequences_view s, std::size_t first, std::size_t last) const {
    std::size_t longest = 0;
    for (std::size_t b = first; b < last; ++b) longest = (std::max)(longest, s.length(b));
    std::vector<std::int64_t> ids((last - first) * longest, 0), attention(ids.size(), 0), places;
    for (std::size_t b = first; b < last; ++b)
      for (std::size_t i = 0; i < s.length(b); ++i) {
        std::size_t const at = (b - first) * longest + i;
        ids[at] = s.sequence(b)[i];
        attention[at] = 1;
        places.push_back(static_cast<std::int64_t>(at));
      }
    at::Tensor const logits = forward(ids, attention, last - first, longest).flatten(0, 1);
    if (places.size() == ids.size()) return logits;
    return logits.index_select(
        0, at::from_blob(places.data(), {static_cast<std::int64_t>(places.size())}, at::kLong).clone());
  }

  void score(work& w, sequences_view s, token_terms terms) const {
    if (s.total_tokens() == 0) {
      w.loss.prepare(s, terms);
      return;
    }
    for (token_id const id : s.tokens) expects(id >= 0, "torch_policy: token ids that are not negative", id);
    if (options_.padded) {
      w.logits = packed_logits(s, 0, s.size());
    } else {
      std::vector<at::Tensor> parts;
      for (std::size_t b = 0; b < s.size(); ++b)
        if (s.length(b) > 0) parts.push_back(packed_logits(s, b, b + 1));
      w.logits = at::cat(parts);
    }
    if (temperature_ != 1.0) w.logits = w.logits.div(temperature_);
    w.logits = w.logits.contiguous();
    matrix_view<T const> const view = torch_matrix<T const>(w.logits, "a model's logits");
    validate(s, view.cols);
    w.loss.prepare(s, terms);
    eigen_backend<T>().token_logps(view, w.loss.targets, w.loss.forward());
  }

  template <class Ask>
  void accumulate(sequences_view s, token_terms terms, Ask&& ask) {
    at::AutoGradMode const graph(true);
    keep_gradients();
    work w;
    score(w, s, terms);
    ask(w.loss);
    if (!w.logits.defined() || !w.logits.requires_grad()) return;
    at::NoGradGuard const no_graph;
    at::Tensor const dlogits = at::empty(w.logits.sizes(), w.logits.options().requires_grad(false));
    eigen_backend<T>().token_logps_adjoint(torch_matrix<T const>(w.logits, "a model's logits"), w.loss.targets,
                                           w.loss.by_row(w.loss.log_normalizers), w.loss.backward(),
                                           torch_matrix<T>(dlogits, "dlogits"));
    std::vector<at::Tensor> inputs;
    for (torch_model::named_tensor const& p : model_.parameters) inputs.push_back(p.value);
    // Not backward(): were it to fail half-way, some gradients would have been added to.
    std::vector<at::Tensor> const found = torch::autograd::grad({w.logits}, inputs, {dlogits}, false, false, true);
    for (std::size_t i = 0; i < found.size(); ++i)
      if (found[i].defined()) held_[i].gradient.add_(found[i]);
  }

  torch_model model_;
  torch_policy_options options_;
  double temperature_ = 1.0;
  std::vector<held> held_;
};

}  // namespace attune
