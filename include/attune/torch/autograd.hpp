// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>

#include <attune/backend/eigen.hpp>
#include <attune/backend/torch.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/view.hpp>
#include <attune/objective/bradley_terry.hpp>
#include <attune/objective/kl_on_logits.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/objective/pairwise/pair_loss.hpp>
#include <attune/objective/unpaired/unpaired_loss.hpp>
#include <attune/objective/value_loss.hpp>

/// attune's losses inside LibTorch's autograd: each is a function with one scalar result whose gradients attune
/// computed on the way, fused, so that the graph holds one node and no intermediate of the size of the logits but the
/// gradient.
///
///   at::Tensor loss = torch_loss(dpo_on_tokens(reference_sums, {.beta = 0.1}), logits, batch);
///   loss.backward();
///
/// Of all of them: tensors are dense, on the CPU, of f32 or f64; logits, hidden states and the head also of bf16 or
/// f16, from which everything is computed in f32 and to which a gradient is rounded once. torch_loss of tensors without
/// requires_grad, or in a scope without grad mode, costs the forward pass alone. What is refused is refused by
/// contract_violation, as is what the objective refuses. Gradients flow to the tensors named as such and to nothing
/// else (not to a reference, an advantage, a margin). A second derivative is an error that says so, not a silent 0. The
/// result is a 0-dimensional tensor of the type that was computed in.
namespace attune {

/// A loss and its gradients, made before autograd was told: what a node of the graph holds.
class torch_known_gradients : public torch::autograd::Function<torch_known_gradients> {
 public:
  struct known {
    at::Tensor loss;
    std::vector<at::Tensor> gradients;  // one per input and of its shape; undefined where none is needed
  };

  static at::Tensor forward(torch::autograd::AutogradContext* context, at::TensorList inputs, known const& of) {
    expects(inputs.size() == of.gradients.size(), "torch_known_gradients: one gradient per input", of.gradients.size());
    context->save_for_backward(of.gradients);
    return of.loss;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list outer) {
    torch::autograd::variable_list result;
    {
      at::NoGradGuard const no_graph;
      bool const is_one = outer[0].item().toDouble() == 1.0;  // the usual case: nothing to multiply
      for (at::Tensor const& gradient : context->get_saved_variables())
        result.push_back(!gradient.defined() || is_one ? gradient : gradient.mul(outer[0]));
    }
    if (at::GradMode::is_enabled()) refuse_second_derivative(result);
    result.emplace_back();  // of `known`: none
    return result;
  }

