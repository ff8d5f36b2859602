// SPDX-License-Identifier: MIT
//
// The pairwise losses beside TRL's own code and beside their papers' formulas in mpmath: tests/golden/make_pairwise.py.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/pairwise/preference_loss.hpp>
#include <attune/objective/pairwise/wpo.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/golden_file.hpp"
#include "support/proofs.hpp"

using namespace attune;
using testing::relative_error;

namespace {

double or_default(golden_case const& c, char const* name, double value) {
  return c.fields.contains(name) ? c.number(name) : value;
}

preference_options options_of(golden_case const& c) {
  auto const names = named_pair_losses();
  std::vector<weighted_pair_loss> terms;
  for (std::size_t k = 0; k < c["loss"].size(); ++k) {
    weighted_pair_loss term{names[c.integers<std::size_t>("loss")[k]].loss, c["weights"][k]};
    std::visit(
        [&](auto& loss) {
          for_each_option(loss, [&](std::string const& name, auto& field) {
            if constexpr (std::same_as<std::remove_cvref_t<decltype(field)>, double>) {
              if (name == "delta") field = or_default(c, "gamma", 0.0);
              else if (name == "tau") field = or_default(c, "tau", 0.05);
              else if (name == "beta") field = or_default(c, "beta", 0.1);
              else field = or_default(c, name.c_str(), 0.0);
            }
          });
        },
        term.loss);
    terms.push_back(term);
  }
  preference_options o{.losses = terms};
  o.ratios.divergence.type = static_cast<f_divergence_type>(static_cast<int>(or_default(c, "divergence", 0)));
  o.ratios.divergence.alpha = or_default(c, "f_alpha", 0.5);
  o.ratios.reference_free = or_default(c, "reference_free", 0) != 0;
  return o;
}

struct worst_errors {
  std::size_t cases = 0;
  double value = 0.0, gradient = 0.0;
};

}  // namespace

