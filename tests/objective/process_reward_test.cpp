// SPDX-License-Identifier: MIT
#include <attune/objective/process_reward.hpp>

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
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"
#include "support/keep_worst.hpp"
#include "support/proofs.hpp"
#include "support/unpaired_proofs.hpp"

using namespace attune;
using testing::relative_error;

namespace {

struct batch {
  std::vector<token_id> tokens;
  std::vector<std::size_t> offsets{0};
  std::vector<std::uint8_t> mask, labels;
  std::vector<double> scores, slopes;
  process_reward_statistics statistics = {};

  // Numbers that must not be read are NaN, labels likewise 9.
  explicit batch(std::vector<std::vector<int>> const& sequences, std::uint64_t seed = 0, double scale = 3.0) {
    random_stream stream(seed);
    for (auto const& marks : sequences) {  // -1 unlabelled, else the label
      for (int const m : marks) {
        tokens.push_back(1);
        mask.push_back(m >= 0);
        labels.push_back(m >= 0 ? static_cast<std::uint8_t>(m) : 9);
        scores.push_back(m >= 0 ? scale * stream.normal() : std::nan(""));
      }
      offsets.push_back(tokens.size());
    }
    slopes.assign(tokens.size(), 7.0);
  }
  sequences_view view() const { return {tokens, offsets, mask}; }
  double loss(process_reward_options o = {}, std::size_t total = 0) {
    return process_reward_loss<double>({.scores = scores, .labels = labels}, view(), slopes, o, total, &statistics);
  }
  std::string refusal(process_reward_options o = {}, std::size_t total = 0) {
    auto const before = slopes;
    try {
      loss(o, total);
    } catch (contract_violation const& e) {
      return slopes == before ? e.what() : "wrote before it threw";
    }
    return "no error";
  }
};

batch random_batch(std::uint64_t seed) {
  random_stream stream(seed + 100);
  std::vector<std::vector<int>> sequences(1 + stream.below(4));
  for (auto& marks : sequences) {
    marks.push_back(-1);
    for (std::size_t i = 1 + stream.below(6); i-- > 0;)
      marks.push_back(stream.below(2) == 0 ? -1 : static_cast<int>(stream.below(2)));
  }
  sequences.front().push_back(1);  // never without a labelled step
  return batch(sequences, seed, seed % 4 == 0 ? 0.1 : 6.0);
}

bool counts(batch const& b, std::size_t sequence, std::size_t t, bool last_only) {
  if (b.mask[t] == 0) return false;
  for (std::size_t later = t + 1; last_only && later < b.offsets[sequence + 1]; ++later)
    if (b.mask[later] != 0) return false;
  return true;
}

}  // namespace

