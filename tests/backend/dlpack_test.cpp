// SPDX-License-Identifier: MIT
#include <attune/backend/dlpack.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <attune/core/sequences.hpp>

#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#endif

using namespace attune;

// Both generations of DLPack's structures, member by member, since which of them a machine has is chance.
namespace dlpack_0_6 {

enum kind { cpu = 1, cuda = 2 };
struct device {
  kind device_type;
  int device_id;
};
struct dtype {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct tensor {
  void* data;
  dlpack_0_6::device device;
  int ndim;
  dlpack_0_6::dtype dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct managed {
  tensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(managed*);
};

}  // namespace dlpack_0_6

namespace dlpack_1 {

enum kind : std::int32_t { cpu = 1, cuda = 2 };
struct device {
  kind device_type;
  std::int32_t device_id;
};
using dlpack_0_6::dtype;
struct tensor {
  void* data;
  dlpack_1::device device;
  std::int32_t ndim;
  dlpack_1::dtype dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct version {
  std::uint32_t major, minor;
};
struct managed_versioned {
  dlpack_1::version version;
  void* manager_ctx;
  void (*deleter)(managed_versioned*);
  std::uint64_t flags;
  tensor dl_tensor;
};

}  // namespace dlpack_1

namespace near_misses {

struct of_0_5 {  // the device was called ctx
  void* data;
  dlpack_1::device ctx;
  int ndim;
  dlpack_1::dtype dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct narrow_shape : dlpack_1::tensor {
  std::int32_t* shape;
};

}  // namespace near_misses

static_assert(dl_tensor<dlpack_0_6::tensor> && dl_tensor<dlpack_1::tensor>);
static_assert(dl_managed_tensor<dlpack_0_6::managed> && dl_managed_tensor<dlpack_1::managed_versioned>);
static_assert(!dl_tensor<dlpack_0_6::managed> && !dl_managed_tensor<dlpack_1::tensor>);
static_assert(!dl_tensor<near_misses::of_0_5> && !dl_tensor<near_misses::narrow_shape> && !dl_tensor<int>);

namespace {

using numbers = std::vector<std::int64_t>;

/// A tensor with the memory that it points to. Everything may be set to something else before it is looked at.
template <class Tensor>
struct sample {
  numbers shape, strides;
  Tensor tensor{};

  template <class T>
  sample(T* data, numbers its_shape, numbers its_strides = {})
      : shape(std::move(its_shape)), strides(std::move(its_strides)) {
    constexpr dl_dtype dtype = dl_dtype_of<T>();
    tensor.data = data;
    tensor.dtype = {dtype.code, dtype.bits, 1};
    tensor.ndim = static_cast<int>(shape.size());
    tensor.shape = shape.data();
    tensor.strides = strides.empty() ? nullptr : strides.data();
    set_device(1, 0);
  }
  sample(sample const&) = delete;

