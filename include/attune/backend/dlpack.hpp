// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>

/// Tensors of other frameworks as views, by DLPack, the structure that NumPy, PyTorch, JAX and others hand out. No
/// dlpack.h is included: whatever has the members of a DLTensor is one, be it of DLPack 0.6 or of any 1.x, and so is
/// what holds one in `dl_tensor`, as DLManagedTensor and DLManagedTensorVersioned do.
///
///   dl_matrix<T>(tensor, name, place)          -> matrix_view<T>        rank 2, adjacent elements within a row
///   dl_span<T>(tensor, name, place)            -> std::span<T>          rank 1, adjacent elements
///   dl_integers<Id>(tensor, name, storage)     -> std::span<Id const>   rank 1, int32 or int64, converted with a check
///   dl_describe(view or span, layout, tensor)                           the way back: fills a DLTensor
///
/// Nothing is owned and nothing released: a managed tensor stays its owner's to delete, and must outlive the views.
/// Everything is checked before an element is touched, and what is not as it should be throws contract_violation with
/// the name that the caller gave, what was expected and what was found:
///   expected logits: DLPack dtype float32, got bfloat16
/// Allocates only when it throws (dl_integers where it converts).
namespace attune {

/// What has the members of a DLTensor. Their types may differ as those of DLPack's versions do.
template <class D>
concept dl_tensor = requires(D const& t) {
  { t.data } -> std::convertible_to<void*>;
  { t.byte_offset } -> std::convertible_to<std::uint64_t>;
  { t.shape } -> std::convertible_to<std::int64_t const*>;
  { t.strides } -> std::convertible_to<std::int64_t const*>;  // in elements; null: compact
  { t.ndim } -> std::convertible_to<std::int64_t>;
  { t.dtype.code } -> std::convertible_to<std::uint8_t>;
  { t.dtype.bits } -> std::convertible_to<std::uint8_t>;
  { t.dtype.lanes } -> std::convertible_to<std::uint16_t>;
  static_cast<int>(t.device.device_type);
  static_cast<int>(t.device.device_id);
};

/// What holds one: DLManagedTensor; and with `flags` and `version` DLManagedTensorVersioned, which can say that it is
/// read-only.
template <class D>
concept dl_managed_tensor = requires(D const& m) {
  requires dl_tensor<std::remove_cvref_t<decltype(m.dl_tensor)>>;
};

template <class D>
concept dl_source = dl_tensor<D> || dl_managed_tensor<D>;

/// Where the elements of a tensor are to be read and written.
struct dl_place {
  bool cuda = false;  ///< by kernels on a CUDA device; else by the host
  int device_id = 0;  ///< which device; read if cuda
};

/// Accepts kDLCPU, kDLCUDAHost and kDLCUDAManaged. The last needs all kernels on it to have finished.
inline constexpr dl_place dl_host{};

/// Accepts kDLCUDA of this device, and kDLCUDAManaged. The views are for kernels and may not be dereferenced here.
[[nodiscard]] constexpr dl_place dl_cuda(int device_id) noexcept { return {true, device_id}; }

/// DLDataType.
struct dl_dtype {
  std::uint8_t code = 0;
  std::uint8_t bits = 0;
  std::uint16_t lanes = 1;

  friend constexpr bool operator==(dl_dtype, dl_dtype) = default;
};

/// DLPack's dtype of an element. bool is that of 1.x: older versions had none.
template <class T>
[[nodiscard]] constexpr dl_dtype dl_dtype_of() noexcept {
  constexpr std::uint8_t bits = 8 * sizeof(T);
  if constexpr (std::is_same_v<T, bool>)
    return {6, bits};
  else if constexpr (std::is_same_v<T, bf16>)
    return {4, bits};
  else if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, float> || std::is_same_v<T, double>)
    return {2, bits};
  else if constexpr (std::is_signed_v<T> && std::is_integral_v<T>)
    return {0, bits};
  else {
    static_assert(std::is_unsigned_v<T> && std::is_integral_v<T>, "DLPack has no dtype for this element");
    return {1, bits};
  }
}

