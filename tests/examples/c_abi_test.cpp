// SPDX-License-Identifier: MIT
//
// libattune_c from outside: by its header alone, as another language sees it. demo.py beside it goes on from here,
// where there is a Python to run it.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "../../examples/c_abi/attune_c.h"

namespace {

/// A tensor with its own memory. The type is said by DLPack's code.
template <class Number>
struct tensor {
  std::vector<Number> data;
  std::vector<std::int64_t> shape, strides;
  DLTensor is;

  tensor(std::vector<Number> numbers, std::vector<std::int64_t> its_shape, int code)
      : data(std::move(numbers)), shape(std::move(its_shape)), is() {
    is.data = data.data();
    is.device = {kDLCPU, 0};
    is.ndim = static_cast<int>(shape.size());
    is.dtype = {static_cast<std::uint8_t>(code), 8 * sizeof(Number), 1};
    is.shape = shape.data();
  }
  tensor(tensor const&) = delete;

  void set_strides(std::vector<std::int64_t> numbers) {
    strides = std::move(numbers);
    is.strides = strides.data();
  }
};

constexpr std::int64_t tokens = 9, vocabulary = 5;

template <class Number>
std::vector<Number> made_up(std::size_t count, std::size_t seed) {
  std::vector<Number> numbers(count);
  for (std::size_t i = 0; i < count; ++i)
    numbers[i] = static_cast<Number>(static_cast<double>((i * i * 3 + i * 7 + seed) % 13) / 8.0 - 0.5);
  return numbers;
}

/// Two responses to one prompt: a pair for DPO. Everything that a call takes.
template <class Number>
struct world {
  tensor<std::int64_t> ids{{1, 2, 3, 4, 0, 1, 2, 3, 0}, {tokens}, kDLInt};
  tensor<std::int32_t> offsets{{0, 5, 9}, {3}, kDLInt};
  tensor<std::uint8_t> mask{{0, 0, 1, 1, 1, 0, 0, 1, 1}, {tokens}, kDLUInt};
  tensor<Number> logits{made_up<Number>(tokens * vocabulary, 3), {tokens, vocabulary}, kDLFloat};
  tensor<Number> ref_logits{made_up<Number>(tokens * vocabulary, 5), {tokens, vocabulary}, kDLFloat};
  tensor<Number> ref_logps{std::vector<Number>(tokens), {tokens}, kDLFloat};
  tensor<Number> advantages{{9, 9, 0.5, -1, 2, 9, 9, 1, -0.25}, {tokens}, kDLFloat};
  tensor<Number> gradient{std::vector<Number>(tokens * vocabulary, Number(7)), {tokens, vocabulary}, kDLFloat};
  attune_sequences sequences{&ids.is, &offsets.is, &mask.is};
  double loss = 7.0;
  char error[256] = "";

  attune_status logps(DLTensor const* of, DLTensor const* to) {
    return attune_logps_on_logits(of, &sequences, to, error, sizeof error);
  }
  attune_status sft(double smoothing = 0.1) {
    return attune_sft_loss_on_logits(&logits.is, &sequences, smoothing, &loss, &gradient.is, error, sizeof error);
  }
  attune_status dpo(double beta = 0.5) {
    return attune_dpo_loss_on_logits(&logits.is, &sequences, &ref_logps.is, beta, 0.1, &loss, &gradient.is, error,
                                     sizeof error);
  }
  attune_status ppo(double cliprange = 0.9) {
    return attune_ppo_loss_on_logits(&logits.is, &sequences, &ref_logps.is, &advantages.is, cliprange, &loss,
                                     &gradient.is, error, sizeof error);
  }
};

using loss_of = std::function<attune_status(world<double>&)>;
loss_of const losses[] = {[](world<double>& w) { return w.sft(); }, [](world<double>& w) { return w.dpo(); },
                          [](world<double>& w) { return w.ppo(); }};

}  // namespace

TEST_CASE("c_abi: gradients on logits are the derivatives of the losses") {
  for (loss_of const& loss : losses) {
    world<double> w;
    REQUIRE(w.logps(&w.ref_logits.is, &w.ref_logps.is) == ATTUNE_OK);
    for (double& x : w.logits.data) x = 0.5 * x;  // ratios within the clip
    REQUIRE(loss(w) == ATTUNE_OK);
    CHECK(std::string(w.error).empty());
    std::vector<double> const gradient = w.gradient.data;
    double largest = 0.0;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      double const x = w.logits.data[i], h = 1e-5;
      w.logits.data[i] = x + h;
      REQUIRE(loss(w) == ATTUNE_OK);
      double const above = w.loss;
      w.logits.data[i] = x - h;
      REQUIRE(loss(w) == ATTUNE_OK);
      w.logits.data[i] = x;
      CHECK(gradient[i] == doctest::Approx((above - w.loss) / (2 * h)).epsilon(1e-8));
      largest = (std::max)(largest, std::abs(gradient[i]));
    }
    CHECK(largest > 1e-2);
  }
}

