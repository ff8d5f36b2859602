// SPDX-License-Identifier: MIT
#include <attune/objective/pairwise/dpo.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/pairwise/preference_loss.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"

using namespace attune;
using testing::relative_error;

namespace {

struct batch {
  std::vector<double> chosen, rejected, ref_chosen, ref_rejected, dchosen, drejected;

  explicit batch(std::size_t pairs, std::uint64_t seed = 0, double scale = 5.0)
      : dchosen(pairs, 7.0), drejected(pairs, 7.0) {
    random_stream stream(seed);
    for (auto* const values : {&chosen, &rejected, &ref_chosen, &ref_rejected})
      for (std::size_t i = 0; i < pairs; ++i) values->push_back(-40.0 + scale * stream.normal());
  }
  double loss(dpo_options o = {}, std::size_t total_pairs = 0) {
    return dpo_loss<double>(
        {.chosen = chosen, .rejected = rejected, .ref_chosen = ref_chosen, .ref_rejected = ref_rejected},
        {.chosen = dchosen, .rejected = drejected}, o, total_pairs);
  }
};

std::string message_of(batch b, dpo_options o = {}, std::size_t total_pairs = 0) {
  auto const before = b;
  try {
    b.loss(o, total_pairs);
  } catch (contract_violation const& e) {
    CHECK(b.dchosen == before.dchosen);  // nothing half-written
    CHECK(b.drejected == before.drejected);
    return e.what();
  }
  return "no error";
}

std::vector<dpo_options> option_grid() {
  std::vector<dpo_options> grid;
  for (double const beta : {0.01, 0.1, 0.5, 5.0})
    for (auto const smoothing : {dpo_smoothing::conservative, dpo_smoothing::robust})
      for (double const e : {0.0, 1e-3, 0.1, 0.3, 0.49}) grid.push_back({beta, e, smoothing});
  grid.push_back({0.1, 0.5, dpo_smoothing::conservative});
  return grid;
}

// As the papers have it.
template <class T>
T textbook(T chosen, T rejected, dpo_options o) {
  T const z = T(o.beta) * (chosen - rejected);
  T const e = T(o.label_smoothing);
  if (o.smoothing == dpo_smoothing::conservative) return -(T(1) - e) * log_sigmoid(z) - e * log_sigmoid(-z);
  return (-(T(1) - e) * log_sigmoid(z) + e * log_sigmoid(-z)) / (T(1) - T(2) * e);
}

}  // namespace

TEST_CASE("dpo: equal log-ratios give log 2 and slopes of beta / 2") {
  for (std::size_t const pairs : {1u, 3u}) {
    batch b(pairs);
    b.ref_chosen = b.chosen;
    b.ref_rejected = b.rejected;
    for (double const beta : {0.1, 2.0}) {
      CHECK(b.loss({.beta = beta}) == doctest::Approx(std::numbers::ln2).epsilon(1e-15));
      for (std::size_t i = 0; i < pairs; ++i) {
        CHECK(b.dchosen[i] == -beta / 2 / static_cast<double>(pairs));
        CHECK(b.drejected[i] == beta / 2 / static_cast<double>(pairs));
      }
    }
  }
}

TEST_CASE("dpo: exchanging chosen and rejected negates the margin, and the losses differ by it") {
  random_stream stream(1);
  for (int i = 0; i < 100; ++i) {
    double const a = 30 * stream.normal(), b = 30 * stream.normal(), beta = 0.2;
    auto const one = dpo_objective(a, b, {.beta = beta});
    auto const other = dpo_objective(b, a, {.beta = beta});
    CHECK(other.value - one.value == doctest::Approx(beta * (a - b)).epsilon(1e-13));
    CHECK(one.chosen == -one.rejected);
    CHECK(one.chosen + other.chosen == doctest::Approx(-beta).epsilon(1e-14));  // sigmoid(z) + sigmoid(-z) = 1
  }
}

TEST_CASE("dpo: with half of the labels flipped, conservative, the loss does not know chosen from rejected") {
  auto const one = dpo_objective(3.0, -1.5, {.label_smoothing = 0.5});
  auto const other = dpo_objective(-1.5, 3.0, {.label_smoothing = 0.5});
  CHECK(one.value == doctest::Approx(other.value).epsilon(1e-14));
  CHECK(one.chosen == doctest::Approx(other.rejected).epsilon(1e-14));
}

TEST_CASE("dpo: adding a constant to both log-ratios changes nothing") {
  auto const one = dpo_objective(3.0, -1.5, {.label_smoothing = 0.1});
  auto const other = dpo_objective(3.0 + 64.0, -1.5 + 64.0, {.label_smoothing = 0.1});
  CHECK(one.value == other.value);
  CHECK(one.chosen == other.chosen);
}

