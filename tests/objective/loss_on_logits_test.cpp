// SPDX-License-Identifier: MIT
#include <attune/objective/loss_on_logits.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include <attune/backend/reference.hpp>
#include <attune/core/random.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"

using namespace attune;

namespace {

// Two pairs over a vocabulary of 5; logits in rows 7 apart, so that nothing may assume a compact matrix.
struct batch {
  static constexpr std::size_t vocabulary = 5, stride = 7, dim = 3;
  sequences text;
  std::vector<double> logits, dlogits, hidden, head, dhidden, dhead;
  reference_backend<double> backend;
  loss_workspace<double> workspace;

  explicit batch(std::uint64_t seed = 1) {
    random_stream stream(seed);
    auto const draw = [&](std::vector<double>& values, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) values.push_back(stream.normal());
    };
    auto const some = [&](std::size_t count) {
      std::vector<token_id> ids;
      for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<token_id>(stream.below(vocabulary)));
      return ids;
    };
    for (std::size_t length : {3u, 1u, 2u, 4u}) text.push_back(some(2), some(length));
    draw(logits, text.total_tokens() * stride);
    draw(hidden, text.total_tokens() * dim);
    draw(head, vocabulary * dim);
    dlogits.assign(logits.size(), 9.0);
    dhidden.assign(hidden.size(), 9.0);
    dhead.assign(head.size(), 0.0);
  }
  std::size_t tokens() const { return text.total_tokens(); }
  matrix_view<double> of(std::vector<double>& values) { return {values.data(), tokens(), vocabulary, stride}; }
  matrix_view<double> of_hidden(std::vector<double>& values) { return as_matrix(values.data(), tokens(), dim); }
  matrix_view<double> of_head(std::vector<double>& values) { return as_matrix(values.data(), vocabulary, dim); }

  template <class Objective>
  double loss(Objective&& objective) {
    return loss_on_logits(backend, objective, of(logits), text, of(dlogits), workspace);
  }
  template <class Objective>
  double hidden_loss(Objective&& objective) {
    return loss_on_hidden(backend, objective, of_hidden(hidden), of_head(head), text, of_hidden(dhidden),
                          of_head(dhead), workspace);
  }
};

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

std::vector<double> const reference{-4.0, -2.0, -5.0, -6.0};

}  // namespace

TEST_CASE("loss_on_logits: supervised loss and the gradient of every logit are PyTorch's, in place too") {
  for (golden_case const& c : read_golden("sft.txt")) {
    auto const tokens = c.integers<token_id>("tokens");
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    auto logits = c["logits"];
    auto const view = as_matrix(logits.data(), tokens.size(), static_cast<std::size_t>(c.number("vocabulary")));
    sft_options const options{c.number("label_smoothing"), c.number("sequence_normalization") != 0
                                                               ? sft_normalization::sequence
                                                               : sft_normalization::token};
    sft_totals const totals{static_cast<std::size_t>(c.number("total_tokens")),
                            static_cast<std::size_t>(c.number("total_sequences"))};
    reference_backend<double> backend;
    loss_workspace<double> workspace;
    sequences_view const s{tokens, offsets, mask};
    double const loss = loss_on_logits(backend, sft_on_tokens{options, totals}, view, s, view, workspace);
    CHECK(testing::relative_error(loss, c.number("loss")) <= 1e-10);
    for (std::size_t i = 0; i < logits.size(); ++i)
      CHECK(std::abs(logits[i] - c["dlogits"][i]) <= 1e-10 * std::abs(c["dlogits"][i]) + 1e-16);
  }
}

TEST_CASE("loss_on_logits: DFT and z-loss with the gradient of every logit are TRL's and PyTorch's, in place") {
  auto const cases = read_golden("sft_terms.txt");
  double worst_value = 0.0, worst_gradient = 0.0;
  for (golden_case const& c : cases) {
    auto const tokens = c.integers<token_id>("tokens");
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    auto logits = c["logits"];
    auto const view = as_matrix(logits.data(), tokens.size(), static_cast<std::size_t>(c.number("vocabulary")));
    sft_on_tokens const objective{
        .options = {.label_smoothing = c.number("label_smoothing"),
                    .normalization = c.number("sequence_normalization") != 0 ? sft_normalization::sequence
                                                                             : sft_normalization::token,
                    .loss_type = c.number("dft") != 0 ? sft_loss_type::dft : sft_loss_type::nll,
                    .z_loss_coef = c.number("z_loss_coef")},
        .totals = {static_cast<std::size_t>(c.number("total_tokens")), static_cast<std::size_t>(c.number("total_sequences"))}};
    reference_backend<double> backend;
    loss_workspace<double> workspace;
    double const loss = loss_on_logits(backend, objective, view, {tokens, offsets, mask}, view, workspace);
    worst_value = std::max(worst_value, testing::relative_error(loss, c.number("loss")));
    for (std::size_t i = 0; i < logits.size(); ++i)
      worst_gradient = std::max(worst_gradient, testing::relative_error(logits[i], c["dlogits"][i], 1e-5));
  }
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
}

