// SPDX-License-Identifier: MIT
#include <attune/backend/torch.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ATen/ATen.h>
#include <doctest/doctest.h>

using namespace attune;

namespace {

template <class F>
void refused(F const& f, char const* message) {
  CHECK_THROWS_WITH_AS(static_cast<void>(f()), message, contract_violation);
}

}  // namespace

TEST_CASE_TEMPLATE("torch views: elements lie where the tensor has them", T, float, double, bf16, f16) {
  at::Tensor const tensor = at::arange(12, at::kDouble).view({3, 4}).to(torch_dtype<T>);
  matrix_view<T const> const m = torch_matrix<T const>(tensor, "tensor");
  CHECK(m.data == tensor.data_ptr());
  CHECK(m.rows == 3);
  CHECK(m.cols == 4);
  CHECK(m.row_stride == 4);
  for (std::size_t r = 0; r < 3; ++r)
    for (std::size_t c = 0; c < 4; ++c) CHECK(static_cast<double>(m(r, c)) == static_cast<double>(4 * r + c));
  torch_matrix<T>(tensor, "tensor")(2, 3) = T(0.5f);
  CHECK(tensor[2][3].item<double>() == 0.5);
  CHECK(torch_span<T const>(tensor, "tensor").size() == 12);
  CHECK(static_cast<double>(torch_span<T>(tensor, "tensor")[5]) == 5.0);
}

TEST_CASE("torch views: 16-bit numbers are the same bits") {
  at::Tensor const values = at::tensor({1.0, -0.0, 3.140625, 1e-40, 65504.0, INFINITY});
  for (auto const& [type, bits] :
       {std::pair{at::kBFloat16, std::vector<int>{0x3F80, 0x8000, 0x4049, 0x0001, 0x4780, 0x7F80}},
        std::pair{at::kHalf, std::vector<int>{0x3C00, 0x8000, 0x4248, 0x0000, 0x7BFF, 0x7C00}}}) {
    at::Tensor const narrow = values.to(type);
    for (std::size_t i = 0; i < bits.size(); ++i)
      CHECK((type == at::kHalf ? torch_span<f16 const>(narrow, "narrow")[i].bits
                               : torch_span<bf16 const>(narrow, "narrow")[i].bits) == bits[i]);
  }
}

TEST_CASE("torch views: rows apart, dimensions of one and leading dimensions that are one") {
  at::Tensor const wide = at::arange(40, at::kFloat).view({5, 8});
  matrix_view<float const> const part = torch_matrix<float const>(wide.slice(1, 2, 5).slice(0, 1, 4), "part");
  CHECK(part.rows == 3);
  CHECK(part.cols == 3);
  CHECK(part.row_stride == 8);
  CHECK(part(2, 1) == 27.0f);
  CHECK(torch_matrix<float const>(wide.slice(0, 0, 5, 2), "every other")(2, 7) == 39.0f);

  CHECK(torch_matrix<float const>(wide.slice(1, 3, 4), "a column").row_stride == 8);
  matrix_view<float const> const row = torch_matrix<float const>(wide.t().slice(1, 2, 3).t(), "a row of a transpose");
  CHECK(row.row_stride == 8);
  CHECK(row(0, 7) == 23.0f);
  // One row of any stride, one column of any: strides of a single element mean nothing.
  CHECK(torch_matrix<float const>(at::as_strided(wide, {1, 3}, {0, 1}), "row").row_stride == 3);
  CHECK(torch_matrix<float const>(at::as_strided(wide, {3, 1}, {2, 7}), "column").row_stride == 2);

  at::Tensor const deep = at::arange(48, at::kFloat).view({2, 3, 8});
  CHECK(torch_matrix<float const>(deep, "deep").rows == 6);
  CHECK(torch_matrix<float const>(deep.slice(2, 0, 5), "deep")(5, 4) == 44.0f);
  CHECK(torch_matrix<float const>(deep.slice(0, 1, 2).slice(1, 0, 2), "deep").rows == 2);
  CHECK(torch_matrix<float const>(at::empty({2, 0, 8}), "empty").rows == 0);
  CHECK(torch_matrix<float const>(at::empty({0, 8}), "empty").cols == 8);
}