TEST_CASE(
    "process reward: every slope agrees with dual numbers, complex step and the two-class cross-entropy to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  double worst = 0.0, central = 0.0;
  for (bool const last_only : {false, true})
    for (std::size_t const extra : {0u, 5u})
      for (std::uint64_t seed = 0; seed < 20; ++seed) {
        batch b = random_batch(seed);
        process_reward_options const o{last_only};
        std::size_t const steps = counted_steps(b.view(), o), total = extra == 0 ? 0 : steps + extra;
        double const loss = b.loss(o, total);
        auto const slopes = b.slopes;
        // Cross-entropy of logits (a, a + score), whatever a is.
        auto const formula = [&](std::size_t moved) {
          dual sum(0.0);
          for (std::size_t s = 0; s + 1 < b.offsets.size(); ++s)
            for (std::size_t t = b.offsets[s]; t < b.offsets[s + 1]; ++t) {
              if (!counts(b, s, t, last_only)) continue;
              dual const one(b.scores[t] + 0.25, t == moved ? 1.0 : 0.0), zero(0.25);
              dual const highest = one > zero ? one : zero;
              dual const normalizer = highest + log(exp(one - highest) + exp(zero - highest));
              sum += normalizer - (b.labels[t] != 0 ? one : zero);
            }
          return sum / dual(static_cast<double>(total == 0 ? steps : total));
        };
        test::keep_worst(worst, {relative_error(loss, formula(0).value, 1e-3)});
        for (std::size_t s = 0; s + 1 < b.offsets.size(); ++s)
          for (std::size_t t = b.offsets[s]; t < b.offsets[s + 1]; ++t) {
            if (!counts(b, s, t, last_only)) {
              CHECK(slopes[t] == 0.0);
              continue;
            }
            bool const correct = b.labels[t] != 0;
            double const own = process_reward_objective(b.scores[t], correct).slope;
            // softmax - 1 loses digits next to 0, so the formula is held to them absolutely, the objective relatively.
            test::keep_worst(
                worst,
                {relative_error(slopes[t], formula(t).derivative, 1e-3),
                 relative_error(slopes[t], own / static_cast<double>(total == 0 ? steps : total)),
                 relative_error(own, process_reward_objective(dual(b.scores[t], 1.0), correct).value.derivative),
                 relative_error(own,
                                process_reward_objective(complex(b.scores[t], 1e-100), correct).value.imag() * 1e100)});
            auto const f = [&] { return b.loss(o, total); };
            test::keep_worst(central, {relative_error(testing::central_difference(f, b.scores[t]), slopes[t], 1.0)});
          }
      }
  CHECK(worst <= 1e-12);
  CHECK(central <= 1e-8);
  proofs::derivatives("process_reward", 4, 20, worst, central);
}

TEST_CASE("process reward: labels, loss and gradients are those of TRL's PRMTrainer over two classes") {
  double worst_value = 0.0, worst_gradient = 0.0;
  auto const cases = read_golden("process_reward.txt");
  for (golden_case const& c : cases) {
    // All steps are labelled here, train_on_last_step_only is left to the loss; TRL leaves the label out of the data.
    bool const last_only = c.number("last_step_only") != 0;
    auto const lengths = c.integers<std::size_t>("lengths"), step_counts = c.integers<std::size_t>("step_counts");
    auto const prompts = c.integers<std::size_t>("prompt_lengths"), steps = c.integers<std::size_t>("step_lengths");
    std::vector<std::vector<int>> marks;
    std::size_t step = 0;
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      marks.emplace_back(lengths[b] + 1, -1);  // a token more: scores are read after the token they judge
      std::size_t end = prompts[b] + (c.number("bos") >= 0 ? 1 : 0);
      for (std::size_t i = 0; i < step_counts[b]; ++i, ++step) {
        end += steps[step] + c["separator"].size();
        marks[b][end] = static_cast<int>(c["step_labels"][step]);
      }
    }
    batch b(marks);
    std::size_t t = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s)
      for (std::size_t i = 0; i < lengths[s]; ++i, ++t) {
        std::size_t const here = b.offsets[s] + i + 1;
        if (b.mask[here] != 0) b.scores[here] = c["logit1"][t] - c["logit0"][t];
      }
    test::keep_worst(worst_value, {relative_error(b.loss({last_only}), c.number("loss"))});
    t = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s)
      for (std::size_t i = 0; i < lengths[s]; ++i, ++t) {
        std::size_t const here = b.offsets[s] + i + 1;
        CHECK(counts(b, s, here, last_only) == (c["labels"][t] >= 0));
        test::keep_worst(worst_gradient, {relative_error(b.slopes[here], c["dlogit1"][t], 1e-12),
                                          relative_error(b.slopes[here], -c["dlogit0"][t], 1e-12)});
      }
  }
  CHECK(cases.size() >= 60);
  CHECK(worst_value <= 1e-10);
  CHECK(worst_gradient <= 1e-10);
  proofs::golden("process_reward", "TRL", cases.size(), worst_value, worst_gradient);
}