TEST_CASE("loss_on_logits: every element of the gradient agrees with a central difference, for each objective") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    batch b(seed);
    auto const check = [&](auto objective) {
      b.loss(objective);
      auto const gradient = b.dlogits;
      for (std::size_t t = 0; t < b.tokens(); ++t)
        for (std::size_t v = 0; v < batch::stride; ++v) {
          std::size_t const i = t * batch::stride + v;
          if (v < batch::vocabulary)
            CHECK(testing::relative_error(testing::central_difference([&] { return b.loss(objective); }, b.logits[i]),
                                          gradient[i], 1.0) <= 1e-9);
          else
            CHECK(gradient[i] == 9.0);  // between the rows
        }
    };
    check(sft_on_tokens{});
    check(sft_on_tokens{.options = {.normalization = sft_normalization::sequence}});
    check(sft_on_tokens{.options = {.label_smoothing = 0.3}});
    check(sft_on_tokens{.options = {.label_smoothing = 0.3, .z_loss_coef = 0.2}});
    check(dpo_on_tokens(reference, {.beta = 0.3, .label_smoothing = 0.1}));
    check(with_entropy_bonus(dpo_on_tokens(reference, {.beta = 0.3}), 0.4));
    check(with_entropy_bonus(sft_on_tokens{.options = {.label_smoothing = 0.3, .z_loss_coef = 0.2}}, 0.4));
  }
}

TEST_CASE("loss_on_hidden: is loss_on_logits with logits = hidden head^T, and its chain rule") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    batch b(seed);
    auto const check = [&](auto objective) {
      for (std::size_t t = 0; t < b.tokens(); ++t)
        for (std::size_t v = 0; v < batch::vocabulary; ++v) {
          double& logit = b.of(b.logits)(t, v);
          logit = 0;
          for (std::size_t d = 0; d < batch::dim; ++d) logit += b.of_hidden(b.hidden)(t, d) * b.of_head(b.head)(v, d);
        }
      double const loss = b.loss(objective);
      b.dhead.assign(b.dhead.size(), 1.0);
      CHECK(b.hidden_loss(objective) == doctest::Approx(loss).epsilon(1e-14));
      for (std::size_t d = 0; d < batch::dim; ++d) {
        for (std::size_t t = 0; t < b.tokens(); ++t) {
          double expected = 0;
          for (std::size_t v = 0; v < batch::vocabulary; ++v)
            expected += b.of(b.dlogits)(t, v) * b.of_head(b.head)(v, d);
          CHECK(b.of_hidden(b.dhidden)(t, d) == doctest::Approx(expected).epsilon(1e-12));
        }
        for (std::size_t v = 0; v < batch::vocabulary; ++v) {
          double expected = 1.0;  // added to what was there
          for (std::size_t t = 0; t < b.tokens(); ++t) expected += b.of(b.dlogits)(t, v) * b.of_hidden(b.hidden)(t, d);
          CHECK(b.of_head(b.dhead)(v, d) == doctest::Approx(expected).epsilon(1e-12));
        }
      }
    };
    check(sft_on_tokens{});
    check(sft_on_tokens{.options = {.label_smoothing = 0.3}});
    check(sft_on_tokens{.options = {.loss_type = sft_loss_type::dft, .z_loss_coef = 0.2}});
    check(dpo_on_tokens(reference, {.beta = 0.3}));
    check(with_entropy_bonus(dpo_on_tokens(reference, {.beta = 0.3}), 0.4));
  }
}