TEST_CASE("dpo: the robust loss of labels flipped at its rate has the plain loss as expectation") {
  double const e = 0.2;
  dpo_options const robust{.label_smoothing = e, .smoothing = dpo_smoothing::robust};
  for (double const margin : {-20.0, -1.0, 0.0, 3.0, 50.0}) {
    auto const kept = dpo_objective(margin, 0.0, robust);
    auto const flipped = dpo_objective(0.0, margin, robust);
    auto const clean = dpo_objective(margin, 0.0);
    CHECK((1 - e) * kept.value + e * flipped.value == doctest::Approx(clean.value).epsilon(1e-13));
    CHECK((1 - e) * kept.chosen + e * flipped.rejected == doctest::Approx(clean.chosen).epsilon(1e-13));
  }
}

TEST_CASE("dpo: without label smoothing both meanings of it are the plain loss") {
  auto const conservative = dpo_objective(2.0, 1.0, {.smoothing = dpo_smoothing::conservative});
  auto const robust = dpo_objective(2.0, 1.0, {.smoothing = dpo_smoothing::robust});
  CHECK(conservative.value == robust.value);
  CHECK(conservative.chosen == robust.chosen);
}

TEST_CASE("dpo: every slope agrees with dual numbers, complex step and the papers' formula to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  for (dpo_options const& o : option_grid())
    for (std::uint64_t seed = 0; seed < 25; ++seed) {
      random_stream stream(seed);
      double const scale = seed % 5 == 0 ? 0.1 : 10.0;
      double const a = scale * stream.normal(), b = scale * stream.normal();
      auto const ours = dpo_objective(a, b, o);
      CAPTURE(seed);
      CAPTURE(o.beta);
      CAPTURE(o.label_smoothing);
      CHECK(relative_error(ours.chosen, dpo_objective(dual(a, 1), dual(b), o).value.derivative) <= 1e-12);
      CHECK(relative_error(ours.rejected, dpo_objective(dual(a), dual(b, 1), o).value.derivative) <= 1e-12);
      CHECK(relative_error(ours.chosen, dpo_objective(complex(a, 1e-100), complex(b), o).value.imag() * 1e100) <=
            1e-12);
      CHECK(relative_error(ours.rejected, dpo_objective(complex(a), complex(b, 1e-100), o).value.imag() * 1e100) <=
            1e-12);
      CHECK(relative_error(ours.value, textbook(a, b, o)) <= 1e-12);
      CHECK(relative_error(ours.chosen, textbook(dual(a, 1), dual(b), o).derivative) <= 1e-12);
    }
}

TEST_CASE("dpo: every element of the batch gradient agrees with a central difference of the loss") {
  for (dpo_options const& o : option_grid())
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      batch b(3, seed);
      b.loss(o);
      auto const dchosen = b.dchosen, drejected = b.drejected;
      auto const f = [&] { return b.loss(o); };
      CHECK(testing::check_gradient(f, b.chosen, dchosen, 1.0).worst_error <= 1e-8);
      CHECK(testing::check_gradient(f, b.rejected, drejected, 1.0).worst_error <= 1e-8);
    }
}

TEST_CASE("dpo: loss and token gradients are PyTorch's") {
  auto const cases = read_golden("dpo.txt");
  CHECK(cases.size() >= 20);
  for (golden_case const& c : cases) {
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    std::vector<token_id> const tokens(mask.size(), 0);
    sequences_view const s{tokens, offsets, mask};
    std::size_t const pairs = s.size() / 2;
    std::vector<double> sums(s.size()), ref_sums(s.size()), slopes(s.total_tokens());
    sequence_sums<double>(c["logps"], s, sums);
    sequence_sums<double>(c["ref_logps"], s, ref_sums);
    batch b(pairs);
    for (std::size_t i = 0; i < pairs; ++i) {
      b.chosen[i] = sums[2 * i];
      b.rejected[i] = sums[2 * i + 1];
      b.ref_chosen[i] = ref_sums[2 * i];
      b.ref_rejected[i] = ref_sums[2 * i + 1];
    }
    auto const smoothing = c.number("robust") != 0 ? dpo_smoothing::robust : dpo_smoothing::conservative;
    // rpo_alpha, where a case has it, is the weight of an sft term that means over each response.
    std::vector<weighted_pair_loss> terms{
        {dpo_options{.beta = c.number("beta"), .label_smoothing = c.number("label_smoothing"), .smoothing = smoothing}}};
    if (c.number("rpo_alpha") > 0.0)
      terms.push_back({sft_term_options{sft_normalization::sequence}, c.number("rpo_alpha")});
    std::vector<std::size_t> chosen_tokens, rejected_tokens;
    for (std::size_t i = 0; i < pairs; ++i) {
      chosen_tokens.push_back(completion_tokens(s.sequence_mask(2 * i)));
      rejected_tokens.push_back(completion_tokens(s.sequence_mask(2 * i + 1)));
    }
    preference_loss mixed({.losses = terms});
    double const loss =
        mixed(pair_logps<double>{.chosen = b.chosen, .rejected = b.rejected, .ref_chosen = b.ref_chosen,
                                 .ref_rejected = b.ref_rejected, .chosen_tokens = chosen_tokens,
                                 .rejected_tokens = rejected_tokens},
              pair_slopes<double>{.chosen = b.dchosen, .rejected = b.drejected},
              {.pairs = static_cast<std::size_t>(c.number("total_pairs"))});
    CHECK(relative_error(loss, c.number("loss")) <= 1e-10);
    for (std::size_t i = 0; i < pairs; ++i) {
      sums[2 * i] = b.dchosen[i];
      sums[2 * i + 1] = b.drejected[i];
    }
    broadcast_slopes<double>(sums, s, slopes);
    for (std::size_t t = 0; t < slopes.size(); ++t) CHECK(relative_error(slopes[t], c["dlogps"][t]) <= 1e-10);
  }
}