 private:
  /// Under create_graph the gradients are constants to autograd, which would make second derivatives wrong without a
  /// word: whoever asks for one meets an error instead.
  static void refuse_second_derivative(torch::autograd::variable_list& result) {
    for (at::Tensor& gradient : result) {
      if (!gradient.defined()) continue;
      auto const error = std::make_shared<torch::autograd::DelayedError>(
          "attune's losses have no second derivative: their gradients are computed, not recorded", 1);
      gradient = (*error)({gradient.detach().requires_grad_(true)})[0];
    }
  }
};

/// A loss computed by attune, with its gradients, as a function of `inputs` in autograd's graph.
[[nodiscard]] inline at::Tensor torch_known_loss(std::vector<at::Tensor> const& inputs, double loss,
                                                 std::vector<at::Tensor> gradients) {
  bool const narrow = inputs[0].element_size() == 2;
  at::Tensor const value = at::scalar_tensor(
      loss, inputs[0].options().dtype(narrow ? at::ScalarType::Float : inputs[0].scalar_type()).requires_grad(false));
  return torch_known_gradients::apply(at::TensorList(inputs),
                                      torch_known_gradients::known{value, std::move(gradients)});
}

/// Whether a gradient with respect to the tensor will be asked for.
[[nodiscard]] inline bool torch_needs_gradient(at::Tensor const& tensor) {
  return tensor.defined() && tensor.requires_grad() && at::GradMode::is_enabled();
}

/// Whether an objective is one of numbers of type T: ppo_on_tokens<float> is of float alone.
template <class T, class Objective>
inline constexpr bool torch_objective_takes = TokenObjective<std::remove_reference_t<Objective>, T> ||
                                              TermedTokenObjective<std::remove_reference_t<Objective>, T>;

/// Room for a gradient: compact, shaped like the tensor, of elements T.
template <class T>
[[nodiscard]] at::Tensor torch_gradient_for(at::Tensor const& tensor, bool zero = false) {
  at::NoGradGuard const no_graph;
  auto const options = tensor.options().dtype(torch_dtype<T>).requires_grad(false);
  return zero ? at::zeros(tensor.sizes(), options) : at::empty(tensor.sizes(), options);
}

/// Calls f.template operator()<T>() for the type of a tensor of numbers per token or sequence, f32 or f64.
template <class F>
decltype(auto) with_torch_scalar(at::Tensor const& tensor, char const* name, F&& f) {
  if (!tensor.defined()) refuse_tensor(name, "a tensor", "an undefined one");
  if (tensor.scalar_type() == torch_dtype<double>) return f.template operator()<double>();
  if (tensor.scalar_type() == torch_dtype<float>) return f.template operator()<float>();
  refuse_tensor(name, "a tensor of dtype Float or Double", c10::toString(tensor.scalar_type()));
}

/// Calls f.template operator()<Storage>() for the storage type of a matrix: f32, f64, bf16 or f16.
template <class F>
decltype(auto) with_torch_storage(at::Tensor const& tensor, char const* name, F&& f) {
  if (!tensor.defined()) refuse_tensor(name, "a tensor", "an undefined one");
  if (tensor.scalar_type() == torch_dtype<double>) return f.template operator()<double>();
  if (tensor.scalar_type() == torch_dtype<float>) return f.template operator()<float>();
  if (tensor.scalar_type() == torch_dtype<bf16>) return f.template operator()<bf16>();
  if (tensor.scalar_type() == torch_dtype<f16>) return f.template operator()<f16>();
  refuse_tensor(name, "a tensor of dtype Float, Double, BFloat16 or Half", c10::toString(tensor.scalar_type()));
}

/// The loss of a batch from its logits: loss_on_logits, its backend one of torch_backend's with the calling thread
/// alone unless `pool` is given. logits: (tokens, vocabulary), or (sequences, length, vocabulary) with a batch of
/// torch_sequences; rows may be apart. Allocates the gradient, and scratch of a few numbers per token.
template <class Objective>
[[nodiscard]] at::Tensor torch_loss(Objective&& objective, at::Tensor const& logits, sequences_view batch,
                                    thread_pool* pool = nullptr) {
  return with_torch_storage(logits, "logits", [&]<class Storage>() {
    using backend_type = eigen_backend<Storage>;
    using T = typename backend_type::scalar;
    if constexpr (!torch_objective_takes<T, Objective>) {
      refuse_tensor("logits", "a tensor of the type that the objective is of", c10::toString(logits.scalar_type()));
      return at::Tensor();
    } else {
      backend_type backend(pool);
      loss_workspace<T> workspace;
      matrix_view<Storage const> const in = torch_matrix<Storage const>(logits, "logits");
      at::Tensor gradient;
      T loss;
      if (torch_needs_gradient(logits)) {
        gradient = torch_gradient_for<Storage>(logits);
        loss = loss_on_logits(backend, objective, in, batch, torch_matrix<Storage>(gradient, "gradient"), workspace);
      } else {
        validate(batch, in.cols);
        expects(in.rows == batch.total_tokens(), "torch_loss: logits.rows == batch.total_tokens()", in.rows);
        workspace.prepare(batch, terms_of<T>(objective));
        backend.token_logps(in, workspace.targets, workspace.forward());
        loss = ask_for_slopes(objective, batch, workspace);
      }
      return torch_known_loss({logits}, static_cast<double>(loss), {gradient});
    }
  });
}

/// The same from hidden states (tokens, width) and the output matrix (vocabulary, width), a torch::nn::Linear's weight,
/// say: loss_on_hidden. The logits never exist as a whole.
template <class Objective>
[[nodiscard]] at::Tensor torch_loss(Objective&& objective, at::Tensor const& hidden, at::Tensor const& head,
                                    sequences_view batch, thread_pool* pool = nullptr) {
  return with_torch_storage(hidden, "hidden", [&]<class Storage>() {
    using backend_type = eigen_backend<Storage>;
    using T = typename backend_type::scalar;
    if constexpr (!torch_objective_takes<T, Objective>) {
      refuse_tensor("hidden", "a tensor of the type that the objective is of", c10::toString(hidden.scalar_type()));
      return at::Tensor();
    } else {
      backend_type backend(pool);
      loss_workspace<T> workspace;
      matrix_view<Storage const> const in = torch_matrix<Storage const>(hidden, "hidden");
      matrix_view<Storage const> const out = torch_matrix<Storage const>(head, "head");
      at::Tensor dhidden, dhead;
      T loss;
      if (torch_needs_gradient(hidden) || torch_needs_gradient(head)) {
        dhidden = torch_gradient_for<Storage>(hidden);
        dhead = torch_gradient_for<T>(head, true);  // autograd narrows it to what the head is, once
        loss = loss_on_hidden(backend, objective, in, out, batch, torch_matrix<Storage>(dhidden, "dhidden"),
                              torch_matrix<T>(dhead, "dhead"), workspace);
      } else {
        validate(batch, out.rows);
        expects(in.rows == batch.total_tokens(), "torch_loss: hidden.rows == batch.total_tokens()", in.rows);
        expects(in.cols == out.cols, "torch_loss: hidden.cols == head.cols", in.cols);
        workspace.prepare(batch, terms_of<T>(objective));
        workspace.linear.resize(backend.linear_workspace(in.rows, out.rows, out.cols));
        backend.linear_token_logps(in, out, workspace.targets, workspace.forward(), workspace.linear);
        loss = ask_for_slopes(objective, batch, workspace);
      }
      return torch_known_loss({hidden, head}, static_cast<double>(loss), {dhidden, dhead});
    }
  });
}

/// kl_on_logits: the exact divergence to a reference's logits, of the same shape, beside another loss. Gradients flow
/// to `logits` alone.
[[nodiscard]] inline at::Tensor torch_kl(at::Tensor const& logits, at::Tensor const& ref_logits, sequences_view batch,
                                         exact_kl_options options = {}, aggregation_totals totals = {},
                                         thread_pool* pool = nullptr) {
  return with_torch_storage(logits, "logits", [&]<class Storage>() {
    using backend_type = eigen_backend<Storage>;
    backend_type backend(pool);
    loss_workspace<typename backend_type::scalar> workspace;
    at::Tensor const gradient = torch_gradient_for<Storage>(logits, true);
    auto const loss = kl_on_logits(backend, torch_matrix<Storage const>(logits, "logits"),
                                   torch_matrix<Storage const>(ref_logits, "ref_logits"), batch,
                                   torch_matrix<Storage>(gradient, "gradient"), workspace, options, totals);
    return torch_known_loss({logits}, static_cast<double>(loss), {gradient});
  });
}

/// Token log-probabilities of a batch from its logits, (tokens), 0 where the mask is 0: those of a reference, say. No
/// graph.
[[nodiscard]] inline at::Tensor torch_logps(at::Tensor const& logits, sequences_view batch,
                                            thread_pool* pool = nullptr) {
  return with_torch_storage(logits, "logits", [&]<class Storage>() {
    using backend_type = eigen_backend<Storage>;
    using T = typename backend_type::scalar;
    backend_type backend(pool);
    loss_workspace<T> workspace;
    at::NoGradGuard const no_graph;
    at::Tensor const logps = at::empty({static_cast<std::int64_t>(batch.total_tokens())},
                                       logits.options().dtype(torch_dtype<T>).requires_grad(false));
    logps_on_logits(backend, torch_matrix<Storage const>(logits, "logits"), batch, torch_span<T>(logps, "logps"),
                    workspace);
    return logps;
  });
}

/// Log-probabilities of whole responses, summed over their tokens, (pairs) each. Gradients flow to the first two.
struct torch_pair_logps {
  at::Tensor chosen, rejected;
  at::Tensor ref_chosen = {}, ref_rejected = {};  ///< undefined for a loss that reads no reference
  std::span<std::size_t const> chosen_tokens = {}, rejected_tokens = {};  ///< empty for a loss that reads no lengths
  std::span<double const> weights = {};                                   ///< as in pair_logps
};

/// pair_loss of any pairwise loss (its options: dpo_options, simpo_options, ...), or a preference_loss, which mixes
/// them and has its own pair_ratios.
template <class Loss>
[[nodiscard]] at::Tensor torch_pair_loss(Loss&& loss, torch_pair_logps const& of, pair_totals totals = {},
                                         pair_ratios ratios = {}) {
  return with_torch_scalar(of.chosen, "chosen", [&]<class T>() {
    auto const span = [](at::Tensor const& t, char const* name) {
      return t.defined() ? torch_span<T const>(t, name) : std::span<T const>();
    };
    if (!of.rejected.defined()) refuse_tensor("rejected", "a tensor", "an undefined one");
    pair_logps<T> const in{.chosen = span(of.chosen, "chosen"),
                           .rejected = span(of.rejected, "rejected"),
                           .ref_chosen = span(of.ref_chosen, "ref_chosen"),
                           .ref_rejected = span(of.ref_rejected, "ref_rejected"),
                           .chosen_tokens = of.chosen_tokens,
                           .rejected_tokens = of.rejected_tokens,
                           .weights = of.weights};
    at::Tensor const chosen = torch_gradient_for<T>(of.chosen), rejected = torch_gradient_for<T>(of.rejected);
    pair_slopes<T> const out{.chosen = torch_span<T>(chosen, "slopes"), .rejected = torch_span<T>(rejected, "slopes")};
    T value;
    if constexpr (PairObjective<std::remove_cvref_t<Loss>>) {
      value = pair_loss(in, out, loss, totals, ratios);
    } else {
      expects(ratios.divergence.type == f_divergence_type::reverse_kl && !ratios.reference_free,
              "torch_pair_loss: no pair_ratios beside a preference_loss, whose options have them");
      value = loss(in, out, totals);
    }
    return torch_known_loss({of.chosen, of.rejected}, static_cast<double>(value), {chosen, rejected});
  });
}

/// bradley_terry_loss of scores (pairs). Margins get no gradient.
[[nodiscard]] inline at::Tensor torch_bradley_terry_loss(at::Tensor const& chosen, at::Tensor const& rejected,
                                                         bradley_terry_options options = {},
                                                         std::span<double const> margin = {},
                                                         std::size_t total_pairs = 0) {
  return with_torch_scalar(chosen, "chosen", [&]<class T>() {
    pair_scores<T> const in{torch_span<T const>(chosen, "chosen"), torch_span<T const>(rejected, "rejected"), margin};
    at::Tensor const dchosen = torch_gradient_for<T>(chosen), drejected = torch_gradient_for<T>(rejected);
    T const value = bradley_terry_loss<T>(in, {torch_span<T>(dchosen, "slopes"), torch_span<T>(drejected, "slopes")},
                                          options, total_pairs);
    return torch_known_loss({chosen, rejected}, static_cast<double>(value), {dchosen, drejected});
  });
}

/// Log-probabilities of responses that were judged one by one, (examples). Gradients flow to logps alone.
struct torch_unpaired_logps {
  at::Tensor logps, ref_logps;
  std::span<std::uint8_t const> desirable;
  std::span<double const> weights = {};
};

/// unpaired_loss of kto_options, bco_options, apo_zero_unpaired_options; baseline as there.
template <UnpairedObjective O>
[[nodiscard]] at::Tensor torch_unpaired_loss(O const& options, torch_unpaired_logps const& of, double baseline = 0.0,
                                             std::size_t total_examples = 0) {
  return with_torch_scalar(of.logps, "logps", [&]<class T>() {
    unpaired_logps<T> const in{torch_span<T const>(of.logps, "logps"), torch_span<T const>(of.ref_logps, "ref_logps"),
                               of.desirable, of.weights};
    at::Tensor const dlogps = torch_gradient_for<T>(of.logps);
    T const value = unpaired_loss<T>(in, torch_span<T>(dlogps, "slopes"), options, baseline, total_examples);
    return torch_known_loss({of.logps}, static_cast<double>(value), {dlogps});
  });
}

/// A loss of one number per token, a critic's or a process reward model's: f(values, slopes) -> loss with spans of T,
/// which is a std::span<T const> and a std::span<T>. `values` has one entry per token of the batch, in any contiguous
/// shape.
///
///   torch_token_value_loss(values, [&]<class T>(std::span<T const> v, std::span<T> slopes) {
///     return value_loss<T>({.values = v, .returns = ..., .old_values = ...}, batch, slopes, totals); });
template <class F>
[[nodiscard]] at::Tensor torch_token_value_loss(at::Tensor const& values, F&& f) {
  return with_torch_scalar(values, "values", [&]<class T>() {
    at::Tensor const slopes = torch_gradient_for<T>(values);
    T const value = f(torch_span<T const>(values, "values"), torch_span<T>(slopes, "slopes"));
    return torch_known_loss({values}, static_cast<double>(value), {slopes});
  });
}

/// value_loss of a critic's values, (tokens) in any contiguous shape; returns and old_values are tensors of the same
/// kind.
[[nodiscard]] inline at::Tensor torch_value_loss(at::Tensor const& values, at::Tensor const& returns,
                                                 at::Tensor const& old_values, sequences_view batch,
                                                 value_loss_options options = {}, aggregation_totals totals = {}) {
  if (totals.tokens == 0) totals = aggregation_totals_of(batch);
  return torch_token_value_loss(values, [&]<class T>(std::span<T const> v, std::span<T> slopes) {
    value_tokens<T> const of{
        .values = v,
        .returns = torch_span<T const>(returns, "returns"),
        .old_values = old_values.defined() ? torch_span<T const>(old_values, "old_values") : std::span<T const>()};
    return value_loss<T>(of, batch, slopes, totals, options);
  });
}

}  // namespace attune