TEST_CASE("torch views: what does not fit is refused by name") {
  at::Tensor const wide = at::arange(40, at::kFloat).view({5, 8});
  refused([] { return torch_matrix<float const>({}, "logits"); }, "expected logits: a tensor, got an undefined one");
  refused([&] { return torch_matrix<double const>(wide, "logits"); },
          "expected logits: a tensor of dtype Double, got Float");
  refused([&] { return torch_matrix<float const>(wide[0], "logits"); },
          "expected logits: a tensor of two dimensions or more, (rows, cols), got the shape (8)");
  refused([&] { return torch_matrix<float const>(wide.t(), "logits"); },
          "expected logits: adjacent elements in a row (a stride of 1; see contiguous()), got the shape (8, 5) with strides (1, 8)");
  refused([&] { return torch_matrix<float const>(wide[0].expand({3, 8}), "logits"); },
          "expected logits: rows that do not overlap (see contiguous()), got the shape (3, 8) with strides (0, 1)");
  refused([&] { return torch_matrix<float const>(wide.view({5, 2, 4}).transpose(0, 1), "logits"); },
          "expected logits: leading dimensions that can be seen as one (see contiguous()), got the shape (2, 5, 4) with "
          "strides (4, 8, 1)");
  refused([&] { return torch_matrix<float const>(wide.to_sparse(), "logits"); },
          "expected logits: a dense (strided) tensor, got a sparse one");
  refused([&] { return torch_matrix<float const>(at::empty({2, 2}, at::TensorOptions(at::kMeta)), "logits"); },
          "expected logits: a tensor on the CPU, got one on meta");
  refused([&] { return torch_matrix<float const>(wide, "logits", torch_memory::device); },
          "expected logits: a tensor on a CUDA device, got one on cpu");
  refused([&] { return torch_span<float const>(wide.t(), "values"); },
          "expected values: a contiguous tensor (see contiguous()), got the shape (8, 5) with strides (1, 8)");
  refused([&] { return torch_span<float const>(at::_neg_view(wide), "values"); },
          "expected values: a tensor as it lies in memory, got a lazily negated one");
}

TEST_CASE("torch views: memory that autograd watches is not written behind its back") {
  at::Tensor const leaf = at::ones({2, 3}).requires_grad_(true), result = leaf * 2;
  CHECK(torch_matrix<float const>(leaf, "leaf").rows == 2);
  refused([&] { return torch_matrix<float>(leaf, "leaf"); },
          "expected leaf: a tensor that may be written: one that does not require grad, or grad mode off, got a leaf that "
          "requires grad");
  refused([&] { return torch_span<float>(result, "result"); },
          "expected result: a tensor that may be written: one that does not require grad, or grad mode off, got a result "
          "that requires grad");
  {
    at::NoGradGuard const guard;
    torch_span<float>(leaf, "leaf")[0] = 5.0f;
  }
  CHECK(leaf[0][0].item<float>() == 5.0f);
  // square() saved what was then written: its backward pass must not use it.
  at::Tensor const saved = at::ones({3}), x = at::ones({3}).requires_grad_(true);
  at::Tensor const product = (x * saved).sum();
  torch_span<float>(saved, "saved")[1] = 7.0f;
  CHECK_THROWS_WITH_AS(product.backward(), doctest::Contains("modified by an inplace operation"), c10::Error);
}

TEST_CASE("torch views: token ids are checked, a padded batch becomes sequences") {
  at::Tensor const ids = at::tensor({1, 2, 3, 4, 5, 0}).to(at::kLong).view({2, 3});
  CHECK(torch_token_ids(ids, "ids") == std::vector<token_id>{1, 2, 3, 4, 5, 0});
  refused([&] { return torch_token_ids(ids.to(at::kInt), "ids"); }, "expected ids: a tensor of dtype Long, got Int");
  at::Tensor const large = ids.clone();
  large[1][0] = std::int64_t{1} << 31;
  refused([&] { return torch_token_ids(large, "ids"); },
          "expected ids: token ids of 32 bits, got 2147483648 at element 3");

  at::Tensor const mask = at::tensor({0, 1, 1, 0, 1, 0}).to(at::kLong).view({2, 3});
  for (auto const type : {at::kLong, at::kBool}) {
    sequences const batch = torch_sequences(ids, mask.to(type));
    sequences_view const s = batch;
    CHECK(s.size() == 2);
    CHECK(s.length(1) == 3);
    CHECK(std::vector<std::uint8_t>(s.mask.begin(), s.mask.end()) == std::vector<std::uint8_t>{0, 1, 1, 0, 1, 0});
    CHECK(s.sequence(1)[1] == 5);
  }
  refused([&] { return torch_sequences(ids, mask * 2); }, "expected mask: 0 or 1, got 2 at row 0, token 1");
  refused([&] { return torch_sequences(ids, 1 - mask); },
          "expected mask: 0 on the first token of a row, which nothing precedes, got 1 at row 0");
  refused([&] { return torch_sequences(ids, mask.slice(1, 1)); }, "expected mask: the shape of ids, (2, 3), got (2, 2)");
  refused([&] { return torch_sequences(ids.flatten(), mask); },
          "expected ids: a tensor (sequences, length), got the shape (6)");
  refused([&] { return torch_sequences(ids, mask.to(at::kFloat)); }, "expected mask: a tensor of dtype Long, got Float");
}