  void set_device(int type, int id) { tensor.device = {static_cast<decltype(tensor.device.device_type)>(type), id}; }
};

#if __has_include(<dlpack/dlpack.h>)
static_assert(dl_tensor<DLTensor> && dl_managed_tensor<DLManagedTensor>);
#define ATTUNE_TEST_DL_TENSORS dlpack_0_6::tensor, dlpack_1::tensor, DLTensor
#else
#define ATTUNE_TEST_DL_TENSORS dlpack_0_6::tensor, dlpack_1::tensor
#endif

template <class F>
std::string refusal(F const& f) {
  try {
    f();
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE_TEMPLATE("dlpack: a matrix is seen where it lies, whatever its frame", Tensor, ATTUNE_TEST_DL_TENSORS) {
  float memory[24] = {};
  for (int i = 0; i < 24; ++i) memory[i] = static_cast<float>(i);
  struct row {
    char const* what;
    numbers shape, strides;
    std::uint64_t byte_offset;
    std::size_t first, row_stride;
  };
  // The element that the view begins with, and how far apart its rows are.
  row const table[] = {
      {"compact, by NULL", {4, 3}, {}, 0, 0, 3},
      {"compact, as PyTorch says it", {4, 3}, {3, 1}, 0, 0, 3},
      {"rows from the second on", {3, 3}, {3, 1}, 12, 3, 3},
      {"columns of a wider matrix", {4, 3}, {6, 1}, 8, 2, 6},
      {"one column of a wider matrix", {4, 1}, {6, 6}, 4, 1, 6},
      {"one column, transposed to rows apart by 1", {4, 1}, {1, 4}, 0, 0, 1},
      {"a row of 3, its strides left over from elsewhere", {1, 3}, {-7, 1}, 0, 0, 3},
      {"one element", {1, 1}, {0, 0}, 20, 5, 1},
  };
  for (row const& r : table) {
    CAPTURE(r.what);
    sample<Tensor> s(memory, r.shape, r.strides);
    s.tensor.byte_offset = r.byte_offset;
    matrix_view<float> const view = dl_matrix<float>(s.tensor, "logits");
    matrix_view<float const> const constant = dl_matrix<float const>(s.tensor, "logits");
    CHECK(view.data == memory + r.first);
    CHECK(constant.data == view.data);
    CHECK(view.rows == static_cast<std::size_t>(r.shape[0]));
    CHECK(view.cols == static_cast<std::size_t>(r.shape[1]));
    CHECK(view.row_stride == r.row_stride);
    CHECK(constant.row_stride == r.row_stride);
    CHECK(view(view.rows - 1, view.cols - 1) ==
          static_cast<float>(r.first + (view.rows - 1) * r.row_stride + view.cols - 1));
  }
}

TEST_CASE_TEMPLATE("dlpack: without elements there is nothing to check but the shape", Tensor, ATTUNE_TEST_DL_TENSORS) {
  float memory[3];
  for (numbers const& strides : {numbers{}, numbers{0, 0}, numbers{3, 1}, numbers{-1, 7}})
    for (float* const data : {static_cast<float*>(nullptr), memory}) {
      sample<Tensor> no_rows(data, {0, 3}, strides), no_columns(data, {4, 0}, strides);
      no_rows.tensor.byte_offset = 1;
      auto const a = dl_matrix<float>(no_rows.tensor, "logits");
      CHECK((a.rows == 0 && a.cols == 3 && a.row_stride >= a.cols));
      auto const b = dl_matrix<float>(no_columns.tensor, "logits");
      CHECK((b.rows == 4 && b.cols == 0 && b.row_stride >= b.cols));
      CHECK(dl_span<float>(sample<Tensor>(data, {0}, {strides.empty() ? 1 : strides[0]}).tensor, "logps").empty());
    }
}

TEST_CASE_TEMPLATE("dlpack: a span has adjacent elements", Tensor, ATTUNE_TEST_DL_TENSORS) {
  double memory[6] = {0, 1, 2, 3, 4, 5};
  sample<Tensor> by_null(memory, {6}), by_one(memory, {5}, {1}), single(memory, {1}, {-9}), apart(memory, {3}, {2}),
      backwards(memory, {3}, {-1});
  by_one.tensor.byte_offset = sizeof(double);
  CHECK(dl_span<double>(by_null.tensor, "x").data() == memory);
  CHECK(dl_span<double>(by_null.tensor, "x").size() == 6);
  CHECK(dl_span<double const>(by_one.tensor, "x").front() == 1.0);
  CHECK(dl_span<double const>(by_one.tensor, "x").back() == 5.0);
  CHECK(dl_span<double>(single.tensor, "x").size() == 1);
  CHECK(refusal([&] { (void)dl_span<double>(apart.tensor, "x"); }) ==
        "expected x: adjacent elements (stride 1 in dimension 0; a contiguous copy has it), got stride 2");
  CHECK(refusal([&] { (void)dl_span<double>(backwards.tensor, "x"); }) ==
        "expected x: adjacent elements (stride 1 in dimension 0; a contiguous copy has it), got stride -1");
}

TEST_CASE_TEMPLATE("dlpack: what is not a matrix of the host is refused with what was expected and found", Tensor,
                   ATTUNE_TEST_DL_TENSORS) {
  alignas(8) float memory[24] = {};
  constexpr std::int64_t largest = (std::numeric_limits<std::int64_t>::max)();
  using setting = std::function<void(sample<Tensor>&)>;
  struct row {
    char const* message;
    setting set;
  };
  auto const dtype = [](int code, int bits, int lanes) {
    return [=](sample<Tensor>& s) {
      s.tensor.dtype = {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits),
                        static_cast<std::uint16_t>(lanes)};
    };
  };
  auto const device = [](int type, int id) { return [=](sample<Tensor>& s) { s.set_device(type, id); }; };
  auto const layout = [](numbers shape, numbers strides) {
    return [=](sample<Tensor>& s) {
      s.shape = shape;
      s.strides = strides;
      s.tensor.ndim = static_cast<int>(shape.size());
      s.tensor.shape = s.shape.data();
      s.tensor.strides = strides.empty() ? nullptr : s.strides.data();
    };
  };
  row const table[] = {
      {"logits: DLPack dtype float32, got bfloat16", dtype(4, 16, 1)},
      {"logits: DLPack dtype float32, got float64", dtype(2, 64, 1)},
      {"logits: DLPack dtype float32, got int32", dtype(0, 32, 1)},
      {"logits: DLPack dtype float32, got bool", dtype(6, 8, 1)},
      {"logits: DLPack dtype float32, got float8_e4m3fn", dtype(10, 8, 1)},
      {"logits: DLPack dtype float32, got float32 in 4 lanes", dtype(2, 32, 4)},
      {"logits: DLPack dtype float32, got float32 in 0 lanes", dtype(2, 32, 0)},
      {"logits: DLPack dtype float32, got dtype code 42, 16 bits", dtype(42, 16, 1)},
      {"logits: memory that the host can read, got DLPack device CUDA 3", device(2, 3)},
      {"logits: memory that the host can read, got DLPack device ROCm 0", device(10, 0)},
      {"logits: memory that the host can read, got DLPack device type 0 0", device(0, 0)},
      {"logits: memory that the host can read, got DLPack device type 99 1", device(99, 1)},
      {"logits: memory that the host can read, got DLPack device type -1 0", device(-1, 0)},
      {"logits: rank 2, got 0", [](sample<Tensor>& s) { s.tensor.ndim = 0; }},
      {"logits: rank 2, got 1", layout({3}, {})},
      {"logits: rank 2, got 3", layout({2, 2, 2}, {})},
      {"logits: rank 2, got -1", [](sample<Tensor>& s) { s.tensor.ndim = -1; }},
      {"logits: a shape, got NULL", [](sample<Tensor>& s) { s.tensor.shape = nullptr; }},
      {"logits: shape[0] >= 0, got -4", layout({-4, 3}, {})},
      {"logits: shape[1] >= 0, got -1", layout({0, -1}, {})},
      {"logits: adjacent elements (stride 1 in dimension 1; a contiguous copy has it), got stride 4",
       layout({4, 3}, {1, 4})},
      {"logits: adjacent elements (stride 1 in dimension 1; a contiguous copy has it), got stride -1",
       layout({4, 3}, {3, -1})},
      {"logits: adjacent elements (stride 1 in dimension 1; a contiguous copy has it), got stride 0",
       layout({4, 3}, {3, 0})},
      {"logits: adjacent elements (stride 1 in dimension 1; a contiguous copy has it), got stride 2",
       layout({1, 3}, {6, 2})},
      {"logits: rows that follow each other (stride >= 3 in dimension 0; a contiguous copy has it), got stride 1",
       layout({4, 3}, {1, 1})},
      {"logits: rows that follow each other (stride >= 3 in dimension 0; a contiguous copy has it), got stride -3",
       layout({4, 3}, {-3, 1})},
      {"logits: rows that follow each other (stride >= 3 in dimension 0; a contiguous copy has it), got stride 0",
       layout({4, 3}, {0, 1})},
      {"logits: a shape that memory can hold, got 4611686018427387904 rows of 3 elements, stride 3",
       layout({std::int64_t{1} << 62, 3}, {})},
      {"logits: a shape that memory can hold, got 1 rows of 9223372036854775807 elements, stride 9223372036854775807",
       layout({1, largest}, {})},
      {"logits: a shape that memory can hold, got 2 rows of 3 elements, stride 9223372036854775807",
       layout({2, 3}, {largest, 1})},
      {"logits: data, got NULL, with elements", [](sample<Tensor>& s) { s.tensor.data = nullptr; }},
      {"logits: data aligned to 4 bytes, byte_offset included, got an address 2 beyond",
       [](sample<Tensor>& s) { s.tensor.byte_offset = 2; }},
      {"logits: data that ends within the address space, got byte_offset 18446744073709551612",
       [](sample<Tensor>& s) { s.tensor.byte_offset = ~std::uint64_t{3}; }},
      {"logits: data that ends within the address space, got byte_offset 0",
       [&](sample<Tensor>& s) {
         layout({512, 1}, {})(s);
         s.tensor.data = reinterpret_cast<void*>(~std::uintptr_t{0} - 1023);
       }},
  };
  for (row const& r : table) {
    sample<Tensor> s(memory, {4, 3}, {3, 1});
    CHECK_NOTHROW((void)dl_matrix<float>(s.tensor, "logits"));
    r.set(s);
    CHECK(refusal([&] { (void)dl_matrix<float>(s.tensor, "logits"); }) == std::string("expected ") + r.message);
    CHECK(refusal([&] { (void)dl_matrix<float const>(s.tensor, "logits"); }) == std::string("expected ") + r.message);
  }
}

TEST_CASE("dlpack: each element type has its dtype, and no other is taken for it") {
  alignas(8) std::byte memory[64] = {};
  struct row {
    dl_dtype dtype;
    char const* name;
  };
  row const table[] = {{{2, 32}, "float32"},
                       {{2, 64}, "float64"},
                       {{4, 16}, "bfloat16"},
                       {{2, 16}, "float16"},
                       {{0, 32}, "int32"},
                       {{0, 64}, "int64"},
                       {{1, 8}, "uint8"},
                       {{6, 8}, "bool"},
                       {{0, 8}, "int8"},
                       {{5, 64}, "complex64"},
                       {{12, 8}, "float8_e5m2"},
                       {{17, 4}, "float4_e2m1fn"},
                       {{6, 1}, "dtype code 6, 1 bits"}};
  auto const holds = [&]<class T>(T, char const* name) {
    for (row const& r : table) {
      CAPTURE(r.name);
      CHECK(dl_dtype_name(r.dtype) == r.name);
      sample<dlpack_1::tensor> s(reinterpret_cast<T*>(memory), {2});
      s.tensor.dtype = {r.dtype.code, r.dtype.bits, 1};
      bool const same = r.name == std::string(name);
      CHECK(dl_holds<T>(s.tensor) == same);
      CHECK((refusal([&] { (void)dl_span<T>(s.tensor, "x"); }) == "accepted") == same);
      bool const mask = std::is_same_v<T, std::uint8_t> && r.name == std::string("bool");
      CHECK((refusal([&] { (void)dl_span<T const>(s.tensor, "x"); }) == "accepted") == (same || mask));
    }
  };
  holds(0.0f, "float32");
  holds(0.0, "float64");
  holds(bf16(0.0f), "bfloat16");
  holds(f16(0.0f), "float16");
  holds(std::int32_t{}, "int32");
  holds(std::int64_t{}, "int64");
  holds(std::uint8_t{}, "uint8");
  holds(false, "bool");
}

TEST_CASE("dlpack: a mask of bool is read as bytes and not written as such") {
  bool truth[3] = {false, true, true};
  sample<dlpack_1::tensor> s(truth, {3});
  auto const mask = dl_span<std::uint8_t const>(s.tensor, "mask");
  CHECK(std::vector<int>(mask.begin(), mask.end()) == std::vector<int>{0, 1, 1});
  CHECK(dl_span<bool>(s.tensor, "mask").data() == truth);
  CHECK(refusal([&] { (void)dl_span<std::uint8_t>(s.tensor, "mask"); }) ==
        "expected mask: DLPack dtype uint8, got bool");
  std::int8_t wrong[1] = {};
  sample<dlpack_1::tensor> other(wrong, {1});
  CHECK(refusal([&] { (void)dl_span<std::uint8_t const>(other.tensor, "mask"); }) ==
        "expected mask: DLPack dtype uint8 or bool, got int8");
}

TEST_CASE_TEMPLATE("dlpack: host and device memory are asked for apart", Tensor, ATTUNE_TEST_DL_TENSORS) {
  float memory[2] = {};
  struct row {
    int type, id;
    bool host, cuda_0, cuda_1;
  };
  row const table[] = {{1, 0, true, false, false},   {2, 0, false, true, false}, {2, 1, false, false, true},
                       {3, 0, true, false, false},   {13, 0, true, true, true},  {10, 0, false, false, false},
                       {11, 0, false, false, false}, {8, 0, false, false, false}};
  for (row const& r : table) {
    CAPTURE(r.type);
    sample<Tensor> s(memory, {2});
    s.set_device(r.type, r.id);
    auto const accepts = [&](dl_place place) {
      return refusal([&] { (void)dl_span<float>(s.tensor, "x", place); }) == "accepted";
    };
    CHECK(accepts(dl_host) == r.host);
    CHECK(accepts(dl_cuda(0)) == r.cuda_0);
    CHECK(accepts(dl_cuda(1)) == r.cuda_1);
  }
  sample<Tensor> s(memory, {2});
  CHECK(refusal([&] { (void)dl_span<float>(s.tensor, "x", dl_cuda(1)); }) ==
        "expected x: memory of DLPack device CUDA 1, got DLPack device CPU 0");
}

TEST_CASE("dlpack: managed tensors are seen through, and the read-only flag is kept to") {
  float memory[6] = {};
  numbers shape{2, 3};
  dlpack_0_6::managed old{};
  old.dl_tensor = sample<dlpack_0_6::tensor>(memory, {2, 3}).tensor;
  old.dl_tensor.shape = shape.data();
  CHECK(dl_matrix<float>(old, "logits").data == memory);
  dlpack_1::managed_versioned recent{};
  recent.version = {1, 1};
  recent.dl_tensor = sample<dlpack_1::tensor>(memory, {2, 3}).tensor;
  recent.dl_tensor.shape = shape.data();
  CHECK(dl_holds<float>(recent));
  CHECK(dl_matrix<float>(recent, "logits").data == memory);
  recent.flags = 2;  // a copy was made for us
  CHECK_NOTHROW((void)dl_matrix<float>(recent, "logits"));
  recent.flags = 3;
  CHECK(dl_matrix<float const>(recent, "logits").data == memory);
  CHECK(refusal([&] { (void)dl_matrix<float>(recent, "logits"); }) ==
        "expected logits: memory that may be written, got a read-only tensor");
  recent.flags = 0;
  recent.version = {2, 0};
  CHECK(refusal([&] { (void)dl_matrix<float>(recent, "logits"); }) == "expected logits: DLPack version 1, got 2");
}

TEST_CASE_TEMPLATE("dlpack: ids and offsets come from 32 or 64 bits, checked", Tensor, ATTUNE_TEST_DL_TENSORS) {
  std::int32_t narrow[3] = {5, -1, 7};
  std::int64_t wide[3] = {5, -1, 2147483647};
  sample<Tensor> from_narrow(narrow, {3}), from_wide(wide, {3});
  std::vector<token_id> ids;
  CHECK(dl_integers<token_id>(from_narrow.tensor, "tokens", ids).data() == narrow);
  CHECK(ids.empty());
  auto const converted = dl_integers<token_id>(from_wide.tensor, "tokens", ids);
  CHECK(converted.data() == ids.data());
  CHECK(ids == std::vector<token_id>{5, -1, 2147483647});
  std::vector<std::size_t> offsets;
  CHECK(refusal([&] { (void)dl_integers<std::size_t>(from_wide.tensor, "offsets", offsets); }) ==
        "expected offsets[1]: a number in [0, 18446744073709551615], got -1");
  CHECK(refusal([&] { (void)dl_integers<std::size_t>(from_narrow.tensor, "offsets", offsets); }) ==
        "expected offsets[1]: a number in [0, 18446744073709551615], got -1");
  wide[1] = 4;
  wide[2] = std::int64_t{1} << 31;
  CHECK(refusal([&] { (void)dl_integers<token_id>(from_wide.tensor, "tokens", ids); }) ==
        "expected tokens[2]: a number in [-2147483648, 2147483647], got 2147483648");
  auto const sizes = dl_integers<std::size_t>(from_wide.tensor, "offsets", offsets);
  CHECK(std::vector<std::size_t>(sizes.begin(), sizes.end()) == std::vector<std::size_t>{5, 4, std::size_t{1} << 31});
  std::uint8_t bytes[1] = {};
  sample<Tensor> from_bytes(bytes, {1});
  CHECK(refusal([&] { (void)dl_integers<token_id>(from_bytes.tensor, "tokens", ids); }) ==
        "expected tokens: DLPack dtype int32 or int64, got uint8");
  sample<Tensor> matrix(narrow, {3, 1});
  CHECK(refusal([&] { (void)dl_integers<token_id>(matrix.tensor, "tokens", ids); }) ==
        "expected tokens: rank 1, got 2");
}

TEST_CASE_TEMPLATE("dlpack: a view that is described is the view that is read back", Tensor, ATTUNE_TEST_DL_TENSORS) {
  double memory[20] = {};
  matrix_view<double> const view{memory + 1, 3, 4, 6};
  dl_layout<2> layout;
  Tensor tensor{};
  tensor.byte_offset = 99;
  dl_describe(view, layout, tensor);
  CHECK(tensor.ndim == 2);
  CHECK(static_cast<int>(tensor.device.device_type) == 1);
  CHECK(tensor.shape == layout.shape);
  CHECK((layout.shape[0] == 3 && layout.shape[1] == 4 && layout.strides[0] == 6 && layout.strides[1] == 1));
  matrix_view<double> const back = dl_matrix<double>(tensor, "gradient");
  CHECK((back.data == view.data && back.rows == 3 && back.cols == 4 && back.row_stride == 6));

  dl_describe(view, layout, tensor, dl_cuda(2));
  CHECK(refusal([&] { (void)dl_matrix<double>(tensor, "gradient"); }) ==
        "expected gradient: memory that the host can read, got DLPack device CUDA 2");
  CHECK(dl_matrix<double>(tensor, "gradient", dl_cuda(2)).data == view.data);

  bf16 halves[5] = {};
  dl_layout<1> flat;
  dl_describe(std::span<bf16>(halves), flat, tensor);
  CHECK(dl_span<bf16>(tensor, "slopes").data() == halves);
  CHECK(dl_span<bf16>(tensor, "slopes").size() == 5);
  CHECK(refusal([&] { (void)dl_span<f16>(tensor, "slopes"); }) ==
        "expected slopes: DLPack dtype float16, got bfloat16");

  dl_describe(matrix_view<double>{}, layout, tensor);
  CHECK(dl_matrix<double>(tensor, "nothing").rows == 0);
  CHECK(refusal([&] {
          dl_describe(matrix_view<double>{memory, 2, 4, 3}, layout, tensor);
        }) == "expected dl_describe: row_stride >= cols, got 3");
}