TEST_CASE("logps_on_logits, logps_on_hidden: token t is scored by row t - 1, and masked-out tokens by 0") {
  batch b;
  std::vector<double> logps(b.tokens(), 7.0);
  logps_on_logits(b.backend, b.of(b.logits), b.text, std::span<double>(logps), b.workspace);
  auto const view = b.text.view();
  for (std::size_t t = 0; t < b.tokens(); ++t) {
    double expected = 0.0;
    if (view.mask[t] != 0) {
      double sum = 0;
      for (std::size_t v = 0; v < batch::vocabulary; ++v) sum += std::exp(b.of(b.logits)(t - 1, v));
      expected = b.of(b.logits)(t - 1, static_cast<std::size_t>(view.tokens[t])) - std::log(sum);
    }
    CHECK(logps[t] == doctest::Approx(expected).epsilon(1e-14));
  }
  std::vector<double> from_hidden(b.tokens(), 7.0), logits(b.tokens() * batch::vocabulary);
  logps_on_hidden(b.backend, b.of_hidden(b.hidden), b.of_head(b.head), b.text, std::span<double>(from_hidden),
                  b.workspace);
  for (std::size_t t = 0; t < b.tokens(); ++t)
    for (std::size_t v = 0; v < batch::vocabulary; ++v) {
      b.of(b.logits)(t, v) = 0;
      for (std::size_t d = 0; d < batch::dim; ++d)
        b.of(b.logits)(t, v) += b.of_hidden(b.hidden)(t, d) * b.of_head(b.head)(v, d);
    }
  logps_on_logits(b.backend, b.of(b.logits), b.text, std::span<double>(logps), b.workspace);
  for (std::size_t t = 0; t < b.tokens(); ++t) CHECK(from_hidden[t] == doctest::Approx(logps[t]).epsilon(1e-13));
}

TEST_CASE("loss_on_logits: DPO against the policy's own log-probabilities begins at log 2") {
  batch b;
  std::vector<double> logps(b.tokens()), sums(b.text.size());
  logps_on_logits(b.backend, b.of(b.logits), b.text, std::span<double>(logps), b.workspace);
  sequence_sums<double>(logps, b.text, sums);
  CHECK(b.loss(dpo_on_tokens(sums)) == doctest::Approx(std::numbers::ln2).epsilon(1e-14));
}

TEST_CASE("loss_on_logits: rows that predict nothing are not read, and get a zero gradient") {
  batch b;
  double const expected = b.loss(sft_on_tokens{});
  auto const view = b.text.view();
  auto const idle = [&](std::size_t t) { return t + 1 == b.tokens() || view.mask[t + 1] == 0; };
  for (std::size_t t = 0; t < b.tokens(); ++t)
    if (idle(t)) std::fill_n(b.of(b.logits).row(t), batch::vocabulary, std::numeric_limits<double>::quiet_NaN());
  CHECK(b.loss(sft_on_tokens{}) == expected);
  for (std::size_t t = 0; t < b.tokens(); ++t)
    for (std::size_t v = 0; v < batch::vocabulary; ++v) {
      CHECK(std::isfinite(b.of(b.dlogits)(t, v)));
      if (idle(t)) CHECK(b.of(b.dlogits)(t, v) == 0.0);
    }
}

TEST_CASE("loss_on_logits: an objective gets the terms that it names, aligned with tokens, and no others") {
  struct curious {
    token_terms wanted;
    std::span<std::uint8_t const> mask;
    token_terms terms() const { return wanted; }
    double operator()(sequences_view s, term_values<double const> const& of, term_slopes<double> const& slopes) const {
      CHECK(of.terms() == wanted);
      CHECK(slopes.mean_logps.size() == of.mean_logps.size());
      CHECK(slopes.entropies.size() == of.entropies.size());
      CHECK(slopes.log_normalizers.size() == of.log_normalizers.size());
      for (auto const values : {of.logps, of.mean_logps, of.entropies, of.log_normalizers, of.collisions}) {
        if (values.empty()) continue;
        CHECK(values.size() == s.total_tokens());
        for (std::size_t t = 0; t < values.size(); ++t) CHECK((values[t] != 0.0) == (mask[t] != 0));
      }
      for (auto const values : {slopes.logps, slopes.mean_logps, slopes.entropies, slopes.log_normalizers})
        for (double const slope : values) CHECK(slope == 0.0);
      return 0.0;
    }
  };
  batch b;
  auto const view = b.text.view();
  for (unsigned bits = 0; bits < 16; ++bits) {
    token_terms const terms{(bits & 1u) != 0, (bits & 2u) != 0, (bits & 4u) != 0, (bits & 8u) != 0};
    b.loss(curious{terms, view.mask});
    b.hidden_loss(curious{terms, view.mask});
    for (std::size_t t = 0; t < b.tokens(); ++t)
      for (std::size_t v = 0; v < batch::vocabulary; ++v) CHECK(b.of(b.dlogits)(t, v) == 0.0);
  }
}