TEST_CASE("dpo: micro-batches with the step's pair count give the slopes of the whole batch, bit for bit") {
  batch whole(7, 3);
  double const loss = whole.loss();
  double shares = 0.0;
  for (std::size_t first = 0; first < 7; first += 3) {
    std::size_t const count = std::min<std::size_t>(3, 7 - first);
    batch part(count);
    for (std::size_t i = 0; i < count; ++i) {
      part.chosen[i] = whole.chosen[first + i];
      part.rejected[i] = whole.rejected[first + i];
      part.ref_chosen[i] = whole.ref_chosen[first + i];
      part.ref_rejected[i] = whole.ref_rejected[first + i];
    }
    shares += part.loss({}, 7);
    for (std::size_t i = 0; i < count; ++i) {
      CHECK(part.dchosen[i] == whole.dchosen[first + i]);
      CHECK(part.drejected[i] == whole.drejected[first + i]);
    }
  }
  CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
}

TEST_CASE_TEMPLATE("dpo: finite for every finite pair of log-ratios", T, float, double) {
  T const largest = std::numeric_limits<T>::max();
  std::vector<T> const extremes{
      T(0), std::numeric_limits<T>::denorm_min(), T(1e-30), T(-1e4), T(1e4), T(-3e38), T(3e38), largest, -largest};
  std::vector<dpo_options> grid = option_grid();
  grid.push_back({1e30, 0.4, dpo_smoothing::conservative});
  grid.push_back({1e30, 0.4999999999, dpo_smoothing::robust});
  grid.push_back({1e-30, 0.0, dpo_smoothing::robust});
  for (dpo_options const& o : grid)
    for (T const a : extremes)
      for (T const b : extremes) {
        auto const one = dpo_objective(a, b, o);
        CAPTURE(a);
        CAPTURE(b);
        CHECK(std::isfinite(one.value));
        CHECK(std::isfinite(one.chosen));
        CHECK(one.chosen == -one.rejected);
        T dchosen = 0, drejected = 0;
        T const zero = 0;
        T const loss =
            dpo_loss<T>({.chosen = {&a, 1}, .rejected = {&zero, 1}, .ref_chosen = {&b, 1}, .ref_rejected = {&b, 1}},
                        {.chosen = {&dchosen, 1}, .rejected = {&drejected, 1}}, o);
        CHECK(std::isfinite(loss));
        CHECK(std::isfinite(dchosen));
      }
}

TEST_CASE("dpo: far from 0 the loss is linear on one side and 0 on the other") {
  CHECK(dpo_objective(-1e4, 0.0).value == 1e3);
  CHECK(dpo_objective(-1e4, 0.0).chosen == -0.1);
  CHECK(dpo_objective(1e5, 0.0).value == 0.0);
  CHECK(dpo_objective(1e5, 0.0).chosen == 0.0);
  CHECK(dpo_objective(370.0f, 0.0f, {.beta = 0.1}).chosen < 0.0f);  // e^-37 is no float next to 1
}

TEST_CASE("dpo: in float the loss agrees with double, and differences of sums are taken in double") {
  std::vector<float> const chosen{-801.25f}, rejected{-800.0f}, ref_chosen{-801.5f}, ref_rejected{-799.5f};
  float dchosen = 0, drejected = 0;
  float const loss =
      dpo_loss<float>({.chosen = chosen, .rejected = rejected, .ref_chosen = ref_chosen, .ref_rejected = ref_rejected},
                      {.chosen = {&dchosen, 1}, .rejected = {&drejected, 1}}, {.beta = 0.5});
  auto const exact = dpo_objective(0.25, -0.5, {.beta = 0.5});
  CHECK(loss == static_cast<float>(exact.value));
  CHECK(dchosen == static_cast<float>(exact.chosen));
  CHECK(drejected == static_cast<float>(exact.rejected));
}