/// As frameworks write it: "float32", "bfloat16", "float8_e4m3fn", "float32 in 4 lanes"; "dtype code 42, 16 bits".
[[nodiscard]] inline std::string dl_dtype_name(dl_dtype d) {
  static constexpr char const* families[] = {"int", "uint", "float", "handle", "bfloat", "complex"};
  static constexpr struct {
    char const* name;
    int bits;
  } others[] = {{"bool", 8},           {"float8_e3m4", 8},     {"float8_e4m3", 8},   {"float8_e4m3b11fnuz", 8},
                {"float8_e4m3fn", 8},  {"float8_e4m3fnuz", 8}, {"float8_e5m2", 8},   {"float8_e5m2fnuz", 8},
                {"float8_e8m0fnu", 8}, {"float6_e2m3fn", 6},   {"float6_e3m2fn", 6}, {"float4_e2m1fn", 4}};
  std::string name;
  if (d.code < std::size(families))
    name = families[d.code] + std::to_string(d.bits);
  else if (d.code < 6 + std::size(others) && others[d.code - 6].bits == d.bits)
    name = others[d.code - 6].name;
  else
    name = "dtype code " + std::to_string(d.code) + ", " + std::to_string(d.bits) + " bits";
  return d.lanes == 1 ? name : name + " in " + std::to_string(d.lanes) + " lanes";
}

/// The members of any DLTensor, and what was said around it. Only what follows reads it.
struct dl_description {
  void* data;
  std::uint64_t byte_offset;
  std::int64_t const* shape;
  std::int64_t const* strides;
  std::int64_t rank;
  dl_dtype dtype;
  int device_type;
  int device_id;
  bool read_only;
  std::int64_t of_version;  // its first number; 1 where none is said
};

/// The number in an enumeration that need not have a name for it, as where an older header meets a newer device; so it
/// is not read as one.
template <class E>
[[nodiscard]] int dl_number(E const& e) noexcept {
  if constexpr (std::is_enum_v<E>) {
    std::underlying_type_t<E> number;
    std::memcpy(&number, &e, sizeof number);
    return static_cast<int>(number);
  } else {
    return static_cast<int>(e);
  }
}

template <dl_source D>
[[nodiscard]] dl_description dl_description_of(D const& d) {
  if constexpr (dl_managed_tensor<D>) {
    dl_description result = dl_description_of(d.dl_tensor);
    if constexpr (requires { d.flags & 1u; }) result.read_only = (d.flags & 1u) != 0;  // DLPACK_FLAG_BITMASK_READ_ONLY
    if constexpr (requires { static_cast<std::int64_t>(d.version.major); })
      result.of_version = static_cast<std::int64_t>(d.version.major);
    return result;
  } else {
    return {.data = d.data,
            .byte_offset = d.byte_offset,
            .shape = d.shape,
            .strides = d.strides,
            .rank = static_cast<std::int64_t>(d.ndim),
            .dtype = {d.dtype.code, d.dtype.bits, d.dtype.lanes},
            .device_type = dl_number(d.device.device_type),
            .device_id = static_cast<int>(d.device.device_id),
            .read_only = false,
            .of_version = 1};
  }
}

[[noreturn]] inline void dl_refuse(char const* name, std::string const& expected, std::string const& found) {
  throw contract_violation(std::string("expected ") + name + ": " + expected + ", got " + found);
}

[[nodiscard]] inline std::string dl_device_name(int type, int id) {
  static constexpr char const* names[] = {
      nullptr,   "CPU",  "CUDA",    "pinned CUDA host", "OpenCL",    nullptr,        nullptr,  "Vulkan",
      "Metal",   "VPI",  "ROCm",    "pinned ROCm host", "extension", "managed CUDA", "oneAPI", "WebGPU",
      "Hexagon", "MAIA", "Trainium"};
  bool const known = type >= 0 && static_cast<std::size_t>(type) < std::size(names) && names[type] != nullptr;
  return (known ? std::string(names[type]) : "type " + std::to_string(type)) + " " + std::to_string(id);
}

/// A tensor that passed: `rows` rows of `cols` adjacent elements. data is null where there are none.
struct dl_block {
  void* data;
  std::size_t rows, cols, row_stride;
};

