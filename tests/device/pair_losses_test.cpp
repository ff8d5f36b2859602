// SPDX-License-Identifier: MIT
#include <attune/device/pair_losses.hpp>

#include <cstddef>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/objective/pairwise/ipo.hpp>
#include <attune/objective/pairwise/orpo.hpp>
#include <attune/objective/pairwise/simpo.hpp>

#include "support/engine_checks.hpp"

using namespace attune;
using engine::launch_options;

namespace {

constexpr std::size_t pairs = 333;

struct batch {
  std::vector<float> chosen, rejected, ref_chosen, ref_rejected;
  std::vector<std::size_t> chosen_tokens, rejected_tokens;
  std::vector<double> weights;

  explicit batch(bool extreme) {
    random_stream random(5);
    for (auto* const some : {&chosen, &rejected, &ref_chosen, &ref_rejected})
      for (std::size_t i = 0; i < pairs; ++i) some->push_back(static_cast<float>(-60.0 + 15.0 * random.normal()));
    for (auto* const some : {&chosen_tokens, &rejected_tokens})
      for (std::size_t i = 0; i < pairs; ++i) some->push_back(1 + random.below(50));
    for (std::size_t i = 0; i < pairs; ++i) weights.push_back(random.uniform());
    if (extreme) {
      chosen[7] = 3e38f;
      rejected[7] = -3e38f;
    }
  }
};

template <class O>
void check(O const& options, bool weighted, pair_ratios ratios = {}) {
  batch const of(weighted);
  std::vector<float> c(pairs), r(pairs);
  pair_logps<float> logps{.chosen = of.chosen, .rejected = of.rejected, .ref_chosen = of.ref_chosen,
                          .ref_rejected = of.ref_rejected, .chosen_tokens = of.chosen_tokens,
                          .rejected_tokens = of.rejected_tokens};
  if (weighted) logps.weights = of.weights;
  pair_totals const totals{.pairs = 400, .chosen_tokens = 20000};
  double const expected = static_cast<double>(
      pair_loss(logps, pair_slopes<float>{.chosen = c, .rejected = r}, options, totals, ratios));
  for (launch_options const& launch : engine::schedules({.blocks = 3, .threads = 64})) {
    std::vector<float> chosen = of.chosen, rejected = of.rejected;  // in place
    std::vector<double> partials(3);
    device::pair_losses<O> body{.options = options,
                                .pairs = pairs,
                                .total = options.reads().per_chosen_token ? 20000.0 : 400.0,
                                .chosen = chosen.data(),
                                .rejected = rejected.data(),
                                .chosen_slopes = chosen.data(),
                                .rejected_slopes = rejected.data(),
                                .partials = partials.data(),
                                .divergence = ratios.divergence};
    if (options.reads().reference) {
      body.ref_chosen = of.ref_chosen.data();
      body.ref_rejected = of.ref_rejected.data();
    }
    if (options.reads().lengths) {
      body.chosen_tokens = of.chosen_tokens.data();
      body.rejected_tokens = of.rejected_tokens.data();
    }
    if (weighted) body.weights = of.weights.data();
    engine::run(launch, body);
    CHECK(chosen == c);
    CHECK(rejected == r);
    CHECK(static_cast<double>(saturate_cast<float>(partials[0] + partials[1] + partials[2])) == doctest::Approx(expected).epsilon(1e-6));
  }
}

}  // namespace

TEST_CASE("pair_losses: the bits of the host's slopes and its loss, for any loss of a pair") {
  check(dpo_options{}, false);
  check(dpo_options{.beta = 0.3, .label_smoothing = 0.1, .smoothing = dpo_smoothing::robust}, true);
  check(dpo_options{}, true, {.divergence = {.type = f_divergence_type::js_divergence}});
  check(ipo_options{}, false);
  check(simpo_options{}, false);
  check(orpo_options{}, true);
}

TEST_CASE("bradley_terry_losses: the bits of the host's slopes, with margins and without") {
  batch const of(false);
  bradley_terry_options const options{.center_rewards_coefficient = 0.01};
  for (bool const with_margin : {false, true}) {
    std::vector<float> c(pairs), r(pairs), chosen(pairs), rejected(pairs);
    pair_scores<float> const scores{.chosen = of.chosen, .rejected = of.rejected,
                                    .margin = with_margin ? std::span<double const>(of.weights) : std::span<double const>()};
    float const expected = bradley_terry_loss(scores, pair_slopes<float>{.chosen = c, .rejected = r}, options, 400);
    std::vector<double> partials(2);
    engine::run({.blocks = 2, .threads = 96, .order = engine::schedule::shuffled},
                device::bradley_terry_losses{.options = options,
                                             .pairs = pairs,
                                             .total = 400.0,
                                             .chosen = of.chosen.data(),
                                             .rejected = of.rejected.data(),
                                             .margin = with_margin ? of.weights.data() : nullptr,
                                             .chosen_slopes = chosen.data(),
                                             .rejected_slopes = rejected.data(),
                                             .partials = partials.data()});
    CHECK(chosen == c);
    CHECK(rejected == r);
    CHECK(saturate_cast<float>(partials[0] + partials[1]) == doctest::Approx(expected).epsilon(1e-6));
  }
}