TEST_CASE("c_abi: equal policies have DPO's loss ln 2, and PPO's is the mean advantage") {
  world<double> w;
  REQUIRE(w.logps(&w.logits.is, &w.ref_logps.is) == ATTUNE_OK);
  CHECK(w.ref_logps.data[1] == 0.0);
  CHECK(w.ref_logps.data[2] < 0.0);
  REQUIRE(attune_dpo_loss_on_logits(&w.logits.is, &w.sequences, &w.ref_logps.is, 0.1, 0.0, &w.loss, &w.gradient.is,
                                    nullptr, 0) == ATTUNE_OK);
  CHECK(w.loss == std::log(2.0));
  REQUIRE(w.ppo(0.2) == ATTUNE_OK);
  CHECK(w.loss == doctest::Approx(-(0.5 - 1 + 2 + 1 - 0.25) / 5).epsilon(1e-15));
}

TEST_CASE("c_abi: float and double agree, over the logits as beside them, whatever the frame") {
  world<double> w;
  world<float> narrow;
  REQUIRE(w.sft() == ATTUNE_OK);
  REQUIRE(narrow.sft() == ATTUNE_OK);
  CHECK(narrow.loss == doctest::Approx(w.loss).epsilon(1e-6));
  for (std::size_t i = 0; i < w.gradient.data.size(); ++i)
    CHECK(static_cast<double>(narrow.gradient.data[i]) == doctest::Approx(w.gradient.data[i]).epsilon(1e-5));

  // One memory of 2 V columns: logits on the left, the gradient on the right.
  world<double> wide;
  std::vector<double> both(tokens * 2 * vocabulary, 7.0);
  for (std::size_t t = 0; t < tokens; ++t)
    std::copy_n(&w.logits.data[t * vocabulary], vocabulary, &both[t * 2 * vocabulary]);
  for (auto* const one : {&wide.logits, &wide.gradient}) {
    one->is.data = both.data();
    one->set_strides({2 * vocabulary, 1});
  }
  wide.gradient.is.byte_offset = vocabulary * sizeof(double);
  REQUIRE(wide.sft() == ATTUNE_OK);
  CHECK(wide.loss == w.loss);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t v = 0; v < vocabulary; ++v)
      CHECK(both[(2 * t + 1) * vocabulary + v] == w.gradient.data[t * vocabulary + v]);

  std::vector<double> const gradient = w.gradient.data;
  w.gradient.is.data = w.logits.data.data();
  REQUIRE(w.sft() == ATTUNE_OK);
  CHECK(w.logits.data == gradient);
}

TEST_CASE("c_abi: door 1 has DPO's loss and slopes, in place of the log-probabilities") {
  tensor<double> chosen{{-3, -5}, {2}, kDLFloat}, rejected{{-4, -4.5}, {2}, kDLFloat};
  tensor<double> ref_chosen{{-3.5, -5}, {2}, kDLFloat}, ref_rejected{{-4, -4}, {2}, kDLFloat};
  double loss = 0.0;
  char error[256] = "?";
  REQUIRE(attune_dpo_loss(&chosen.is, &rejected.is, &ref_chosen.is, &ref_rejected.is, 0.5, 0.0, &loss, &chosen.is,
                          &rejected.is, error, sizeof error) == ATTUNE_OK);
  // Both margins are 0.5, so z is 0.25.
  CHECK(loss == doctest::Approx(std::log1p(std::exp(-0.25))).epsilon(1e-14));
  double const slope = -0.5 / (1 + std::exp(0.25)) / 2;
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(chosen.data[i] == doctest::Approx(slope).epsilon(1e-14));
    CHECK(rejected.data[i] == doctest::Approx(-slope).epsilon(1e-14));
  }
  CHECK(std::string(error).empty());
  CHECK(attune_dpo_loss(&chosen.is, &rejected.is, &ref_chosen.is, nullptr, 0.5, 0.0, &loss, &chosen.is, &rejected.is,
                        error, sizeof error) == ATTUNE_BAD_ARGUMENT);
  CHECK(std::string(error) == "expected ref_rejected: a tensor, got NULL");
}