TEST_CASE("loss_on_logits: terms that nobody reads change no bit") {
  batch plain, b;
  double const loss = plain.loss(dpo_on_tokens(reference));
  struct with_all {
    dpo_on_tokens objective{reference};
    token_terms terms() const { return {true, true, true, true}; }
    double operator()(sequences_view s, term_values<double const> const& of, term_slopes<double> const& slopes) {
      return objective(s, of.logps, slopes.logps);
    }
  };
  CHECK(b.loss(with_all{}) == loss);
  for (std::size_t i = 0; i < b.dlogits.size(); ++i) CHECK(b.dlogits[i] == doctest::Approx(plain.dlogits[i]).epsilon(1e-15));
  b.loss(sft_on_tokens{});
  plain.loss([](sequences_view s, std::span<double const> logps, std::span<double> slopes) {
    return sft_on_tokens{}(s, logps, slopes);
  });
  CHECK(b.dlogits == plain.dlogits);
}

TEST_CASE("loss_on_logits: takes any callable of the right shape") {
  batch b;
  auto const probability_of_second_reply = [](sequences_view s, std::span<double const> logps,
                                              std::span<double> slopes) {
    double sum = 0;
    for (std::size_t t = s.offsets[1]; t < s.offsets[2]; ++t)
      if (s.mask[t] != 0) sum += logps[t];
    for (std::size_t t = s.offsets[1]; t < s.offsets[2]; ++t)
      if (s.mask[t] != 0) slopes[t] = std::exp(sum);
    return std::exp(sum);
  };
  b.loss(probability_of_second_reply);
  auto const gradient = b.dlogits;
  for (std::size_t t = 0; t < b.tokens(); ++t)
    for (std::size_t v = 0; v < batch::vocabulary; ++v) {
      std::size_t const i = t * batch::stride + v;
      auto const f = [&] { return b.loss(probability_of_second_reply); };
      CHECK(testing::relative_error(testing::central_difference(f, b.logits[i]), gradient[i], 1.0) <= 1e-9);
    }
}

TEST_CASE("loss_on_logits, loss_on_hidden: a workspace that has seen a batch as large allocates nothing more") {
  batch b;
  dpo_on_tokens dpo(reference);
  sft_on_tokens const smoothed{.options = {.label_smoothing = 0.1, .z_loss_coef = 0.1}};
  b.loss(dpo), b.loss(smoothed), b.hidden_loss(dpo), b.hidden_loss(smoothed);
  std::size_t const before = allocations();
  b.loss(dpo), b.loss(smoothed), b.loss(sft_on_tokens{}), b.hidden_loss(dpo), b.hidden_loss(smoothed);
  CHECK(allocations() == before);
}

TEST_CASE("loss_on_logits: what the objective throws passes through, and the gradient is untouched") {
  batch b;
  auto const before = b.dlogits;
  b.of(b.logits)(1, 2) = std::numeric_limits<double>::quiet_NaN();  // the row before the first completion token
  CHECK(message_of([&] { b.loss(sft_on_tokens{}); }) ==
        "expected sft_loss: logps[2] finite (sequence 0, token 2), got nan");
  CHECK(message_of([&] { b.loss(dpo_on_tokens(reference)); }) == "expected pair_loss: chosen[0] finite, got nan");
  CHECK(b.dlogits == before);
}

