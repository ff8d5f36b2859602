// SPDX-License-Identifier: MIT
#include <attune/objective/pairwise/preference_loss.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include <attune/core/checksum.hpp>
#include <attune/core/random.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/proofs.hpp"

using namespace attune;

namespace {

struct batch {
  std::vector<double> chosen, rejected, ref_chosen, ref_rejected, dchosen, drejected;
  std::vector<std::size_t> chosen_tokens, rejected_tokens;

  explicit batch(std::size_t pairs, std::uint64_t seed) : dchosen(pairs), drejected(pairs) {
    random_stream stream(seed, 3);
    for (auto* const values : {&chosen, &rejected, &ref_chosen, &ref_rejected})
      for (std::size_t i = 0; i < pairs; ++i) values->push_back(-10.0 - 5.0 * stream.uniform());
    for (auto* const tokens : {&chosen_tokens, &rejected_tokens})
      for (std::size_t i = 0; i < pairs; ++i) tokens->push_back(1 + static_cast<std::size_t>(stream.below(6)));
  }
  pair_logps<double> logps() const {
    return {.chosen = chosen, .rejected = rejected, .ref_chosen = ref_chosen, .ref_rejected = ref_rejected,
            .chosen_tokens = chosen_tokens, .rejected_tokens = rejected_tokens};
  }
  double loss(preference_loss& of, pair_totals totals = {}) {
    return of(logps(), pair_slopes<double>{.chosen = dchosen, .rejected = drejected}, totals);
  }
};

std::string refusal(auto&& f) {
  try {
    f();
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

std::uint64_t checksum_of(preference_options const& o) {
  checksum64 sum;
  describe(o, sum);
  return sum.value();
}

}  // namespace

TEST_CASE("preference_loss: of one loss it is that loss, bit for bit") {
  for (named_pair_loss const& one : named_pair_losses()) {
    CAPTURE(one.name);
    batch a(5, 1), b(5, 1);
    preference_loss mixed({.losses = {{one.loss, 1.0}}});
    double const loss = a.loss(mixed, {.pairs = 5, .chosen_tokens = 40});
    std::visit(
        [&](auto const& o) {
          pair_slopes<double> const slopes{.chosen = b.dchosen, .rejected = b.drejected};
          if constexpr (PairObjective<std::remove_cvref_t<decltype(o)>>) {
            CHECK(loss == pair_loss(b.logps(), slopes, o, {.pairs = 5, .chosen_tokens = 40}));
          } else {
            aot_workspace w;
            CHECK(loss == aot_loss(b.logps(), slopes, o, w, {.pairs = 5}));
          }
        },
        one.loss);
    CHECK(a.dchosen == b.dchosen);
    CHECK(a.drejected == b.drejected);
  }
  proofs::law("weighted sum", "of one loss it is that loss, bit for bit");
}

TEST_CASE("preference_loss: a sum is the sum of its weighted terms, and its slopes are its own") {
  std::vector<weighted_pair_loss> const terms{
      {dpo_options{0.3}, 0.8}, {bco_pair_options{0.2}, 0.2}, {sft_term_options{}, 0.5}, {simpo_options{}, 2.0}};
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    batch b(4, seed);
    double expected = 0.0;
    std::vector<double> dchosen(4), drejected(4);
    for (weighted_pair_loss const& term : terms) {
      preference_loss one({.losses = {{term.loss, 1.0}}});
      expected += term.weight * b.loss(one);
      for (std::size_t i = 0; i < 4; ++i) {
        dchosen[i] += term.weight * b.dchosen[i];
        drejected[i] += term.weight * b.drejected[i];
      }
    }
    preference_loss sum({.losses = terms});
    CHECK(b.loss(sum) == doctest::Approx(expected).epsilon(1e-14));
    for (std::size_t i = 0; i < 4; ++i) {
      CHECK(b.dchosen[i] == doctest::Approx(dchosen[i]).epsilon(1e-13));
      CHECK(b.drejected[i] == doctest::Approx(drejected[i]).epsilon(1e-13));
    }
    auto const slopes = b.dchosen;
    CHECK(testing::check_gradient([&] { return b.loss(sum); }, b.chosen, slopes, 1.0).worst_error <= 1e-8);
  }
  proofs::law("weighted sum", "a sum is the sum of its weighted terms");
}

TEST_CASE("preference_loss: shares of micro-batches add up to the step, also for a mean over tokens") {
  preference_loss loss({.losses = {{dpo_options{}, 1.0}, {sft_term_options{}, 0.3}}});
  batch whole(6, 4);
  std::size_t tokens = 0;
  for (std::size_t const n : whole.chosen_tokens) tokens += n;
  double const expected = whole.loss(loss);
  double shares = 0.0;
  for (std::size_t first = 0; first < 6; first += 2) {
    batch part(2, 0);
    auto const take = [&](auto& to, auto const& from) { to.assign(from.begin() + static_cast<std::ptrdiff_t>(first), from.begin() + static_cast<std::ptrdiff_t>(first) + 2); };
    take(part.chosen, whole.chosen);
    take(part.rejected, whole.rejected);
    take(part.ref_chosen, whole.ref_chosen);
    take(part.ref_rejected, whole.ref_rejected);
    take(part.chosen_tokens, whole.chosen_tokens);
    take(part.rejected_tokens, whole.rejected_tokens);
    shares += part.loss(loss, {.pairs = 6, .chosen_tokens = tokens});
    for (std::size_t i = 0; i < 2; ++i) CHECK(part.dchosen[i] == whole.dchosen[first + i]);
  }
  CHECK(shares == doctest::Approx(expected).epsilon(1e-14));
}

TEST_CASE("preference_loss: float in, float out, through double; slopes may take the place of log-probabilities") {
  batch b(3, 2);
  preference_loss loss({.losses = hinge_options{}});
  std::vector<float> chosen(b.chosen.begin(), b.chosen.end()), rejected(b.rejected.begin(), b.rejected.end()),
      ref_chosen(b.ref_chosen.begin(), b.ref_chosen.end()), ref_rejected(b.ref_rejected.begin(), b.ref_rejected.end());
  b.chosen.assign(chosen.begin(), chosen.end());
  b.rejected.assign(rejected.begin(), rejected.end());
  b.ref_chosen.assign(ref_chosen.begin(), ref_chosen.end());
  b.ref_rejected.assign(ref_rejected.begin(), ref_rejected.end());
  double const expected = b.loss(loss);
  float const got = loss(pair_logps<float>{.chosen = chosen, .rejected = rejected, .ref_chosen = ref_chosen, .ref_rejected = ref_rejected},
                         pair_slopes<float>{.chosen = chosen, .rejected = rejected});
  CHECK(got == static_cast<float>(expected));
  for (std::size_t i = 0; i < 3; ++i) CHECK(chosen[i] == static_cast<float>(b.dchosen[i]));
  std::size_t const before = allocations();
  b.loss(loss);
  CHECK(allocations() == before);
}

TEST_CASE("preference_loss: what has no effect is refused by the name of the loss") {
  auto const make = [](preference_options o) { return [o] { preference_loss{o}; }; };
  CHECK(refusal(make({.losses = nca_options{}, .ratios = {.divergence = {f_divergence_type::forward_kl}}})) ==
        "an f-divergence has no effect on the loss nca_pair");
  CHECK(refusal(make({.losses = {{dpo_options{}, 1.0}, {apo_options{}, 1.0}}, .ratios = {.divergence = {f_divergence_type::js_divergence}}})) ==
        "an f-divergence has no effect on the loss apo");
  CHECK(refusal(make({.losses = {{dpo_options{}, 1.0}, {sft_term_options{}, 1.0}}, .ratios = {.divergence = {f_divergence_type::js_divergence}}})) ==
        "no error");
  CHECK(refusal(make({.losses = simpo_options{}, .ratios = {.reference_free = true}})) == "expected reference_free only with a loss that has a reference");
  CHECK(refusal(make({.losses = simpo_options{}, .ratios = {.divergence = {f_divergence_type::forward_kl}}})) ==
        "expected an f-divergence only with a loss of the difference of two implied rewards");
  CHECK(refusal(make({.ratios = {.divergence = {f_divergence_type::forward_kl, 0.3}}})) ==
        "expected f_divergence_options.alpha as it is by default: only alpha_divergence has one, got 0.3");
  CHECK(refusal(make({.losses = std::vector<weighted_pair_loss>{}})) == "expected preference_options.losses: at least one");
  CHECK(refusal(make({.losses = {{dpo_options{}, 0.0}}})) == "expected preference_options.losses: a weight > 0 and finite, got 0");
  CHECK(refusal(make({.losses = hinge_options{-1.0}})) == "expected hinge_options.beta > 0 and finite, got -1");
  CHECK(refusal([] { validate(pair_ratios{.reference_free = true}, simpo_options{}); }) == "reference_free has no effect on the loss simpo");
}

TEST_CASE("preference_loss: without what no term reads, and not without what one does") {
  batch b(2, 1);
  preference_loss simpo({.losses = simpo_options{}}), free({.losses = ipo_options{.length = ipo_length::sum}, .ratios = {.reference_free = true}});
  b.ref_chosen.clear();
  b.ref_rejected.clear();
  CHECK_NOTHROW(b.loss(simpo));
  b.chosen_tokens.clear();
  b.rejected_tokens.clear();
  CHECK_NOTHROW(b.loss(free));
  CHECK(refusal([&] { b.loss(simpo); }) == "expected pair_loss: chosen_tokens.size() == chosen.size(), got 0");
  CHECK_FALSE(inputs_of({.losses = simpo_options{}}).reference);
  CHECK(inputs_of({.losses = {{simpo_options{}, 1.0}, {hinge_options{}, 1.0}}}).reference);
  CHECK(!inputs_of({.losses = hinge_options{}, .ratios = {.reference_free = true}}).reference);
  CHECK(reward_scale({.losses = {{sft_term_options{}, 1.0}, {hinge_options{0.3}, 1.0}}}) == 0.3);
  CHECK(reward_scale({.losses = sft_term_options{}}) == 1.0);
}

TEST_CASE("preference_loss: every option changes a run's identity") {
  std::vector<std::uint64_t> seen;
  auto const add = [&](preference_options const& o) {
    std::uint64_t const sum = checksum_of(o);
    CHECK(std::find(seen.begin(), seen.end(), sum) == seen.end());
    seen.push_back(sum);
  };
  for (named_pair_loss const& one : named_pair_losses()) {
    add({.losses = {{one.loss, 1.0}}});
    std::visit(
        [&](auto options) {
          for_each_option(options, [&](std::string const&, auto& field) {
            if constexpr (std::same_as<std::remove_cvref_t<decltype(field)>, double>) {
              auto const keep = field;
              field += 0.0625;
              add({.losses = {{options, 1.0}}});
              field = keep;
            }
          });
        },
        one.loss);
  }
  add({.losses = {{dpo_options{}, 0.5}}});
  add({.losses = {{dpo_options{}, 1.0}, {sft_term_options{}, 1.0}}});
  add({.ratios = {.reference_free = true}});
  add({.ratios = {.divergence = {f_divergence_type::alpha_divergence, 0.5}}});
  add({.ratios = {.divergence = {f_divergence_type::alpha_divergence, 0.25}}});
}

TEST_CASE("parse_pair_losses: names and weights, and what is neither is refused with the list of names") {
  pair_loss_sum const sum = parse_pair_losses("sigmoid:1,sft:0.005,apo_down");
  REQUIRE(sum.size() == 3);
  auto term = sum.begin();
  CHECK(std::holds_alternative<dpo_options>(term->loss));
  CHECK(term->weight == 1.0);
  ++term;
  CHECK(std::holds_alternative<sft_term_options>(term->loss));
  CHECK(term->weight == 0.005);
  ++term;
  CHECK(std::get<apo_options>(term->loss).anchor == apo_anchor::down);
  for (named_pair_loss const& one : named_pair_losses()) CHECK(parse_pair_losses(one.name).begin()->loss.index() == one.loss.index());
  auto const why = [](char const* text) { return refusal([&] { static_cast<void>(parse_pair_losses(text)); }); };
  CHECK(why("").find("no loss is called \"\"") != std::string::npos);
  CHECK(why("dpo").find("no loss is called \"dpo\"; names: sigmoid robust hinge") != std::string::npos);
  CHECK(why("sigmoid,").find("no loss is called \"\"") != std::string::npos);
  for (char const* const bad : {"sft:", "sft:x", "sft:1x", "sft:0", "sft:-1", "sft:nan", "sft:inf"})
    CHECK(why(bad).find("is no weight above 0, in \"sft:") != std::string::npos);
}

TEST_CASE("preference_loss: terms beyond double's range on either side are finite, never inf - inf") {
  batch b(2, 1);
  b.chosen = {1e308, -1e308};
  b.rejected = {-1e308, 1e308};
  b.ref_chosen = b.ref_rejected = {0.0, 0.0};
  preference_loss loss({.losses = {{ipo_options{1.0, ipo_length::sum}, 1e10}, {cpo_options{.cpo_alpha = 1e308}, 1e10}}});
  std::vector<double> const weights{1e300, 1e300};
  auto weighted = b.logps();
  weighted.weights = weights;
  for (pair_logps<double> const& logps : {b.logps(), weighted}) {
    CHECK(std::isfinite(loss(logps, pair_slopes<double>{.chosen = b.dchosen, .rejected = b.drejected})));
    for (std::size_t i = 0; i < 2; ++i) CHECK((std::isfinite(b.dchosen[i]) && std::isfinite(b.drejected[i])));
  }
}