/// What dl_matrix (rank 2) and dl_span (rank 1, one row) check. `or_bool`: a bool tensor will do as well.
[[nodiscard]] inline dl_block dl_checked_block(dl_description const& t, char const* name, std::int64_t rank,
                                               dl_dtype wanted, bool or_bool, std::size_t size, std::size_t alignment,
                                               bool for_writing, dl_place place) {
  constexpr int cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13;
  constexpr dl_dtype boolean{6, 8, 1};
  auto const text = [](auto number) { return std::to_string(number); };
  if (t.of_version != 1) dl_refuse(name, "DLPack version 1", text(t.of_version));  // a later layout may be another
  if (t.dtype != wanted && !(or_bool && t.dtype == boolean))
    dl_refuse(name, "DLPack dtype " + dl_dtype_name(wanted) + (or_bool ? " or bool" : ""), dl_dtype_name(t.dtype));
  bool const there = place.cuda
                         ? (t.device_type == cuda && t.device_id == place.device_id) || t.device_type == cuda_managed
                         : t.device_type == cpu || t.device_type == cuda_host || t.device_type == cuda_managed;
  if (!there)
    dl_refuse(name,
              place.cuda ? "memory of DLPack device CUDA " + text(place.device_id) : "memory that the host can read",
              "DLPack device " + dl_device_name(t.device_type, t.device_id));
  if (for_writing && t.read_only) dl_refuse(name, "memory that may be written", "a read-only tensor");
  if (t.rank != rank) dl_refuse(name, "rank " + text(rank), text(t.rank));
  if (t.shape == nullptr) dl_refuse(name, "a shape", "NULL");
  for (std::int64_t d = 0; d < rank; ++d)
    if (t.shape[d] < 0) dl_refuse(name, "shape[" + text(d) + "] >= 0", text(t.shape[d]));

  std::int64_t const rows = rank == 2 ? t.shape[0] : 1, cols = t.shape[rank - 1];
  dl_block const shaped{nullptr, static_cast<std::size_t>(rows), static_cast<std::size_t>(cols),
                        static_cast<std::size_t>(cols)};
  if (rows == 0 || cols == 0) return shaped;  // where nothing lies, it lies anywhere

  // A stride that is never taken may be any number.
  std::int64_t const inner = t.strides != nullptr && cols > 1 ? t.strides[rank - 1] : 1;
  std::int64_t const outer = t.strides != nullptr && rows > 1 ? t.strides[0] : cols;
  if (inner != 1)
    dl_refuse(name, "adjacent elements (stride 1 in dimension " + text(rank - 1) + "; a contiguous copy has it)",
              "stride " + text(inner));
  if (outer < cols)
    dl_refuse(name,
              "rows that follow each other (stride >= " + text(cols) + " in dimension 0; a contiguous copy has it)",
              "stride " + text(outer));
  std::int64_t const largest = (std::numeric_limits<std::ptrdiff_t>::max)() / static_cast<std::int64_t>(size);
  if (cols > largest || (rows > 1 && outer > (largest - cols) / (rows - 1)))
    dl_refuse(name, "a shape that memory can hold",
              (rank == 2 ? text(rows) + " rows of " : "") + text(cols) + " elements, stride " + text(outer));

  if (t.data == nullptr) dl_refuse(name, "data", "NULL, with elements");
  std::uintptr_t const begin = reinterpret_cast<std::uintptr_t>(t.data);
  std::uint64_t const bytes =
      (static_cast<std::uint64_t>(rows - 1) * static_cast<std::uint64_t>(outer) + static_cast<std::uint64_t>(cols)) *
      size;
  std::uintptr_t const room = (std::numeric_limits<std::uintptr_t>::max)() - begin;
  if (t.byte_offset > room || bytes > room - t.byte_offset)
    dl_refuse(name, "data that ends within the address space", "byte_offset " + text(t.byte_offset));
  if ((begin + t.byte_offset) % alignment != 0)
    dl_refuse(name, "data aligned to " + text(alignment) + " bytes, byte_offset included",
              "an address " + text((begin + t.byte_offset) % alignment) + " beyond");
  return {static_cast<char*>(t.data) + t.byte_offset, shaped.rows, shaped.cols, static_cast<std::size_t>(outer)};
}

/// dl_checked_block for elements T.
template <class T>
[[nodiscard]] dl_block dl_checked_block_of(dl_description const& t, char const* name, std::int64_t rank,
                                           dl_place place) {
  using element = std::remove_const_t<T>;
  constexpr bool or_bool = std::is_same_v<T, std::uint8_t const>;
  return dl_checked_block(t, name, rank, dl_dtype_of<element>(), or_bool, sizeof(T), alignof(T), !std::is_const_v<T>,
                          place);
}

/// Whether the elements are of type T: for callers who take more than one. A tensor of another kind is refused by the
/// functions below anyway.
template <class T, dl_source D>
[[nodiscard]] bool dl_holds(D const& tensor) {
  return dl_description_of(tensor).dtype == dl_dtype_of<std::remove_const_t<T>>();
}

/// A tensor of rank 2 as a view, (shape[0], shape[1]). T: float, double, bf16, f16, bool or an integer; const for
/// reading. A bool tensor is also one of std::uint8_t const, 0 or 1. Elements of a row are adjacent, rows at least
/// shape[1] apart: a transposed, reversed or broadcast tensor is refused. A dimension of 1, and all of a tensor without
/// elements, may have any stride. O(1).
template <class T, dl_source D>
[[nodiscard]] matrix_view<T> dl_matrix(D const& tensor, char const* name, dl_place place = dl_host) {
  dl_block const block = dl_checked_block_of<T>(dl_description_of(tensor), name, 2, place);
  return {static_cast<T*>(block.data), block.rows, block.cols, block.row_stride};
}

