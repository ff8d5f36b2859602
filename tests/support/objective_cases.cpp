// SPDX-License-Identifier: MIT
#include "support/objective_cases.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <attune/core/random.hpp>
#include <attune/objective/cispo.hpp>
#include <attune/objective/gspo.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/pairwise/preference_loss.hpp>
#include <attune/objective/ppo.hpp>
#include <attune/objective/sapo.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/objective/unpaired/apo_zero_unpaired.hpp>
#include <attune/objective/unpaired/bco.hpp>
#include <attune/objective/unpaired/kto.hpp>
#include <attune/objective/unpaired/unpaired_loss.hpp>

#include "support/random_sequences.hpp"

namespace attune::test {
namespace {

double in_float(double x) { return static_cast<double>(static_cast<float>(x)); }

std::vector<double> normal(std::size_t count, double spread, std::uint64_t seed) {
  random_stream random(seed);
  std::vector<double> x(count);
  for (double& a : x) a = in_float(spread * random.normal());
  return x;
}

template <class O>
struct unpaired_on_tokens {
  std::vector<double> ref_sums;
  O options;
  double baseline;

  template <class T>
  T operator()(sequences_view batch, std::span<T const> logps, std::span<T> slopes) const {
    std::vector<double> sums(batch.size());
    std::vector<std::uint8_t> desirable(batch.size());
    for (std::size_t b = 0; b < batch.size(); ++b) desirable[b] = b % 2 == 0;
    sequence_sums(logps, batch, sums);
    double const loss = unpaired_loss<double>({sums, ref_sums, desirable}, sums, options, baseline);
    broadcast_slopes<T>(sums, batch, slopes);
    return static_cast<T>(loss);
  }
};

/// What the objectives borrow.
template <class T>
struct lent {
  std::vector<double> ref_sums;
  std::vector<T> old_logps, ref_logps, advantages;
};

}  // namespace

objective_batch::objective_batch()
    : text(random_sequences({9, 7, 12, 5, 8, 10}, vocabulary, 7)),
      logits(normal(tokens() * vocabulary, 2.0, 1)),
      hidden(normal(tokens() * width, 1.0, 2)),
      head(normal(vocabulary * width, 0.3, 3)) {}

template <class T>
std::vector<objective_case<T>> objective_cases(sequences_view batch, std::span<double const> logps) {
  auto const with = std::make_shared<lent<T>>();
  std::vector<double> const noise = normal(3 * logps.size(), 0.15, 4);
  for (std::size_t t = 0; t < logps.size(); ++t) {
    with->old_logps.push_back(static_cast<T>(in_float(logps[t] + noise[3 * t])));
    with->ref_logps.push_back(static_cast<T>(in_float(logps[t] + noise[3 * t + 1])));
    with->advantages.push_back(static_cast<T>(in_float(8.0 * noise[3 * t + 2])));
  }
  with->ref_sums.resize(batch.size());
  sequence_sums<T>(with->ref_logps, batch, with->ref_sums);
  for (std::size_t b = 0; b < batch.size(); ++b) with->ref_sums[b] += 0.7 * (b % 3 == 0 ? 1.0 : -0.5);

  std::vector<objective_case<T>> all;
  auto const add = [&](char const* family, std::string name, auto objective) {
    token_terms const wanted = terms_of<T>(objective);
    all.push_back({family, std::move(name), wanted,
                   [with, objective = std::move(objective)](sequences_view s, term_values<T const> const& of,
                                                            term_slopes<T> const& slopes) mutable {
                     if constexpr (TermedTokenObjective<decltype(objective), T>)
                       return static_cast<T>(objective(s, of, slopes));
                     else
                       return static_cast<T>(objective(s, of.logps, slopes.logps));
                   }});
  };
  add("SFT", "nll", sft_on_tokens{});
  add("SFT", "sequence mean", sft_on_tokens{.options = {.normalization = sft_normalization::sequence}});
  add("SFT", "label smoothing, z-loss", sft_on_tokens{.options = {.label_smoothing = 0.2, .z_loss_coef = 0.05}});
  add("SFT", "dft", sft_on_tokens{.options = {.loss_type = sft_loss_type::dft}});
  add("SFT", "entropy bonus", with_entropy_bonus(sft_on_tokens{}, 0.3));

  auto const add_pairwise = [&](std::string name, preference_options options, double ld_alpha = 1.0) {
    bool const reads_reference = inputs_of(options).reference;
    std::span<double const> const reference =
        reads_reference ? std::span<double const>(with->ref_sums) : std::span<double const>();
    add("DPO family", std::move(name),
        pairs_on_tokens<preference_loss>(reference, preference_loss(std::move(options)), {}, {}, ld_alpha));
  };
  for (named_pair_loss const& known : named_pair_losses())
    add_pairwise(std::string(known.name), {.losses = std::vector<weighted_pair_loss>{{known.loss, 1.0}}});
  add_pairwise("mixture", {.losses = parse_pair_losses("sigmoid:0.8,bco_pair:0.2,sft:1")});
  add_pairwise("reference-free", {.ratios = {.reference_free = true}});
  add_pairwise("Jensen-Shannon", {.ratios = {.divergence = {f_divergence_type::js_divergence}}});
  add_pairwise("LD-DPO", {}, 0.4);

  auto const add_policy_gradient = [&](std::string name, auto surrogate, kl_loss_options kl = {}) {
    add("PPO family", std::move(name),
        policy_gradient_on_tokens<T, decltype(surrogate)>{.old_logps = with->old_logps,
                                                          .advantages = with->advantages,
                                                          .ref_logps = with->ref_logps,
                                                          .options = surrogate,
                                                          .kl_loss = kl});
  };
  add_policy_gradient("ppo", ppo_options{});
  add_policy_gradient("ppo, k3", ppo_options{},
                      {.kl_loss_coef = 0.1, .kl_loss_estimator = kl_estimator::k3, .bias_correction = true});
  add_policy_gradient("gspo", gspo_options{.cliprange = 0.2, .cliprange_high = 0.2});
  add_policy_gradient("cispo", cispo_options{});
  add_policy_gradient("sapo", sapo_options{});

  add("unpaired", "kto", unpaired_on_tokens<kto_options>{with->ref_sums, {}, 0.3});
  add("unpaired", "bco", unpaired_on_tokens<bco_options>{with->ref_sums, {}, 0.1});
  add("unpaired", "apo_zero", unpaired_on_tokens<apo_zero_unpaired_options>{with->ref_sums, {}, 0.0});
  return all;
}

template std::vector<objective_case<float>> objective_cases(sequences_view, std::span<double const>);
template std::vector<objective_case<double>> objective_cases(sequences_view, std::span<double const>);

}  // namespace attune::test