TEST_CASE("process reward: a score of 0 costs log 2, and both labels' losses differ by the score") {
  CHECK(process_reward_objective(0.0, true).value == doctest::Approx(std::numbers::ln2).epsilon(1e-15));
  for (double const score : {-30.0, -1.0, 0.5, 40.0}) {
    auto const right = process_reward_objective(score, true), wrong = process_reward_objective(score, false);
    CHECK(wrong.value - right.value == doctest::Approx(score).epsilon(1e-14));
    CHECK(wrong.slope - right.slope == doctest::Approx(1.0).epsilon(1e-15));
    CHECK(process_reward_objective(-score, false).value == right.value);
  }
  proofs::law("process_reward",
              "a score of 0 costs log 2; wrong - correct = score; swapping label and sign changes nothing");
}

TEST_CASE("process reward: with one labelled step per sequence, the last step only is all of them") {
  batch a({{-1, -1, 1}, {-1, 0, -1}}, 3), b = a;
  CHECK(a.loss() == b.loss({.train_on_last_step_only = true}));
  CHECK(a.slopes == b.slopes);
  batch c({{-1, 0, 1, -1, 0, -1}}, 3);
  c.loss({.train_on_last_step_only = true});
  CHECK(c.slopes[1] == 0.0);
  CHECK(c.slopes[2] == 0.0);
  CHECK(c.slopes[4] == process_reward_objective(c.scores[4], false).slope);
  proofs::law("process_reward", "last step only equals all steps where each sequence has one");
}

TEST_CASE("process reward: micro-batches with the step's count add up to the whole") {
  for (bool const last_only : {false, true}) {
    process_reward_options const o{last_only};
    batch whole({{-1, 1, 0}, {-1, -1, 1}, {-1, 0, 1, 0}}, 5);
    std::size_t const total = counted_steps(whole.view(), o);
    CHECK(total == (last_only ? 3 : 6));
    double const loss = whole.loss(o);
    double shares = 0.0;
    for (std::size_t s = 0; s < 3; ++s) {
      batch part(std::vector<std::vector<int>>{});
      part.offsets = {0, whole.offsets[s + 1] - whole.offsets[s]};
      auto const cut = [&](auto const& from, auto& to) {
        to.assign(from.begin() + static_cast<std::ptrdiff_t>(whole.offsets[s]),
                  from.begin() + static_cast<std::ptrdiff_t>(whole.offsets[s + 1]));
      };
      cut(whole.tokens, part.tokens), cut(whole.mask, part.mask), cut(whole.labels, part.labels),
          cut(whole.scores, part.scores);
      part.slopes.assign(part.tokens.size(), 7.0);
      shares += part.loss(o, total);
      for (std::size_t i = 0; i < part.slopes.size(); ++i) CHECK(part.slopes[i] == whole.slopes[whole.offsets[s] + i]);
    }
    CHECK(shares == doctest::Approx(loss).epsilon(1e-14));
  }
}

TEST_CASE("process reward: statistics count the steps that the loss counts") {
  batch b({{-1, 1, 0, 1}, {-1, 0}});
  b.scores = {0.0, 2.0, 1.0, 0.0, 0.0, -3.0};
  b.loss();
  CHECK(b.statistics.accuracy.sum == 2.0);  // right, wrong, on neither side, right
  CHECK(b.statistics.accuracy.weight == 4.0);
  CHECK(b.statistics.score.mean() == 0.0);
}

TEST_CASE("process reward: it allocates nothing, and slopes may overwrite the scores") {
  batch b({{-1, 1, 0, 1}, {-1, 0}}, 2);
  std::size_t const before = allocations();
  double const loss = b.loss();
  CHECK(allocations() == before);
  CHECK(process_reward_loss<double>({.scores = b.scores, .labels = b.labels}, b.view(), b.scores) == loss);
  CHECK(b.scores == b.slopes);
}

