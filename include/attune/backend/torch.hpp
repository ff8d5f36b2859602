// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>

/// LibTorch's tensors as attune sees memory: views, never copies. Autograd is in torch/autograd.hpp, a model as a
/// Policy in torch/policy.hpp.
///
///   matrix_view<float const> const logits = torch_matrix<float const>(tensor, "logits");
///   std::span<double> const slopes = torch_span<double>(tensor, "slopes");
///
/// Nothing is converted: what does not fit is a contract_violation that names the argument, what was expected and what
/// was found. A view keeps nothing alive: the tensor must outlive it. What is written through a view is invisible to
/// autograd, so that a tensor that requires grad can be viewed for writing only where grad mode is off; its version is
/// counted up, by which a backward pass that had saved it knows.
namespace attune {

/// Where a view's memory may lie.
enum class torch_memory {
  host,    ///< of the CPU; anything else is refused
  device,  ///< of a CUDA device: the pointer is the device's, to be handed to kernels and not to be read here
};

/// T's name among LibTorch's types. bf16 and f16 are the bits of c10::BFloat16 and c10::Half.
template <class T>
  requires std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, bf16> || std::same_as<T, f16> ||
           std::same_as<T, std::int64_t> || std::same_as<T, std::int32_t> || std::same_as<T, std::uint8_t>
inline constexpr at::ScalarType torch_dtype = std::same_as<T, float>          ? at::ScalarType::Float
                                              : std::same_as<T, double>       ? at::ScalarType::Double
                                              : std::same_as<T, bf16>         ? at::ScalarType::BFloat16
                                              : std::same_as<T, f16>          ? at::ScalarType::Half
                                              : std::same_as<T, std::int64_t> ? at::ScalarType::Long
                                              : std::same_as<T, std::int32_t> ? at::ScalarType::Int
                                                                              : at::ScalarType::Byte;

/// Throws contract_violation: "expected logits: a tensor of dtype Float, got Double".
[[noreturn]] inline void refuse_tensor(char const* name, std::string const& expected, std::string const& found) {
  throw contract_violation("expected " + std::string(name) + ": " + expected + ", got " + found);
}

/// "(3, 4)".
[[nodiscard]] inline std::string text_of(at::IntArrayRef numbers) {
  std::string text = "(";
  for (std::size_t i = 0; i < numbers.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(numbers[i]);
  return text + ")";
}

/// Throws contract_violation unless the tensor is defined, dense, of this type and where it should be; and, where it is
/// to be written, unless autograd allows that.
inline void expects_tensor(at::Tensor const& tensor, char const* name, at::ScalarType dtype, bool written,
                           torch_memory memory = torch_memory::host) {
  if (!tensor.defined()) refuse_tensor(name, "a tensor", "an undefined one");
  if (tensor.layout() != at::kStrided)
    refuse_tensor(name, "a dense (strided) tensor", tensor.is_sparse() ? "a sparse one" : "one of another layout");
  if (tensor.scalar_type() != dtype)
    refuse_tensor(name, std::string("a tensor of dtype ") + c10::toString(dtype), c10::toString(tensor.scalar_type()));
  bool const there = memory == torch_memory::host ? tensor.device().is_cpu() : tensor.device().is_cuda();
  if (!there)
    refuse_tensor(name, memory == torch_memory::host ? "a tensor on the CPU" : "a tensor on a CUDA device",
                  "one on " + tensor.device().str());
  if (tensor.is_conj() || tensor.is_neg()) refuse_tensor(name, "a tensor as it lies in memory", "a lazily negated one");
  if (written && tensor.requires_grad() && at::GradMode::is_enabled())
    refuse_tensor(name, "a tensor that may be written: one that does not require grad, or grad mode off",
                  tensor.is_leaf() ? "a leaf that requires grad" : "a result that requires grad");
}

/// A tensor's elements where they lie; counts its version up if they can be written.
template <class T>
[[nodiscard]] T* torch_data(at::Tensor const& tensor) {
  if constexpr (!std::is_const_v<T>) tensor.unsafeGetTensorImpl()->bump_version();
  return static_cast<T*>(tensor.data_ptr());
}

/// A tensor (rows, cols), or (..., cols) whose leading dimensions lie as if they were one, as (..., cols) of a model's
/// output does. Rows may be apart: a stride of 1 within a row, rows at least cols apart; dimensions of size 1 have no
/// stride.
template <class T>
[[nodiscard]] matrix_view<T> torch_matrix(at::Tensor const& tensor, char const* name,
                                          torch_memory memory = torch_memory::host) {
  expects_tensor(tensor, name, torch_dtype<std::remove_const_t<T>>, !std::is_const_v<T>, memory);
  std::int64_t const dimensions = tensor.dim();
  if (dimensions < 2)
    refuse_tensor(name, "a tensor of two dimensions or more, (rows, cols)", "the shape " + text_of(tensor.sizes()));
  auto const strides = [&] {
    return "the shape " + text_of(tensor.sizes()) + " with strides " + text_of(tensor.strides());
  };
  std::int64_t const cols = tensor.size(dimensions - 1);
  if (tensor.numel() == 0)
    return {torch_data<T>(tensor), cols == 0 ? static_cast<std::size_t>(tensor.size(0)) : 0,
            static_cast<std::size_t>(cols), static_cast<std::size_t>(cols)};
  if (cols > 1 && tensor.stride(dimensions - 1) != 1)
    refuse_tensor(name, "adjacent elements in a row (a stride of 1; see contiguous())", strides());
  std::int64_t rows = 1, row_stride = cols;
  for (std::int64_t d = dimensions - 2; d >= 0; --d) {
    if (tensor.size(d) == 1) continue;
    if (rows == 1) {
      row_stride = tensor.stride(d);
      if (row_stride < cols) refuse_tensor(name, "rows that do not overlap (see contiguous())", strides());
    } else if (tensor.stride(d) != row_stride * rows) {
      refuse_tensor(name, "leading dimensions that can be seen as one (see contiguous())", strides());
    }
    rows *= tensor.size(d);
  }
  return {torch_data<T>(tensor), static_cast<std::size_t>(rows), static_cast<std::size_t>(cols),
          static_cast<std::size_t>(row_stride)};
}

/// A contiguous tensor of any shape as a run of numbers, row by row.
template <class T>
[[nodiscard]] std::span<T> torch_span(at::Tensor const& tensor, char const* name,
                                      torch_memory memory = torch_memory::host) {
  expects_tensor(tensor, name, torch_dtype<std::remove_const_t<T>>, !std::is_const_v<T>, memory);
  if (!tensor.is_contiguous())
    refuse_tensor(name, "a contiguous tensor (see contiguous())",
                  "the shape " + text_of(tensor.sizes()) + " with strides " + text_of(tensor.strides()));
  return {torch_data<T>(tensor), static_cast<std::size_t>(tensor.numel())};
}

/// Token ids of int64, row by row, as attune has them. Ids outside token_id are refused by their place, which a
/// narrowing would hide; negative ones are let through, since a vocabulary is not known here (sequences' validate knows
/// it).
[[nodiscard]] inline std::vector<token_id> torch_token_ids(at::Tensor const& tensor, char const* name) {
  std::span<std::int64_t const> const ids = torch_span<std::int64_t const>(tensor, name);
  std::vector<token_id> out(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < (std::numeric_limits<token_id>::min)() || ids[i] > (std::numeric_limits<token_id>::max)())
      refuse_tensor(name, "token ids of 32 bits", std::to_string(ids[i]) + " at element " + std::to_string(i));
    out[i] = static_cast<token_id>(ids[i]);
  }
  return out;
}

/// A padded batch (sequences, length): token ids of int64, and a mask of int64 or bool that is 1 on the tokens a loss
/// may see. Padding stays: every row becomes a sequence of `length` tokens, so that row b * length + i of a model's
/// logits (sequences, length, vocabulary) is the row of token i of sequence b. Padding needs an id inside the
/// vocabulary and a mask of 0. Copies; throws contract_violation naming the row whose first token is masked in.
[[nodiscard]] inline sequences torch_sequences(at::Tensor const& ids, at::Tensor const& mask) {
  std::vector<token_id> const tokens = torch_token_ids(ids, "ids");
  if (ids.dim() != 2) refuse_tensor("ids", "a tensor (sequences, length)", "the shape " + text_of(ids.sizes()));
  if (!mask.defined()) refuse_tensor("mask", "a tensor", "an undefined one");
  if (mask.sizes() != ids.sizes())
    refuse_tensor("mask", "the shape of ids, " + text_of(ids.sizes()), text_of(mask.sizes()));
  bool const is_bool = mask.scalar_type() == at::ScalarType::Bool;
  expects_tensor(mask, "mask", is_bool ? at::ScalarType::Bool : at::ScalarType::Long, false);
  if (!mask.is_contiguous()) refuse_tensor("mask", "a contiguous tensor", "strides " + text_of(mask.strides()));
  std::size_t const length = static_cast<std::size_t>(ids.size(1));
  std::vector<std::uint8_t> row_mask(length);
  sequences out;
  for (std::size_t b = 0; b < static_cast<std::size_t>(ids.size(0)); ++b) {
    for (std::size_t i = 0; i < length; ++i) {
      std::size_t const at = b * length + i;
      std::int64_t const value = is_bool ? std::int64_t{static_cast<bool const*>(mask.data_ptr())[at]}
                                         : static_cast<std::int64_t const*>(mask.data_ptr())[at];
      if (value != 0 && value != 1)
        refuse_tensor("mask", "0 or 1",
                      std::to_string(value) + " at row " + std::to_string(b) + ", token " + std::to_string(i));
      if (value == 1 && i == 0)
        refuse_tensor("mask", "0 on the first token of a row, which nothing precedes", "1 at row " + std::to_string(b));
      row_mask[i] = static_cast<std::uint8_t>(value);
    }
    out.push_back_masked(std::span(tokens).subspan(b * length, length), row_mask);
  }
  return out;
}

}  // namespace attune