TEST_CASE("loss_on_logits, loss_on_hidden: shapes that disagree and ids outside the vocabulary are refused by name") {
  batch b;
  auto logits = b.of(b.logits), dlogits = b.of(b.dlogits);
  auto const on_logits = [&] {
    return message_of([&] { loss_on_logits(b.backend, sft_on_tokens{}, logits, b.text, dlogits, b.workspace); });
  };
  CHECK(on_logits() == "no error");
  logits.rows -= 1;
  CHECK(on_logits() == "expected loss_on_logits: logits.rows == batch.total_tokens(), got 17");
  logits = b.of(b.logits);
  dlogits.rows -= 1;
  CHECK(on_logits() == "expected loss_on_logits: dlogits.rows == logits.rows, got 17");
  dlogits = b.of(b.dlogits);
  dlogits.cols += 1;
  CHECK(on_logits() == "expected loss_on_logits: dlogits.cols == logits.cols, got 6");
  dlogits = b.of(b.dlogits);
  logits.cols = dlogits.cols = 1;
  CHECK(on_logits().find("expected a token id inside the vocabulary") != std::string::npos);

  auto hidden = b.of_hidden(b.hidden), head = b.of_head(b.head), dhidden = b.of_hidden(b.dhidden),
       dhead = b.of_head(b.dhead);
  auto const on_hidden = [&] {
    return message_of(
        [&] { loss_on_hidden(b.backend, sft_on_tokens{}, hidden, head, b.text, dhidden, dhead, b.workspace); });
  };
  CHECK(on_hidden() == "no error");
  hidden.rows -= 1;
  CHECK(on_hidden() == "expected loss_on_hidden: hidden.rows == batch.total_tokens(), got 17");
  hidden = b.of_hidden(b.hidden);
  hidden.cols -= 1;
  CHECK(on_hidden() == "expected loss_on_hidden: hidden.cols == head.cols, got 2");
  hidden = b.of_hidden(b.hidden);
  dhidden.rows -= 1;
  CHECK(on_hidden() == "expected loss_on_hidden: dhidden shaped like hidden");
  dhidden = b.of_hidden(b.dhidden);
  dhead.rows -= 1;
  CHECK(on_hidden() == "expected loss_on_hidden: dhead shaped like head");

  std::vector<double> logps(b.tokens() - 1);
  CHECK(message_of([&] {
          logps_on_logits(b.backend, b.of(b.logits), b.text, std::span<double>(logps), b.workspace);
        }) == "expected logps_on_logits: logps.size() == batch.total_tokens(), got 17");
  CHECK(message_of([&] {
          logps_on_hidden(b.backend, b.of_hidden(b.hidden), b.of_head(b.head), b.text, std::span<double>(logps),
                          b.workspace);
        }) == "expected logps_on_hidden: logps.size() == batch.total_tokens(), got 17");
}

TEST_CASE_TEMPLATE("loss_on_logits, loss_on_hidden: in sixteen bits they are float's on the widened numbers, rounded once when stored", S,
                   bf16, f16) {
  batch b;
  std::size_t const tokens = b.tokens(), v = batch::vocabulary, d = batch::dim;
  auto const narrow = [](std::vector<double> const& x) {
    std::vector<S> y;
    for (double const a : x) y.push_back(S(static_cast<float>(a)));
    return y;
  };
  auto const wide = [](std::vector<S> const& x) { return std::vector<float>(x.begin(), x.end()); };
  std::vector<double> const sums{-3.0, -4.0, -5.0, -6.0};
  auto objective = dpo_on_tokens(sums, {.beta = 0.3});
  reference_backend<S> stored;
  reference_backend<float> single;
  loss_workspace<float> w;

  std::vector<S> logits = narrow(b.logits), gradient(logits.size());
  std::vector<float> const wide_logits = wide(logits);
  std::vector<float> exact(logits.size());
  auto const loss = loss_on_logits(single, objective, matrix_view<float const>{wide_logits.data(), tokens, v, batch::stride}, b.text,
                                   matrix_view<float>{exact.data(), tokens, v, batch::stride}, w);
  CHECK(loss_on_logits(stored, objective, matrix_view<S const>{logits.data(), tokens, v, batch::stride}, b.text,
                       matrix_view<S>{gradient.data(), tokens, v, batch::stride}, w) == loss);
  bool rounded_once = true;
  for (std::size_t k = 0; k < exact.size(); ++k) rounded_once = rounded_once && gradient[k].bits == S(exact[k]).bits;
  CHECK(rounded_once);

  std::vector<S> const hidden = narrow(b.hidden), head = narrow(b.head);
  std::vector<float> const wide_hidden = wide(hidden), wide_head = wide(head);
  std::vector<S> dhidden(hidden.size());
  std::vector<float> dhead(head.size(), 0.5f), exact_dhidden(hidden.size()), exact_dhead(head.size(), 0.5f);
  auto const hidden_loss =
      loss_on_hidden(single, objective, as_matrix<float const>(wide_hidden.data(), tokens, d), as_matrix<float const>(wide_head.data(), v, d),
                     b.text, as_matrix(exact_dhidden.data(), tokens, d), as_matrix(exact_dhead.data(), v, d), w);
  CHECK(loss_on_hidden(stored, objective, as_matrix<S const>(hidden.data(), tokens, d), as_matrix<S const>(head.data(), v, d), b.text,
                       as_matrix(dhidden.data(), tokens, d), as_matrix(dhead.data(), v, d), w) == hidden_loss);
  CHECK(dhead == exact_dhead);
  for (std::size_t k = 0; k < hidden.size(); ++k) CHECK(dhidden[k].bits == S(exact_dhidden[k]).bits);
}