TEST_CASE_TEMPLATE("process reward: at the edge of the numbers it gives the exact limit or names the token", T, float,
                   double) {
  test::extreme_cases book;
  constexpr T largest = std::numeric_limits<T>::max(), infinity = std::numeric_limits<T>::infinity();
  for (T const x :
       {T(0), std::numeric_limits<T>::denorm_min(), T(1e-30), T(100), T(1e4), T(1e6), T(3e38), largest, infinity})
    for (bool const negative : {false, true})
      for (bool const correct : {false, true}) {
        auto const one = process_reward_objective(negative ? -x : x, correct);
        bool const right = negative != correct;
        book.expect(x == T(0) || x < T(1) ? std::abs(one.value - std::numbers::ln2_v<T>) < T(1e-6)
                    : right               ? one.value <= T(1e-40)
                                          : one.value == x,
                    "value at " + std::to_string(x));
        T const limit = x < T(1) ? T(0.5) : right ? T(0) : T(1);
        book.expect(std::abs(std::abs(one.slope) - limit) <= T(1e-40) && std::isfinite(one.slope) &&
                        (correct ? one.slope <= T(0) : one.slope >= T(0)),
                    "slope at " + std::to_string(x));
      }
  book.expect(std::isnan(process_reward_objective(std::numeric_limits<T>::quiet_NaN(), true).value), "NaN stays NaN");
  double const inf = std::numeric_limits<double>::infinity();
  for (double const bad : {inf, -inf, std::nan("")}) {
    batch b({{-1, 1}, {-1, -1, 0}});
    b.scores[4] = bad;
    book.expect(b.refusal().starts_with("expected process_reward_loss: scores[4] finite (sequence 1, token 2), got "),
                "a score that is not finite");
    b.scores[4] = 1.0;
    b.scores[3] = bad;
    book.expect(b.refusal(), "no error");  // not labelled, not read
  }
  auto const with = [](auto change, process_reward_options o = {}, std::size_t total = 0) {
    batch b({{-1, 1}, {-1, -1, 0}});
    change(b);
    return b.refusal(o, total);
  };
  book.expect(with([](batch& b) { b.labels[4] = 2; }),
              "expected process_reward_loss: labels[4] 0 or 1 (sequence 1, token 2), got 2");
  book.expect(with([](batch& b) { b.scores.pop_back(); }),
              "expected process_reward_loss: scores.size() == batch.total_tokens(), got 4");
  book.expect(with([](batch& b) { b.labels.pop_back(); }),
              "expected process_reward_loss: labels.size() == batch.total_tokens(), got 4");
  book.expect(with([](batch& b) { b.slopes.pop_back(); }),
              "expected process_reward_loss: slopes.size() == batch.total_tokens(), got 4");
  book.expect(with([](batch&) {}, {}, 1),
              "expected process_reward_loss: total_steps >= the labelled steps of the batch, got 1");
  book.expect(with([](batch&) {}, {.train_on_last_step_only = true}, 2), "no error");
  book.expect(with([](batch& b) { b.mask[3] = 2; }), "sequence 1, token 1: expected a mask of 0 or 1, got 2");
  book.expect(batch(std::vector<std::vector<int>>{}).refusal(), "expected process_reward_loss: at least one sequence");
  book.expect(batch({{-1, -1}}).refusal(), "expected process_reward_loss: a labelled step");
  batch unlabelled({{-1, -1}, {}, {-1}});
  book.expect(unlabelled.loss({}, 3) == 0.0 && unlabelled.slopes == std::vector<double>(3, 0.0),
              "a micro-batch without a labelled step, of a step that has some");
  batch huge({{-1, 0, 0}});
  huge.scores = {0.0, 1.7e308, 1.7e308};
  book.expect(std::isfinite(huge.loss()) && huge.slopes[1] == 0.5, "losses that add up beyond the largest number");
  CHECK(book.cases >= 80);
  CHECK(book.failed == 0);
  proofs::extremes("process_reward", book.cases, book.failed);
}