TEST_CASE("c_abi: what is wrong is said, with the argument's name, and nothing is written") {
  using world = world<double>;
  struct row {
    char const* message;
    std::function<attune_status(world&)> call;
  };
  row const table[] = {
      {"logits: DLPack dtype float32 or float64, got bfloat16",
       [](world& w) {
         return w.logits.is.dtype = {kDLBfloat, 16, 1}, w.sft();
       }},
      {"logits: DLPack dtype float32 or float64, got float64 in 2 lanes",
       [](world& w) { return w.logits.is.dtype.lanes = 2, w.sft(); }},
      {"gradient: DLPack dtype float64, got float32", [](world& w) { return w.gradient.is.dtype.bits = 32, w.sft(); }},
      {"ref_logps: DLPack dtype float64, got float32",
       [](world& w) { return w.ref_logps.is.dtype.bits = 32, w.dpo(); }},
      {"tokens: DLPack dtype int32 or int64, got float64",
       [](world& w) {
         return w.ids.is.dtype = {kDLFloat, 64, 1}, w.sft();
       }},
      {"mask: DLPack dtype uint8 or bool, got int8", [](world& w) { return w.mask.is.dtype.code = kDLInt, w.sft(); }},
      {"logits: memory that the host can read, got DLPack device CUDA 1",
       [](world& w) {
         return w.logits.is.device = {kDLCUDA, 1}, w.dpo();
       }},
      {"gradient: memory that the host can read, got DLPack device CUDA 0",
       [](world& w) {
         return w.gradient.is.device = {kDLCUDA, 0}, w.dpo();
       }},
      {"logits: rank 2, got 1", [](world& w) { return w.logits.is.ndim = 1, w.ppo(); }},
      {"offsets: rank 1, got 0", [](world& w) { return w.offsets.is.ndim = 0, w.ppo(); }},
      {"logits: adjacent elements (stride 1 in dimension 1; a contiguous copy has it), got stride 9",
       [](world& w) {
         return w.logits.set_strides({1, tokens}), w.sft();
       }},
      {"logits: rows that follow each other (stride >= 5 in dimension 0; a contiguous copy has it), got stride 0",
       [](world& w) {
         return w.logits.set_strides({0, 1}), w.sft();
       }},
      {"advantages: adjacent elements (stride 1 in dimension 0; a contiguous copy has it), got stride 2",
       [](world& w) { return w.advantages.set_strides({2}), w.ppo(); }},
      {"tokens[3]: a number in [-2147483648, 2147483647], got 4294967298",
       [](world& w) { return w.ids.data[3] = 4294967298, w.sft(); }},
      {"offsets[1]: a number in [0, 18446744073709551615], got -5",
       [](world& w) { return w.offsets.data[1] = -5, w.sft(); }},
      {"loss_on_logits: dlogits.rows == logits.rows, got 8", [](world& w) { return w.gradient.shape[0] = 8, w.sft(); }},
      {"sequences_view: mask.size() == tokens.size(), got 8", [](world& w) { return w.mask.shape[0] = 8, w.sft(); }},
      {"dpo_options.beta > 0 and finite, got -1", [](world& w) { return w.dpo(-1.0); }},
      {"ppo_options.cliprange in (0, 1], got 2", [](world& w) { return w.ppo(2.0); }},
      {"gradient: a tensor, got NULL",
       [](world& w) {
         return attune_sft_loss_on_logits(&w.logits.is, &w.sequences, 0, &w.loss, nullptr, w.error, sizeof w.error);
       }},
      {"logits: a tensor, got NULL",
       [](world& w) {
         return attune_sft_loss_on_logits(nullptr, &w.sequences, 0, &w.loss, &w.gradient.is, w.error, sizeof w.error);
       }},
      {"mask: a tensor, got NULL", [](world& w) { return w.sequences.mask = nullptr, w.sft(); }},
      {"sequences: a structure, got NULL",
       [](world& w) {
         return attune_sft_loss_on_logits(&w.logits.is, nullptr, 0, &w.loss, &w.gradient.is, w.error, sizeof w.error);
       }},
      {"loss: where to write it, got NULL",
       [](world& w) {
         return attune_sft_loss_on_logits(&w.logits.is, &w.sequences, 0, nullptr, &w.gradient.is, w.error,
                                          sizeof w.error);
       }},
  };
  for (row const& r : table) {
    world w;
    CHECK(r.call(w) == ATTUNE_BAD_ARGUMENT);
    CHECK(std::string(w.error) == std::string("expected ") + r.message);
    CHECK(w.loss == 7.0);
    CHECK(w.gradient.data == std::vector<double>(tokens * vocabulary, 7.0));
  }
  world outside;
  outside.ids.data[2] = vocabulary;
  CHECK(outside.sft() == ATTUNE_BAD_ARGUMENT);
  CHECK(std::string(outside.error) == "sequence 0, token 2: expected a token id inside the vocabulary, got 5");
}