/// The same of a tensor of rank 1 whose elements are adjacent.
template <class T, dl_source D>
[[nodiscard]] std::span<T> dl_span(D const& tensor, char const* name, dl_place place = dl_host) {
  dl_block const block = dl_checked_block_of<T>(dl_description_of(tensor), name, 1, place);
  return {static_cast<T*>(block.data), block.cols};
}

/// Token ids (Id = token_id) or offsets (Id = std::size_t) from a tensor of rank 1 in host memory, of int32 or int64 as
/// frameworks have them. Where the tensor holds Id itself, a view of it, and storage is left alone; else storage is
/// overwritten with the numbers, and the answer is a view of that. Throws contract_violation naming the index and value
/// of the first that Id cannot hold. O(elements).
template <std::integral Id, dl_source D>
[[nodiscard]] std::span<Id const> dl_integers(D const& tensor, char const* name, std::vector<Id>& storage) {
  dl_description const description = dl_description_of(tensor);
  auto const convert = [&]<class From>(std::span<From const> numbers) -> std::span<Id const> {
    if constexpr (std::is_same_v<From, Id>) {
      return numbers;
    } else {
      storage.resize(numbers.size());
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        if (!std::in_range<Id>(numbers[i]))
          dl_refuse((std::string(name) + "[" + std::to_string(i) + "]").c_str(),
                    "a number in [" + std::to_string((std::numeric_limits<Id>::min)()) + ", " +
                        std::to_string((std::numeric_limits<Id>::max)()) + "]",
                    std::to_string(numbers[i]));
        storage[i] = static_cast<Id>(numbers[i]);
      }
      return storage;
    }
  };
  if (description.dtype == dl_dtype_of<std::int32_t>()) return convert(dl_span<std::int32_t const>(tensor, name));
  if (description.dtype == dl_dtype_of<std::int64_t>()) return convert(dl_span<std::int64_t const>(tensor, name));
  dl_refuse(name, "DLPack dtype int32 or int64", dl_dtype_name(description.dtype));
}

/// Room for the shape and the strides that a DLTensor points to; the caller's, to outlive the DLTensor.
template <std::size_t Rank>
struct dl_layout {
  std::int64_t shape[Rank] = {};
  std::int64_t strides[Rank] = {};
};

/// dl_describe's common part.
template <dl_tensor D, class T, std::size_t Rank>
void dl_fill(T* data, dl_layout<Rank>& layout, D& tensor, dl_place place) {
  static_assert(!std::is_const_v<T>, "a DLTensor cannot say that it is read-only: its reader may write through it");
  constexpr dl_dtype dtype = dl_dtype_of<T>();
  tensor.data = data;
  tensor.byte_offset = 0;
  tensor.shape = layout.shape;
  tensor.strides = layout.strides;
  tensor.ndim = static_cast<int>(Rank);
  tensor.dtype.code = dtype.code;
  tensor.dtype.bits = dtype.bits;
  tensor.dtype.lanes = dtype.lanes;
  using device_type = std::remove_reference_t<decltype(tensor.device.device_type)>;
  tensor.device.device_type = static_cast<device_type>(place.cuda ? 2 : 1);
  tensor.device.device_id = place.cuda ? place.device_id : 0;
}

/// Makes `tensor` describe a view of ours, for handing gradients out: no copy, nothing owned, strides always written.
/// Both the view's memory and the layout must outlive the tensor. Device memory by dl_cuda(id). DLPack asks for an
/// alignment of 256 bytes, which hardly anyone keeps or checks: what the view has is what the tensor has. What is const
/// cannot be handed out. O(1).
template <dl_tensor D, class T>
void dl_describe(matrix_view<T> view, dl_layout<2>& layout, D& tensor, dl_place place = dl_host) {
  expects(view.rows <= 1 || view.row_stride >= view.cols, "dl_describe: row_stride >= cols", view.row_stride);
  layout = {{static_cast<std::int64_t>(view.rows), static_cast<std::int64_t>(view.cols)},
            {static_cast<std::int64_t>(view.row_stride), 1}};
  dl_fill(view.data, layout, tensor, place);
}

/// The same of a span, rank 1.
template <dl_tensor D, class T>
void dl_describe(std::span<T> values, dl_layout<1>& layout, D& tensor, dl_place place = dl_host) {
  layout = {{static_cast<std::int64_t>(values.size())}, {1}};
  dl_fill(values.data(), layout, tensor, place);
}

}  // namespace attune