TEST_CASE("dpo: slopes may overwrite the log-probabilities they belong to") {
  batch apart(4, 9);
  double const loss = apart.loss();
  batch b(4, 9);
  CHECK(dpo_loss<double>(
            {.chosen = b.chosen, .rejected = b.rejected, .ref_chosen = b.ref_chosen, .ref_rejected = b.ref_rejected},
            {.chosen = b.chosen, .rejected = b.rejected}) == loss);
  CHECK(b.chosen == apart.dchosen);
  CHECK(b.rejected == apart.drejected);
}

TEST_CASE("dpo: the batch loss allocates nothing") {
  batch b(100);
  std::size_t const before = allocations();
  b.loss({.label_smoothing = 0.1});
  CHECK(allocations() == before);
  ::operator delete(::operator new(100));  // called by name, so that no compiler leaves it out
  CHECK(allocations() > before);           // the counter counts
}

TEST_CASE("dpo: a log-probability that is not finite is refused by field, pair and value") {
  double const inf = std::numeric_limits<double>::infinity();
  batch good(5);
  auto const with = [&](std::vector<double> batch::*field, std::size_t i, double value) {
    batch b = good;
    (b.*field)[i] = value;
    return message_of(b);
  };
  CHECK(with(&batch::chosen, 3, std::nan("")) == "expected pair_loss: chosen[3] finite, got nan");
  CHECK(with(&batch::rejected, 0, -inf) == "expected pair_loss: rejected[0] finite, got -inf");
  CHECK(with(&batch::ref_chosen, 4, inf) == "expected pair_loss: ref_chosen[4] finite, got inf");
  CHECK(with(&batch::ref_rejected, 1, -inf) == "expected pair_loss: ref_rejected[1] finite, got -inf");
  CHECK(message_of(good) == "no error");
}

TEST_CASE("dpo: options out of range are refused by field and value") {
  batch const b(2);
  auto const starts = [](std::string const& text, std::string const& with) {
    return text.substr(0, with.size()) == with;
  };
  for (double const beta : {0.0, -1.0, std::nan(""), HUGE_VAL})
    CHECK(starts(message_of(b, {.beta = beta}), "expected dpo_options.beta > 0 and finite, got "));
  CHECK(message_of(b, {.beta = -1.0}).find("-1") != std::string::npos);
  for (double const e : {-0.1, 0.51, 1.0, std::nan("")})
    CHECK(starts(message_of(b, {.label_smoothing = e}), "expected dpo_options.label_smoothing in [0, 0.5], got "));
  CHECK(message_of(b, {.label_smoothing = 0.5}) == "no error");
  for (double const e : {-0.1, 0.5, std::nan("")})
    CHECK(starts(message_of(b, {.label_smoothing = e, .smoothing = dpo_smoothing::robust}),
                 "expected dpo_options.label_smoothing in [0, 0.5) (robust), got "));
}

TEST_CASE("dpo: an empty batch, sizes that disagree and a pair count below the batch are refused by name") {
  CHECK(message_of(batch(0)) == "expected pair_loss: at least one pair");
  CHECK(message_of(batch(3), {}, 2) == "expected pair_loss: total_pairs >= those of the batch, got 2");
  auto const shortened = [](std::vector<double> batch::*field) {
    batch b(3);
    (b.*field).pop_back();
    return message_of(b);
  };
  CHECK(shortened(&batch::rejected) == "expected pair_loss: rejected.size() == chosen.size(), got 2");
  CHECK(shortened(&batch::ref_chosen) == "expected pair_loss: ref_chosen.size() == chosen.size(), got 2");
  CHECK(shortened(&batch::ref_rejected) == "expected pair_loss: ref_rejected.size() == chosen.size(), got 2");
  CHECK(shortened(&batch::dchosen) == "expected pair_loss: slopes.chosen.size() == chosen.size(), got 2");
  CHECK(shortened(&batch::drejected) == "expected pair_loss: slopes.rejected.size() == chosen.size(), got 2");
}

TEST_CASE("dpo: the batch has the bits of the objective of each pair") {
  for (dpo_options o : option_grid())
    for (double const target : {0.0, 0.4}) {
      o.target_margin = target;
      batch b(300, 5, 200.0);
      double const loss = b.loss(o);
      double expected = 0.0;
      std::size_t different = 0;
      for (std::size_t i = 0; i < 300; ++i) {
        auto const one = dpo_objective(b.chosen[i] - b.ref_chosen[i], b.rejected[i] - b.ref_rejected[i], o);
        expected += one.value / 300.0;
        different += b.dchosen[i] == one.chosen / 300.0 && b.drejected[i] == one.rejected / 300.0 ? 0 : 1;
      }
      CHECK(loss == expected);
      CHECK(different == 0);
    }
}