TEST_CASE("c_abi: a gradient that would be written over logits not yet read is refused") {
  struct row {
    std::int64_t gradient_stride;
    std::uint64_t first;  // element of the gradient, in memory whose logits begin at 0 with rows 2 V apart
    bool accepted;
  };
  constexpr std::int64_t v = vocabulary;
  row const table[] = {
      {2 * v, 0, true},         {2 * v, v, true},  {2 * v, v - 1, false}, {2 * v, v + 1, false},
      {2 * v, 2 * v, false},    {3 * v, 0, false}, {3 * v, v, false},     {2 * v, 2 * v * tokens, true},
      {v, 2 * v * tokens, true}};
  for (row const& r : table) {
    CAPTURE(r.gradient_stride);
    CAPTURE(r.first);
    world<double> w;
    std::vector<double> memory(100 * v);
    w.logits.is.data = w.gradient.is.data = memory.data();
    w.logits.set_strides({2 * v, 1});
    w.gradient.set_strides({r.gradient_stride, 1});
    w.gradient.is.byte_offset = r.first * sizeof(double);
    CHECK(w.sft() == (r.accepted ? ATTUNE_OK : ATTUNE_BAD_ARGUMENT));
    if (!r.accepted)
      CHECK(std::string(w.error) ==
            "expected gradient: the logits themselves, or memory apart from them, got memory that overlaps");
    // The other way round: what overlaps does so from either side.
    std::swap(w.logits.is, w.gradient.is);
    CHECK(w.sft() == (r.accepted ? ATTUNE_OK : ATTUNE_BAD_ARGUMENT));
  }
}

TEST_CASE("c_abi: options arrive") {
  world<double> w;
  tensor<double> logps{std::vector<double>(tokens), {tokens}, kDLFloat};
  REQUIRE(w.logps(&w.ref_logits.is, &w.ref_logps.is) == ATTUNE_OK);
  REQUIRE(w.logps(&w.logits.is, &logps.is) == ATTUNE_OK);
  double sum = 0.0, chosen = 0.0, rejected = 0.0, uniform = 0.0;
  for (std::size_t t = 0; t < tokens; ++t) {
    sum += logps.data[t];
    (t < 5 ? chosen : rejected) += logps.data[t] - w.ref_logps.data[t];
  }
  for (std::size_t t = 0; t < tokens; ++t) {  // log softmax(row t)[v] less its target's is a difference of logits
    if (w.mask.data[t] == 0) continue;
    double const* const row = &w.logits.data[(t - 1) * vocabulary];
    for (std::size_t v = 0; v < vocabulary; ++v)
      uniform += (logps.data[t] + row[v] - row[w.ids.data[t]]) / static_cast<double>(vocabulary);
  }
  for (double const e : {0.0, 0.25, 0.5}) {
    REQUIRE(w.sft(e) == ATTUNE_OK);
    CHECK(w.loss == doctest::Approx(-((1 - e) * sum + e * uniform) / 5).epsilon(1e-14));
    double const z = 0.7 * (chosen - rejected);
    REQUIRE(attune_dpo_loss_on_logits(&w.logits.is, &w.sequences, &w.ref_logps.is, 0.7, e, &w.loss, &w.gradient.is,
                                      nullptr, 0) == ATTUNE_OK);
    CHECK(w.loss == doctest::Approx(std::log1p(std::exp(-z)) + e * z).epsilon(1e-14));
    tensor<double> one{{chosen}, {1}, kDLFloat}, other{{rejected}, {1}, kDLFloat}, none{{0}, {1}, kDLFloat};
    REQUIRE(attune_dpo_loss(&one.is, &other.is, &none.is, &none.is, 0.7, e, &w.loss, &one.is, &other.is, nullptr, 0) ==
            ATTUNE_OK);
    CHECK(w.loss == doctest::Approx(std::log1p(std::exp(-z)) + e * z).epsilon(1e-14));
  }
}

TEST_CASE("c_abi: a text is cut to the room it has, and success empties it") {
  world<double> w;
  char error[12];
  std::memset(error, '#', sizeof error);
  auto const call = [&](std::size_t room) {
    return attune_sft_loss_on_logits(nullptr, &w.sequences, 0, &w.loss, &w.gradient.is, error, room);
  };
  CHECK(call(9) == ATTUNE_BAD_ARGUMENT);
  CHECK(std::string(error) == "expected");
  CHECK(error[9] == '#');
  CHECK(call(1) == ATTUNE_BAD_ARGUMENT);
  CHECK(error[0] == '\0');
  error[0] = '#';
  CHECK(call(0) == ATTUNE_BAD_ARGUMENT);
  CHECK(error[0] == '#');
  CHECK(attune_sft_loss_on_logits(&w.logits.is, &w.sequences, 0, &w.loss, &w.gradient.is, error, sizeof error) ==
        ATTUNE_OK);
  CHECK(error[0] == '\0');
}
