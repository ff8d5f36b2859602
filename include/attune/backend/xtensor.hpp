// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <attune/core/contract.hpp>
#include <attune/core/view.hpp>

/// xtensor's containers, adaptors and strided views as attune's views, without copies:
///
///   xt::xtensor<float, 2> logits = ..., dlogits = ...;
///   loss_on_logits(backend, objective, xtensor_matrix(logits, "logits"), batch, xtensor_matrix(dlogits, "dlogits"),
///                  workspace);
///
/// What computes is any backend in host memory: its operations are over raw views, so that xtensor needs no backend of
/// its own. Nothing of xtensor is included: what is asked of a tensor is the interface that its headers have under both
/// of their layouts (<xtensor/xtensor.hpp> to 0.25, <xtensor/containers/xtensor.hpp> since 0.26).
namespace attune {

/// A tensor whose elements lie in memory at data()[data_offset() + sum over k of index[k] strides()[k]].
/// Modelled by: xt::xtensor, xtensor_fixed, xarray, adapt, and view, strided_view, transpose, ... of them. Not modelled
/// by expressions that have no elements until they are assigned, nor by views through lists of indices (xt::keep,
/// xt::filter).
template <class X>
concept StridedTensor = requires(std::remove_reference_t<X>& x, std::size_t k) {
  requires std::is_pointer_v<decltype(x.data())>;
  { x.data_offset() } -> std::convertible_to<std::size_t>;
  { x.dimension() } -> std::convertible_to<std::size_t>;
  { x.shape()[k] } -> std::convertible_to<std::size_t>;
  { x.strides()[k] } -> std::convertible_to<std::ptrdiff_t>;
};

/// Anything of xtensor, with or without elements.
template <class X>
concept TensorExpression = StridedTensor<X> || requires(std::remove_reference_t<X>& x) {
  typename std::remove_cvref_t<X>::expression_tag;
  x.dimension();
  x.shape();
};

/// The number of dimensions where the type settles it, else any_rank.
inline constexpr std::size_t any_rank = (std::numeric_limits<std::size_t>::max)();
template <class X>
inline constexpr std::size_t static_rank = [] {
  using shape = std::remove_cvref_t<decltype(std::declval<X&>().shape())>;
  if constexpr (requires { std::tuple_size<shape>::value; }) return std::tuple_size<shape>::value;
  else if constexpr (requires { std::remove_cvref_t<X>::rank; }) return std::remove_cvref_t<X>::rank;
  else return any_rank;
}();

/// Whether the type shows that the elements die with the object: containers do, which can be made from nothing, and an
/// xt::view that has swallowed one does.
template <class X>
struct owns_elements : std::bool_constant<std::default_initializable<X>> {};
template <template <class, class...> class View, class Inner, class... Slices>
  requires StridedTensor<Inner>
struct owns_elements<View<Inner, Slices...>>
    : std::bool_constant<!std::is_lvalue_reference_v<Inner> && owns_elements<std::remove_cv_t<Inner>>::value> {};

/// Throws contract_violation: "expected logits: elements of a row side by side; found shape (3, 4), strides (1, 3)".
template <StridedTensor X>
[[noreturn]] void refuse_tensor(X& tensor, char const* name, char const* wanted) {
  std::string shape, strides;
  for (std::size_t k = 0; k < tensor.dimension(); ++k) {
    shape += (k == 0 ? "" : ", ") + std::to_string(static_cast<std::size_t>(tensor.shape()[k]));
    strides += (k == 0 ? "" : ", ") + std::to_string(static_cast<std::ptrdiff_t>(tensor.strides()[k]));
  }
  throw contract_violation(std::string("expected ") + name + ": " + wanted + "; found shape (" + shape +
                           "), strides (" + strides + ")");
}

/// What both functions below refuse, when it compiles or when it runs.
template <class X, std::size_t Rank>
void expects_viewable([[maybe_unused]] std::remove_reference_t<X>& tensor, [[maybe_unused]] char const* name) {
  static_assert(StridedTensor<X>,
                "attune: an xtensor expression without elements in memory (a lazy sum, xt::broadcast, xt::keep, ...) "
                "cannot be viewed: assign it to an xt::xtensor first");
  if constexpr (StridedTensor<X>) {
    constexpr std::size_t rank = static_rank<X>;
    static_assert(rank == Rank || rank == any_rank,
                  "attune: xtensor_matrix takes tensors of two dimensions, xtensor_span of one: take an xt::view");
    static_assert(std::is_lvalue_reference_v<X> || !owns_elements<std::remove_cv_t<X>>::value,
                  "attune: a view of a temporary container would outlive its elements: give the container a name");
    if (tensor.dimension() != Rank) refuse_tensor(tensor, name, Rank == 2 ? "two dimensions" : "one dimension");
  }
}

/// A tensor of two dimensions as a view of its rows; of constant elements where the tensor, or the view it is, is
/// const. Lives as long as the tensor's memory; resizing the tensor ends it. Allocates nothing unless it throws.
///
/// Throws contract_violation naming `name`, shape and strides unless the elements of a row lie side by side and
/// rows follow each other without overlap: column-major and transposed tensors, every other column, rows in reverse and
/// repeated rows are refused. The stride of a dimension with one entry means nothing and is not looked at: xtensor has
/// 0 there. A lazy expression, another number of dimensions and a temporary container are errors at compile time.
template <TensorExpression X>
[[nodiscard]] auto xtensor_matrix(X&& tensor, char const* name = "tensor") {
  expects_viewable<X, 2>(tensor, name);
  if constexpr (StridedTensor<X>) {
    std::size_t const rows = tensor.shape()[0], cols = tensor.shape()[1];
    std::ptrdiff_t const down = tensor.strides()[0], across = tensor.strides()[1];
    bool const empty = rows == 0 || cols == 0;
    if (!empty && cols > 1 && across != 1) refuse_tensor(tensor, name, "elements of a row side by side");
    if (!empty && rows > 1 && (down < 0 || static_cast<std::size_t>(down) < cols))
      refuse_tensor(tensor, name, "rows one after another");
    std::size_t const row_stride = empty || rows == 1 ? cols : static_cast<std::size_t>(down);
    using element = std::remove_pointer_t<decltype(tensor.data())>;
    return matrix_view<element>{tensor.data() + static_cast<std::size_t>(tensor.data_offset()), rows, cols, row_stride};
  }
}

/// A tensor of one dimension as a span, as xtensor_matrix does it. Throws contract_violation unless its elements lie
/// side by side.
template <TensorExpression X>
[[nodiscard]] auto xtensor_span(X&& tensor, char const* name = "tensor") {
  expects_viewable<X, 1>(tensor, name);
  if constexpr (StridedTensor<X>) {
    std::size_t const size = tensor.shape()[0];
    if (size > 1 && tensor.strides()[0] != 1) refuse_tensor(tensor, name, "elements side by side");
    return std::span(tensor.data() + static_cast<std::size_t>(tensor.data_offset()), size);
  }
}

}  // namespace attune