TEST_CASE("pairwise: values and gradients are TRL's, and the papers'") {
  std::vector<golden_case> const cases = read_golden("pairwise.txt");
  CHECK(cases.size() >= 1500);
  std::map<std::pair<std::string, bool>, worst_errors> worst;
  for (golden_case const& c : cases) {
    preference_options const options = options_of(c);
    auto const lengths = c.integers<std::size_t>("lengths");
    std::size_t const pairs = lengths.size() / 2;
    double const ld_alpha = or_default(c, "ld_alpha", 1.0);
    bool const weighted = or_default(c, "weighted", 0) != 0;
    bool const per_token = c["logps"].size() != lengths.size() || ld_alpha != 1.0 || weighted;
    preference_loss loss(options);
    double value = 0.0;
    std::vector<double> slopes(c["slopes"].size());
    if (!per_token) {
      std::vector<std::size_t> const chosen_tokens(lengths.begin(), lengths.begin() + static_cast<std::ptrdiff_t>(pairs)),
          rejected_tokens(lengths.begin() + static_cast<std::ptrdiff_t>(pairs), lengths.end());
      std::span<double const> const logps(c["logps"]), ref(c["ref_logps"]);
      value = loss(pair_logps<double>{.chosen = logps.first(pairs), .rejected = logps.subspan(pairs),
                                      .ref_chosen = ref.first(pairs), .ref_rejected = ref.subspan(pairs),
                                      .chosen_tokens = chosen_tokens, .rejected_tokens = rejected_tokens},
                   pair_slopes<double>{.chosen = std::span(slopes).first(pairs), .rejected = std::span(slopes).subspan(pairs)});
    } else {
      // TRL has all chosen before all rejected; here they alternate, behind a prompt of one token.
      std::vector<std::size_t> first(1, 0);
      for (std::size_t const n : lengths) first.push_back(first.back() + n);
      sequences batch;
      std::vector<double> logps, ref, collisions;
      std::vector<std::size_t> origin;
      for (std::size_t b = 0; b < 2 * pairs; ++b) {
        std::size_t const from = b % 2 == 0 ? b / 2 : pairs + b / 2;
        batch.push_back(std::vector<token_id>(1, 0), std::vector<token_id>(lengths[from], 0));
        for (auto* const values : {&logps, &ref, &collisions}) values->push_back(NAN);  // never read
        origin.push_back(0);
        for (std::size_t t = first[from]; t < first[from + 1]; ++t) {
          logps.push_back(c["logps"][t]);
          ref.push_back(c["ref_logps"][t]);
          collisions.push_back(weighted ? c["collisions"][t] : 0.0);
          origin.push_back(weighted ? from : t);
        }
      }
      std::vector<double> ref_sums(2 * pairs), token_slopes(logps.size());
      desensitized_sums<double>(ref, batch, ld_alpha, ref_sums);
      if (!weighted) {
        pairs_on_tokens<preference_loss> objective(ref_sums, loss, {}, {}, ld_alpha);
        value = objective(batch.view(), std::span<double const>(logps), std::span<double>(token_slopes));
      } else {
        std::vector<double> sums(2 * pairs), weights(pairs), columns(4 * pairs), dchosen(pairs), drejected(pairs);
        desensitized_sums<double>(logps, batch, 1.0, sums);
        wpo_weights<double>(logps, collisions, batch, weights);
        std::vector<std::size_t> chosen_tokens(pairs), rejected_tokens(pairs);
        for (std::size_t i = 0; i < pairs; ++i) {
          columns[i] = sums[2 * i];
          columns[pairs + i] = sums[2 * i + 1];
          columns[2 * pairs + i] = ref_sums[2 * i];
          columns[3 * pairs + i] = ref_sums[2 * i + 1];
          chosen_tokens[i] = lengths[i];
          rejected_tokens[i] = lengths[pairs + i];
        }
        std::span<double const> const all(columns);
        value = loss(pair_logps<double>{.chosen = all.first(pairs), .rejected = all.subspan(pairs, pairs),
                                        .ref_chosen = all.subspan(2 * pairs, pairs), .ref_rejected = all.subspan(3 * pairs),
                                        .chosen_tokens = chosen_tokens, .rejected_tokens = rejected_tokens, .weights = weights},
                     pair_slopes<double>{.chosen = dchosen, .rejected = drejected});
        for (std::size_t i = 0; i < pairs; ++i) {
          sums[2 * i] = dchosen[i];
          sums[2 * i + 1] = drejected[i];
        }
        broadcast_desensitized<double>(sums, batch, 1.0, token_slopes);
      }
      for (std::size_t t = 0; t < origin.size(); ++t)
        if (batch.view().mask[t] != 0) slopes[origin[t]] = token_slopes[t];
    }
    std::string name(named_pair_losses()[c.integers<std::size_t>("loss")[0]].name);
    if (c["loss"].size() > 1) name = "weighted sum";
    else if (options.ratios.divergence.type != f_divergence_type::reverse_kl) name = "f_divergence";
    else if (options.ratios.reference_free) name = "reference_free";
    else if (weighted) name = "wpo";
    else if (ld_alpha != 1.0) name = "ld_dpo";
    worst_errors& w = worst[{name, c.number("oracle") == 0.0}];
    ++w.cases;
    double const value_error = relative_error(value, c.number("value"), 1e-3);
    w.value = (std::max)(w.value, std::isnan(value_error) ? INFINITY : value_error);
    for (std::size_t i = 0; i < slopes.size(); ++i) {
      // PyTorch differentiates a sigmoid s as s (1 - s), which near 1 is off by its rounding, about 1e-16: no more than that
      // is asked of TRL's gradients.
      double const error = relative_error(slopes[i], c["slopes"][i], c.number("oracle") == 0.0 ? 1e-5 : 1e-12);
      if (!(error <= 1e-10)) {
        CAPTURE(name);
        CAPTURE(i);
        CHECK(slopes[i] == c["slopes"][i]);
      }
      w.gradient = (std::max)(w.gradient, std::isnan(error) ? INFINITY : error);
    }
  }
  for (auto const& [key, w] : worst) {
    CAPTURE(key.first);
    CHECK(w.value <= 1e-10);
    CHECK(w.gradient <= 1e-10);
    proofs::golden(key.first, key.second ? "TRL" : "mpmath", w.cases, w.value, w.gradient);
  }
}
